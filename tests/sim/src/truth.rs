//! How the tasks of a job behave: what can become of them, whoever runs them.

use farm_proto::outcome::FailureKind;

use crate::dice::{Dice, MS};

/// A task's stored outcome: none for a value.
pub(crate) type Ending = Option<FailureKind>;

/// How an attempt ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Value,
    Failure(FailureKind),
    KillsSlot,
    KillsWorker,
}

/// What a job's module is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    Good,
    /// Workers find out before they run a task.
    DoesNotCompile,
    /// Each task finds out.
    NoSuchFunction,
}

#[derive(Debug, Clone)]
pub(crate) struct Truth {
    salt: u64,
    /// One task in so many is not a good one; 0 for none.
    bad: u64,
    /// Nanoseconds of most tasks. Some take ten times as long.
    time: u64,
    pub(crate) module: Module,
    /// The longest that a worker takes to fetch it, and to compile it, in milliseconds.
    pub(crate) prepare: u64,
}

impl Truth {
    pub(crate) fn draw(dice: &mut Dice, chaos: bool) -> Self {
        Self {
            salt: dice.next(),
            bad: if chaos { dice.pick(&[0, 4, 30, 300]) } else { 0 },
            time: dice.pick(&[MS / 20, MS, 20 * MS, 20 * MS, 1_500 * MS]),
            module: match dice.below(30) {
                0 if chaos => Module::DoesNotCompile,
                1 if chaos => Module::NoSuchFunction,
                _ => Module::Good,
            },
            prepare: dice.pick(&[1, 10, 300]),
        }
    }

    /// All tasks succeed, at once when they are leased, each within about `time` nanoseconds.
    #[cfg(test)]
    pub(crate) fn good(time: u64) -> Self {
        Self { salt: 0, bad: 0, time, module: Module::Good, prepare: 0 }
    }

    /// Many tasks are not long ones: a world has to come to its end.
    pub(crate) fn for_tasks(mut self, tasks: u64) -> Self {
        if tasks > 60 {
            self.time = self.time.min(MS);
        }
        self
    }

    fn dice(&self, task: u64) -> Dice {
        Dice::new(self.salt.wrapping_add(task.wrapping_mul(0x2545_f491_4f6c_dd1d)))
    }

    pub(crate) fn time_of(&self, task: u64) -> u64 {
        let mut dice = self.dice(task);
        if dice.once_in(50) { self.time * 10 } else { self.time / 2 + dice.below(self.time) }
    }

    pub(crate) fn end_of(&self, task: u64, attempt: u32) -> End {
        if self.module == Module::NoSuchFunction {
            return End::Failure(FailureKind::NoSuchFunction);
        }
        let mut dice = self.dice(!task);
        if !dice.once_in(self.bad) {
            return End::Value;
        }
        match dice.below(12) {
            0..=3 if u64::from(attempt) > dice.below(3) => End::Value,
            0..=3 => End::Failure(FailureKind::ReturnedError),
            4 | 5 => End::Failure(FailureKind::Trap),
            6 | 7 => End::Failure(FailureKind::Timeout),
            8..=10 => End::KillsSlot,
            _ if dice.once_in(2) => End::KillsWorker,
            _ => End::Value,
        }
    }

    /// Whether some attempt ends like this.
    pub(crate) fn allows(&self, task: u64, ending: Ending) -> bool {
        let end = ending.map_or(End::Value, End::Failure);
        (0..8).any(|attempt| self.end_of(task, attempt) == end)
    }
}
