//! Looking at processes, and ending those that a test has started.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// Processes whose command line holds `mark`, which only a test's own have.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| command_line(*pid).is_some_and(|line| line.contains(mark))).collect()
}

fn command_line(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// Processes that `parent` has started and not buried.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    // A zombie has no command line.
    command_line(pid).is_some_and(|line| !line.is_empty())
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until something holds, for ten seconds at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Does something that should take less than `limit`, three times at most: the machine may be busy with other things.
#[track_caller]
pub(crate) fn within(limit: Duration, mut something: impl FnMut() -> Duration) {
    let took: Vec<_> = (0..3).map(|_| something()).take_while(|took| *took > limit).collect();
    assert!(took.len() < 3, "took {took:?}, three times longer than {limit:?}");
}
