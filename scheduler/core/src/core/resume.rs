//! Workers that come back: what they still hold.

use farm_proto::ids::WorkerId;
use farm_proto::message::Resume;

use crate::core::Core;
use crate::event::Refused;

impl Core {
    pub(super) fn check_claims(&self, worker: WorkerId, resume: &Resume) -> Result<(), Refused> {
        if resume.claims.iter().any(|claim| claim.lease >= self.next_lease) {
            return Err(Refused::BadClaim(worker));
        }
        Ok(())
    }

    pub(super) fn resume(&mut self, _worker: WorkerId, _resume: &Resume) {}
}
