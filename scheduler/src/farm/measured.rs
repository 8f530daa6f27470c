//! What tasks of a function take, remembered from job to job: the first leases of the next job have the right size.

use std::collections::{HashMap, VecDeque};

use farm_proto::ids::Digest;

/// Functions that are remembered.
const MOST: usize = 1024;

/// Nanoseconds a task, by module and function. The first that were measured are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Measured {
    nanos: HashMap<(Digest, String), u64>,
    order: VecDeque<(Digest, String)>,
}

impl Measured {
    pub(super) fn get(&self, module: Digest, function: &str) -> Option<u64> {
        self.nanos.get(&(module, function.to_owned())).copied()
    }

    pub(super) fn set(&mut self, module: Digest, function: &str, nanos: u64) {
        let key = (module, function.to_owned());
        if self.nanos.insert(key.clone(), nanos).is_some() {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.nanos.remove(&oldest);
        }
    }
}
