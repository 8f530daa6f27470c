//! A million squares: what a task costs when it does almost nothing.

use anyhow::{Context as _, Result, ensure};

use super::terminal::thousands;
use super::{Demo, Job};

const TASKS: u64 = 1_000_000;

pub(crate) fn show(demo: &Demo<'_>) -> Result<()> {
    let results = demo.submit(&Job::range("square", "square", TASKS))?;
    let squares: Vec<u64> = serde_json::from_slice(&results).context("the results are not an array of numbers")?;
    ensure!(squares.len() as u64 == TASKS, "{} results for {TASKS} tasks", squares.len());
    for (number, &square) in (0..).zip(&squares) {
        ensure!(square == number * number, "the square of {number} is not {square}");
    }
    println!("   all {} squares are right", thousands(TASKS));
    Ok(())
}
