//! A particle physicist's job in two steps: a million Z → μμ events are made on the farm, and the Z is found in them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::fit::{Fit, fit};
use super::histogram::Histogram;
use super::svg::{self, Labels};
use super::terminal::{self, thousands};
use super::{Demo, Job};

const FILES: u64 = 100;
const EVENTS_PER_FILE: u64 = 10_000;

/// The range of the histogram in GeV, and its bins.
const LOW: f64 = 60.0;
const HIGH: f64 = 120.0;
const BINS: u64 = 60;

/// The mass of the Z in GeV (Particle Data Group, 2024), which the events are made with.
const Z_MASS: f64 = 91.188;

pub(crate) fn show(demo: &Demo<'_>) -> Result<()> {
    let folder = demo.folder().join("zmumu");
    generate(demo, &folder)?;
    let histogram = histogram(demo, &folder)?;
    let fit = fit(&histogram).context("the histogram has no peak")?;
    draw(demo, &histogram, &fit)?;
    ensure!((fit.peak.mass - Z_MASS).abs() < 0.02, "the peak is not that of the Z");
    Ok(())
}

/// Makes the events on the farm and writes one CSV file a task.
fn generate(demo: &Demo<'_>, folder: &std::path::Path) -> Result<()> {
    let arguments = Value::from(vec![json!(EVENTS_PER_FILE); FILES as usize]);
    let results = demo.submit(&Job::arguments(demo, "zmumu", "generate", &arguments)?)?;
    let tables: Vec<String> = serde_json::from_slice(&results).context("the results are not an array of tables")?;
    fs::create_dir_all(folder)?;
    for (number, table) in tables.iter().enumerate() {
        fs::write(folder.join(format!("{number:03}.csv")), table)?;
    }
    Ok(())
}

fn histogram(demo: &Demo<'_>, folder: &std::path::Path) -> Result<Histogram> {
    let arguments: Vec<Value> = (0..FILES)
        .map(|number| json!({"file": format!("{number:03}.csv"), "low": LOW, "high": HIGH, "bins": BINS}))
        .collect();
    let job = Job::arguments(demo, "zmumu", "histogram", &arguments.into())?.input("events", folder.to_path_buf());
    let results: Vec<Value> = serde_json::from_slice(&demo.submit(&job)?).context("the results are not an array")?;
    let rows: u64 = results.iter().filter_map(|part| part["rows"].as_u64()).sum();
    ensure!(rows == FILES * EVENTS_PER_FILE, "{rows} events were read");
    let parts = results.iter().map(Histogram::from_json).collect::<Result<Vec<_>>>()?;
    Histogram::sum(parts)
}

fn draw(demo: &Demo<'_>, histogram: &Histogram, fit: &Fit) -> Result<()> {
    for line in terminal::histogram(histogram, "GeV").lines() {
        println!("   {line}");
    }
    println!();
    let notes = [
        format!("{} pairs in {} events", thousands(histogram.total()), thousands(FILES * EVENTS_PER_FILE)),
        format!("M(Z) = {:.3} ± {:.3} GeV", fit.peak.mass, fit.mass_error),
        format!("made with {Z_MASS} GeV"),
        format!("resolution {:.2} GeV", fit.peak.resolution),
        format!("χ²/ndf = {:.1}/{}", fit.chi_square, fit.freedom),
    ];
    for note in &notes {
        println!("   {note}");
    }
    let svg = svg::histogram(
        histogram,
        Some(fit),
        Labels {
            title: "Z → μ⁺μ⁻, made and counted on the farm", quantity: "m(μ⁺μ⁻)", unit: "GeV", notes: &notes
        },
    );
    let path = demo.folder().join("zmumu.svg");
    fs::write(&path, svg).with_context(|| format!("cannot write `{}`", path.display()))?;
    println!("   the figure is {}", demo.relative(&path).display());
    Ok(())
}
