//! π by Monte Carlo: the share of random points of the unit square that are inside the quarter circle, times four.

use std::f64::consts::PI;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::terminal::thousands;
use super::{Demo, Job};

const TASKS: usize = 200;
const DARTS_PER_TASK: u64 = 1_000_000;

pub(crate) fn show(demo: &Demo<'_>) -> Result<()> {
    let arguments = Value::from(vec![json!(DARTS_PER_TASK); TASKS]);
    let results = demo.submit(&Job::arguments(demo, "pi", "hits", &arguments)?)?;
    let hits: Vec<u64> = serde_json::from_slice(&results).context("the results are not an array of numbers")?;
    ensure!(hits.len() == TASKS, "{} results for {TASKS} tasks", hits.len());

    let darts = DARTS_PER_TASK * TASKS as u64;
    let share = hits.iter().sum::<u64>() as f64 / darts as f64;
    let estimate = 4.0 * share;
    // The standard deviation of a binomial share, times four.
    let error = 4.0 * (share * (1.0 - share) / darts as f64).sqrt();
    println!("   {} darts: π = {estimate:.6} ± {error:.6}", thousands(darts));
    println!("   off by {:+.6}, {:.1} standard deviations", estimate - PI, (estimate - PI).abs() / error);
    ensure!((estimate - PI).abs() < 5.0 * error, "this is not π");
    Ok(())
}
