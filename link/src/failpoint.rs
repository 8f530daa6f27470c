//! Named points at which a process can be made to die, to prove that nothing is lost there.
//!
//! They exist only in builds with the feature `__failpoints`, which no build for users has; in others [`hit`] is
//! nothing at all. In such a build, `FARM_FAILPOINT=NAME` makes the process kill itself (SIGKILL: nothing is flushed,
//! nobody is told) when it comes to the point of that name, `NAME:3` when it comes there for the third time.

/// All points, in the order of a task's way.
pub const NAMES: [&str; 18] = [
    // A ticket has come from someone who has no certificate yet, and was not looked at.
    "scheduler.enrol",
    // The client has been told that its job was accepted, and has told nobody.
    "client.submitted",
    // A job's fact is on its way to the disk.
    "scheduler.accept.before-commit",
    // It is there, and the client has not been told.
    "scheduler.accept.after-commit",
    // A blob is written under a temporary name.
    "scheduler.blob.before-rename",
    // It has its name, and nobody has been told.
    "scheduler.blob.after-rename",
    // A worker's `Open::Control` has been read, and not answered.
    "scheduler.join",
    // A lease has come to a worker, which has not looked at it.
    "worker.lease",
    // Outcomes are out of the slot and nowhere else.
    "worker.result",
    // A worker that comes back has said what it has, and heard nothing.
    "worker.resume",
    // Results have come to the scheduler, and are not on disk.
    "scheduler.batch.before-commit",
    // They are, and their worker has not been told.
    "scheduler.batch.after-commit",
    // A worker has been told that answers are on disk, and has dropped them.
    "worker.stored",
    // A client has got results, and not yet passed them on.
    "client.batch",
    // A checkpoint has come to the scheduler, and is not on disk.
    "scheduler.checkpoint.before-commit",
    // It is, and its worker has not been told.
    "scheduler.checkpoint.after-commit",
    // A job's end (of any kind) is on its way to the disk.
    "scheduler.end.before-commit",
    // It is there, and nobody has been told.
    "scheduler.end.after-commit",
];

/// Whether this build has fail points.
pub const ENABLED: bool = cfg!(feature = "__failpoints");

/// Dies here, if this is the point and the time to do so.
#[cfg(feature = "__failpoints")]
pub fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    debug_assert!(NAMES.contains(&name), "{name:?} is not in the list of fail points");
    let chosen = CHOSEN.get_or_init(|| std::env::var("FARM_FAILPOINT").ok().and_then(|text| parse(&text)));
    if let Some((chosen, at)) = chosen
        && chosen == name
        && HITS.fetch_add(1, Ordering::Relaxed) + 1 == *at
    {
        // Cannot fail: every process may kill itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment, in which nothing more must happen.
        std::thread::park();
    }
}

/// Nothing, in builds without the feature `__failpoints`.
#[cfg(not(feature = "__failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// How far ahead a scheduler's clock is: as many seconds as `FARM_CLOCK_AHEAD` says, so that it can be set back for the
/// next.
#[cfg(feature = "__failpoints")]
pub fn clock_ahead() -> std::time::Duration {
    use std::sync::OnceLock;

    static SECONDS: OnceLock<u64> = OnceLock::new();

    let text = || std::env::var("FARM_CLOCK_AHEAD").ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    std::time::Duration::from_secs(*SECONDS.get_or_init(text))
}

/// Nothing, in builds without the feature `__failpoints`.
#[cfg(not(feature = "__failpoints"))]
#[inline(always)]
pub fn clock_ahead() -> std::time::Duration {
    std::time::Duration::ZERO
}

/// A name, and at which hit.
#[cfg(any(test, feature = "__failpoints"))]
fn parse(text: &str) -> Option<(String, u64)> {
    let (name, at) = text.split_once(':').unwrap_or((text, "1"));
    match at.parse() {
        Ok(at @ 1..) if NAMES.contains(&name) => Some((name.to_owned(), at)),
        _ => {
            tracing::error!("FARM_FAILPOINT={text:?} names no fail point");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_named_with_or_without_a_number() {
        let named = |name: &str, at| Some((name.to_owned(), at));
        assert_eq!(parse("worker.result"), named("worker.result", 1));
        assert_eq!(parse("scheduler.batch.after-commit:12"), named("scheduler.batch.after-commit", 12));
        for bad in ["", "worker.resul", "worker.result:", "worker.result:0", "worker.result:x", ":1"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[cfg(feature = "__failpoints")]
    #[test]
    fn the_process_dies_at_the_hit_that_was_chosen() {
        use std::os::unix::process::ExitStatusExt as _;

        if std::env::var_os("FARM_FAILPOINT").is_some() {
            hit("worker.lease");
            hit("worker.result");
            // The child of the other branch: which hit kills it is up to that.
            println!("alive");
            hit("worker.result");
            return;
        }
        let run = |point: &str| {
            let mut command = std::process::Command::new(std::env::current_exe().expect("this test"));
            command.args(["--exact", "failpoint::tests::the_process_dies_at_the_hit_that_was_chosen", "--nocapture"]);
            let output = command.env("FARM_FAILPOINT", point).output().expect("a child");
            (output.status.signal(), String::from_utf8_lossy(&output.stdout).contains("alive"))
        };
        assert_eq!(run("worker.result:2"), (Some(9), true));
        assert_eq!(run("worker.result"), (Some(9), false));
        assert_eq!(run("worker.result:3"), (None, true));
    }
}
