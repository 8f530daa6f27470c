//! What a task may take of the machine's memory.

use wasmtime::{ResourceLimiter, Result};

/// Counts linear memories, tables and the heap of exceptions together.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: u64,
    used: u64,
    /// The last growth that was allowed, to take back if it fails for another reason.
    last: u64,
    /// Whether something was refused. A guest that then fails did so for want of memory, whatever it says.
    denied: bool,
}

impl Limiter {
    pub(super) const fn new(limit: u64) -> Self {
        Self { limit, used: 0, last: 0, denied: false }
    }

    pub(super) const fn was_denied(&self) -> bool {
        self.denied
    }

    fn grow(&mut self, more: u64) -> bool {
        let Some(used) = self.used.checked_add(more).filter(|used| *used <= self.limit) else {
            self.denied = true;
            return false;
        };
        self.used = used;
        self.last = more;
        true
    }

    const fn take_back(&mut self) {
        self.used = self.used.saturating_sub(self.last);
        self.last = 0;
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // Beyond its own maximum a memory does not grow, whatever the job allows.
        if current > 0 && maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        tracing::debug!("a memory did not grow: {error:#}");
        self.denied = true;
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if current > 0 && maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let elements = desired.saturating_sub(current);
        Ok(self.grow(elements.saturating_mul(size_of::<usize>()) as u64))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65_536;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut limiter = Limiter::new(3 * PAGE as u64);
        assert!(limiter.memory_growing(0, PAGE, None).unwrap());
        assert!(limiter.table_growing(0, PAGE / 8, None).unwrap());
        assert!(limiter.memory_growing(PAGE, 2 * PAGE, None).unwrap());
        assert!(!limiter.was_denied());
        assert!(!limiter.table_growing(PAGE / 8, PAGE / 8 + 1, None).unwrap());
        assert!(limiter.was_denied());
    }

    #[test]
    fn a_maximum_of_its_own_is_not_the_jobs_limit() {
        let mut limiter = Limiter::new(u64::MAX);
        assert!(limiter.memory_growing(0, PAGE, Some(PAGE)).unwrap());
        assert!(!limiter.memory_growing(PAGE, 2 * PAGE, Some(PAGE)).unwrap());
        assert!(!limiter.was_denied());
    }

    #[test]
    fn sizes_that_do_not_fit_a_number_are_refused() {
        let mut limiter = Limiter::new(u64::MAX - 1);
        assert!(limiter.memory_growing(0, PAGE, None).unwrap());
        assert!(!limiter.table_growing(0, usize::MAX, None).unwrap());
    }
}
