//! Small blobs in memory.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use farm_proto::ids::Digest;

/// Blobs in memory, up to a sum of bytes. The oldest go first: what is asked for again comes back from its file.
#[derive(Debug)]
pub(super) struct Cache {
    blobs: HashMap<Digest, Bytes>,
    /// In the order in which they came.
    order: VecDeque<Digest>,
    bytes: usize,
    limit: usize,
}

/// What a blob costs beside its bytes.
const OVERHEAD: usize = 128;

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self { blobs: HashMap::new(), order: VecDeque::new(), bytes: 0, limit }
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.blobs.get(digest).cloned()
    }

    pub(super) fn insert(&mut self, digest: Digest, bytes: Bytes) {
        let cost = bytes.len() + OVERHEAD;
        if self.blobs.insert(digest, bytes).is_some() {
            return;
        }
        self.bytes += cost;
        self.order.push_back(digest);
        while self.bytes > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            if let Some(bytes) = self.blobs.remove(&oldest) {
                self.bytes -= bytes.len() + OVERHEAD;
            }
        }
    }

    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(bytes) = self.blobs.remove(digest) {
            self.bytes -= bytes.len() + OVERHEAD;
            self.order.retain(|other| other != digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_when_there_is_no_room() {
        let mut cache = Cache::new(3 * (100 + OVERHEAD));
        let blob = |n: u8| (Digest::of(&[n]), Bytes::from(vec![n; 100]));
        for n in 0..5 {
            let (digest, bytes) = blob(n);
            cache.insert(digest, bytes.clone());
            cache.insert(digest, bytes);
        }
        let there: Vec<bool> = (0..5).map(|n| cache.get(&blob(n).0).is_some()).collect();
        assert_eq!(there, [false, false, true, true, true]);
        assert_eq!(cache.bytes, cache.limit);
        cache.remove(&blob(3).0);
        cache.remove(&blob(3).0);
        assert_eq!((cache.bytes, cache.order.len()), (2 * (100 + OVERHEAD), 2));
    }
}
