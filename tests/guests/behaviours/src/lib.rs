//! Functions that show what the SDK gives, one behaviour each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Adds what is given, and what is left out counts as 10.
#[farm::function]
pub fn add(a: i64, b: Option<i64>) -> i64 {
    a + b.unwrap_or(10)
}

/// A point of the plane.
#[derive(Serialize, Deserialize, farm::schemars::JsonSchema)]
#[schemars(crate = "farm::schemars")]
pub struct Point {
    /// To the right.
    x: f64,
    label: Option<String>,
}

/// Moves points to the right.
#[farm::function]
pub fn shift(points: Vec<Point>) -> Vec<Point> {
    points.into_iter().map(|point| Point { x: point.x + 1.0, ..point }).collect()
}

/// Bytes backwards.
#[farm::function(raw)]
pub fn reverse(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[farm::function]
pub fn panics(message: String) -> i64 {
    inner(&message)
}

#[inline(never)]
fn inner(message: &str) -> i64 {
    panic!("{message}");
}

#[farm::function]
pub fn refuses(reason: String) -> Result<(), String> {
    Err(reason)
}

/// Succeeds at the attempt of that number.
#[farm::function]
pub fn at_attempt(wanted: u32) -> Result<u32, String> {
    let attempt = farm::task().attempt;
    if attempt >= wanted { Ok(attempt) } else { Err(format!("attempt {attempt} is too early")) }
}

/// Facts of the task, and a number drawn for it.
#[farm::function]
pub fn facts(_x: i64) -> (u64, u64, u64) {
    (farm::task().index, farm::task().seed, farm::rng().u64())
}

/// Says things in every way there is.
#[farm::function]
pub fn talks(name: String) -> usize {
    farm::info!("hello {name}");
    farm::warn!("two\nlines");
    println!("on stdout");
    eprintln!("on stderr");
    name.len()
}

/// The environment, and the files below /in with their sizes.
#[farm::function]
pub fn surroundings(variable: String) -> Result<(Option<String>, BTreeMap<String, u64>), String> {
    let files = std::fs::read_dir("/in").map_err(|error| error.to_string())?.flatten();
    let sizes = files.map(|file| {
        let size = file.metadata().map(|metadata| metadata.len()).unwrap_or_default();
        (file.file_name().to_string_lossy().into_owned(), size)
    });
    Ok((std::env::var(variable).ok(), sizes.collect()))
}

/// How an attempt came to its end.
#[derive(Serialize, Deserialize, farm::schemars::JsonSchema)]
#[schemars(crate = "farm::schemars")]
pub struct Counted {
    /// Where it began.
    restored: Option<u64>,
    /// How far it counted from there.
    steps: u64,
}

/// Counts to `end`, and takes so many milliseconds for each step, behind which it keeps a checkpoint. `suspends`: as soon
/// as it should stop.
#[farm::function]
pub fn counts(end: u64, ms: u64, suspends: bool) -> Result<Counted, String> {
    let restored = match farm::restored() {
        Some(state) => Some(u64::from_le_bytes(state.try_into().map_err(|_| "not what was kept")?)),
        None => None,
    };
    let begin = restored.unwrap_or(0);
    for count in begin..end {
        std::thread::sleep(std::time::Duration::from_millis(ms));
        let state = (count + 1).to_le_bytes();
        farm::checkpoint(state).map_err(|error| error.to_string())?;
        farm::progress(count + 1, end);
        if suspends && farm::should_stop() {
            farm::suspend(state);
        }
    }
    Ok(Counted { restored, steps: end - begin })
}

/// Keeps so many bytes and fails; the next attempt tells how many there are, if they are the same.
#[farm::function]
pub fn keeps(bytes: usize) -> Result<usize, String> {
    let state: Vec<u8> = (0..bytes).map(|n| (n / 7) as u8).collect();
    match farm::restored() {
        Some(kept) if kept == state => Ok(kept.len()),
        Some(_) => Ok(usize::MAX),
        None => {
            farm::checkpoint(&state).map_err(|error| error.to_string())?;
            Err("once more".to_owned())
        }
    }
}

/// Gives itself back although nobody wants it to.
#[farm::function]
pub fn suspends(state: String) -> bool {
    if farm::should_stop() {
        return true;
    }
    farm::suspend(state)
}
