//! What `cargo xtask` says to somebody who does not know it yet.

use std::process::{Command, Output};

#[expect(clippy::expect_used, reason = "a test's panic is its report")]
fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().expect("xtask starts")
}

/// Asserts that the words are refused before anything is built, with a message that holds all of `parts`.
#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = xtask(arguments);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "no `{part}` in {message}");
    }
}

#[test]
fn without_a_task_the_tasks_are_listed() {
    for arguments in [&[][..], &["--help"], &["help"]] {
        let output = xtask(arguments);
        assert!(output.status.success());
        let usage = String::from_utf8_lossy(&output.stdout);
        for task in ["demo", "test", "guests"] {
            assert!(usage.contains(task), "no `{task}` in {usage}");
        }
    }
}

#[test]
fn what_there_is_not_is_answered_with_what_there_is() {
    refused(&["tset"], &["`tset`", "Usage: cargo xtask"]);
    refused(&["test", "--only", "everything"], &["`everything`", "fmt, clippy, doc, core, sim, build, test"]);
    refused(&["demo", "--only", "life"], &["`life`", "squares, pi, wordcount, mandelbrot, zmumu"]);
    refused(&["fuzz", "bugs"], &["`bugs`", "core_operations, frames, store_recovery, ticket"]);
    refused(&["guests", "--from", "source"], &["`source`", "`any`, `rustup` or `debian`"]);
}
