//! What holds for every message, column and ticket, with examples drawn by proptest.

mod columns;
mod frames;
mod messages;
mod tickets;

use proptest::test_runner::Config;

/// So many examples, and no file of those that failed: each is to become a test of its own.
fn examples(cases: u32) -> Config {
    Config { failure_persistence: None, ..Config::with_cases(cases) }
}
