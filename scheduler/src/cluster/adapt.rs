//! How many workers an adaptive cluster wants.

use std::time::Duration;

use tokio::time::Instant;

/// Follows the demand upwards at once, and downwards when it has been lower for the whole idle time: then to the most
/// that was wanted within it.
#[derive(Debug, Default)]
pub(crate) struct Adaptation {
    /// Since when no more than what was wanted, the oldest first and descending: what is followed by more is forgotten.
    wanted: Vec<(Instant, u32)>,
}

impl Adaptation {
    /// How many workers are wanted if `demand` slots have work and a worker has `slots`.
    pub(crate) fn wanted(&mut self, now: Instant, demand: u64, slots: u32, bounds: (u32, u32), idle: Duration) -> u32 {
        let (min, max) = bounds;
        let workers = demand.div_ceil(u64::from(slots.max(1)));
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).clamp(min, max.max(min));
        let mut since = now;
        while let Some(&(from, before)) = self.wanted.last()
            && before <= workers
        {
            // What came before that was more, and has not been wanted since then.
            since = from;
            self.wanted.pop();
        }
        self.wanted.push((since, workers));
        // Each was wanted until the next one came.
        while let [_, (since, _), ..] = self.wanted.as_slice()
            && *since + idle <= now
        {
            self.wanted.remove(0);
        }
        // Bounds may have been narrowed since.
        self.wanted.first().map_or(workers, |&(_, most)| most).clamp(min, max.max(min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    #[test]
    fn it_follows_upwards_at_once_and_downwards_after_a_while() {
        let start = Instant::now();
        let mut adaptation = Adaptation::default();
        let mut at = |s: u64, demand| adaptation.wanted(start + Duration::from_secs(s), demand, 2, (1, 10), IDLE);
        assert_eq!(at(0, 0), 1, "never less than the least");
        assert_eq!(at(1, 7), 4);
        assert_eq!(at(2, 1_000), 10, "never more than the most");
        assert_eq!(at(3, 4), 10);
        assert_eq!(at(62, 4), 10);
        assert_eq!(at(63, 4), 2);
        assert_eq!(at(64, 0), 2);
        assert_eq!(at(123, 0), 2);
        assert_eq!(at(124, 0), 1);
    }

    #[test]
    fn bursts_do_not_make_it_thrash() {
        let start = Instant::now();
        let mut adaptation = Adaptation::default();
        for second in 0..600 {
            // Work for ten, for five seconds of every thirty.
            let demand = if second % 30 < 5 { 10 } else { 0 };
            let wanted = adaptation.wanted(start + Duration::from_secs(second), demand, 1, (0, 100), IDLE);
            assert_eq!(wanted, 10, "after {second} s");
        }
        assert!(adaptation.wanted.len() < 4);
    }

    #[test]
    fn other_bounds_count_at_once() {
        let start = Instant::now();
        let mut adaptation = Adaptation::default();
        assert_eq!(adaptation.wanted(start, 8, 1, (0, 8), IDLE), 8);
        assert_eq!(adaptation.wanted(start + IDLE / 2, 8, 1, (0, 3), IDLE), 3);
        assert_eq!(adaptation.wanted(start + IDLE / 2, 0, 1, (5, 5), IDLE), 5);
    }
}
