//! How a scheduler that was killed and started again tells its peers: QUIC's stateless reset (RFC 9000, section 10.3).
//!
//! A process that is killed says goodbye to nobody, and the next one at its address does not know the old connections.
//! With a key that outlives the process, it can answer their packets with a token that only it and the peer know. So
//! peers notice with their next packet, a keep-alive at the latest, and not by an idle time-out.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use farm_proto::ids::Digest;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};

/// A keyed hash: with BLAKE3, putting the key in front is one.
pub(crate) struct ResetKey(Digest);

impl ResetKey {
    /// A key that tells nothing about the secret that it is made of.
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(Digest::of(&[b"farm: stateless reset\0", secret].concat()))
    }

    fn digest(&self, data: &[u8]) -> [u8; 32] {
        Digest::of(&[&self.0.0, data].concat()).0
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.digest(data));
    }

    fn signature_len(&self) -> usize {
        size_of::<Digest>()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // quinn only signs; of two digests that are compared, no time tells anything.
        if Digest::of(signature) == Digest::of(&self.digest(data)) { Ok(()) } else { Err(CryptoError) }
    }
}

/// Names of connections that say nothing. quinn's own are marked with a key of their process, and it does not answer
/// packets with names of other processes.
pub(crate) struct RandomIds {
    hasher: RandomState,
    count: u64,
}

impl RandomIds {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), count: 0 }
    }
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.count += 1;
        ConnectionId::new(&self.hasher.hash_one(self.count).to_le_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
