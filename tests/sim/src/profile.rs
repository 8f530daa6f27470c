//! Kinds of bad luck: each world has one, so that each kind of trouble also comes alone and in abundance.

use crate::dice::Dice;

/// Something that goes wrong, or that somebody does, at a random moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mishap {
    KillWorker,
    KillSlot,
    Freeze,
    BreakLink,
    BreakWatch,
    Drain,
    Terminate,
    CrashScheduler,
    /// The next commit is the last of this life.
    CrashAtCommit,
    /// The scheduler dies in the midst of doing what the core asks for.
    CrashInDrain,
    StopScheduler,
    Spawn,
    Cancel,
    AskWhy,
}

/// What a world is like.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) name: &'static str,
    /// Mishaps and their weights.
    mishaps: &'static [(Mishap, u64)],
    /// The longest time between two of them, in milliseconds.
    pub(crate) pause: u64,
    /// One message of a client in so many is lost; 0 for none.
    pub(crate) client_loss: u64,
    /// Of a hundred jobs, how many need an earlier one.
    pub(crate) graphs: u64,
    /// Whether tasks misbehave.
    pub(crate) bad_tasks: bool,
}

use Mishap::{
    AskWhy, BreakLink, BreakWatch, Cancel, CrashAtCommit, CrashInDrain, CrashScheduler, Drain, Freeze, KillSlot,
    KillWorker, Spawn, StopScheduler, Terminate,
};

const CALM: &[(Mishap, u64)] = &[(AskWhy, 1), (Cancel, 1)];
const NETWORK: &[(Mishap, u64)] = &[(BreakLink, 10), (BreakWatch, 4), (AskWhy, 4), (Freeze, 2)];
const RESTARTS: &[(Mishap, u64)] =
    &[(CrashScheduler, 2), (CrashAtCommit, 3), (CrashInDrain, 3), (StopScheduler, 1), (AskWhy, 3), (Cancel, 1)];
const WORKERS: &[(Mishap, u64)] =
    &[(KillWorker, 4), (KillSlot, 5), (Freeze, 3), (Drain, 2), (Terminate, 2), (Spawn, 2), (AskWhy, 4), (BreakLink, 1)];
const EVERYTHING: &[(Mishap, u64)] = &[
    (KillWorker, 2),
    (KillSlot, 3),
    (Freeze, 2),
    (BreakLink, 4),
    (BreakWatch, 2),
    (Drain, 1),
    (Terminate, 1),
    (CrashScheduler, 1),
    (CrashAtCommit, 2),
    (CrashInDrain, 2),
    (StopScheduler, 1),
    (Spawn, 2),
    (Cancel, 2),
    (AskWhy, 5),
];

impl Profile {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let mut profile = match dice.below(12) {
            0 => Self::new("calm", CALM),
            1 | 2 => Self::new("network", NETWORK),
            3 | 4 => Self::new("restarts", RESTARTS),
            5 | 6 => Self::new("workers", WORKERS),
            _ => Self::new("everything", EVERYTHING),
        };
        profile.pause = dice.pick(&[40, 150, 150, 600]);
        profile.graphs = dice.pick(&[0, 30, 60]);
        if profile.name == "calm" {
            profile.bad_tasks = dice.once_in(2);
            profile.client_loss = 0;
        }
        profile
    }

    const fn new(name: &'static str, mishaps: &'static [(Mishap, u64)]) -> Self {
        Self { name, mishaps, pause: 150, client_loss: 12, graphs: 30, bad_tasks: true }
    }

    pub(crate) fn mishap(&self, dice: &mut Dice) -> Mishap {
        let mut at = dice.below(self.mishaps.iter().map(|&(_, weight)| weight).sum());
        for &(mishap, weight) in self.mishaps {
            if at < weight {
                return mishap;
            }
            at -= weight;
        }
        AskWhy
    }
}
