//! Runs seeds and says what happened: `cargo xtask sim --seeds N [--seed S] [--trace]`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use farm_sim::{Stats, regressions, run};

/// With so many seeds, each kind of event has to have happened.
const ENOUGH: u64 = 2_000;
/// After so many failures, the rest is not worth the while.
const MOST_FAILURES: usize = 5;

const USAGE: &str = "\
Usage: farm-sim [--seeds N] [--seed S] [--trace]

  --seeds N   run so many seeds after those that failed once [default: 2000]
  --seed S    begin with this one; without --seeds, run it alone
  --trace     say what happens, step by step
";

struct Options {
    seeds: u64,
    first: Option<u64>,
    trace: bool,
}

fn main() -> ExitCode {
    match options().and_then(|options| options.map_or(Ok(()), |options| simulate(&options))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Option<Options>> {
    let mut seeds = None;
    let mut options = Options { seeds: ENOUGH, first: None, trace: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            text.parse().with_context(|| format!("{argument} needs a number, and {text:?} is none"))
        };
        match argument.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--seed" => options.first = Some(number()?),
            "--trace" => options.trace = true,
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(None);
            }
            other => bail!("I do not understand `{other}`\n\n{USAGE}"),
        }
    }
    options.seeds = seeds.unwrap_or_else(|| if options.first.is_some() { 1 } else { ENOUGH });
    Ok(Some(options))
}

fn simulate(options: &Options) -> Result<()> {
    // What goes wrong is told once, with its seed; where it was found, to those who look at one.
    let alone = options.seeds == 1;
    std::panic::set_hook(Box::new(move |panic| {
        if let Some(place) = panic.location().filter(|_| alone) {
            eprintln!("at {place}");
        }
    }));
    let start = Instant::now();
    let first = options.first.unwrap_or(0);
    let old = if options.first.is_some() { Vec::new() } else { regressions() };
    let seeds: Vec<u64> = old.into_iter().chain(first..first.saturating_add(options.seeds)).collect();
    let next = AtomicU64::new(0);
    let total = Mutex::new((Stats::default(), Vec::new(), 0u64));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..if options.trace { 1 } else { threads } {
            scope.spawn(|| {
                while let Some(&seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    let report = run(seed, options.trace);
                    report.trace.iter().for_each(|line| println!("{line}"));
                    let mut total = match total.lock() {
                        Ok(total) => total,
                        Err(poisoned) => poisoned.into_inner(),
                    };
                    if let Some(failure) = report.failure {
                        eprintln!("seed {seed} failed: {failure}\nagain: cargo xtask sim --seed {seed} --trace\n");
                        total.1.push(seed);
                    }
                    total.0.merge(&report.stats);
                    total.2 += 1;
                    if total.1.len() >= MOST_FAILURES {
                        return;
                    }
                }
            });
        }
    });
    let (stats, mut failed, count) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let seconds = start.elapsed().as_secs_f64();
    if !options.trace {
        println!("{stats}");
    }
    println!("{count} seeds in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    if !failed.is_empty() {
        failed.sort_unstable();
        bail!("these seeds failed: {failed:?}");
    }
    if options.seeds >= ENOUGH && !stats.missing().is_empty() {
        bail!("this never happened: {}", stats.missing().join(", "));
    }
    Ok(())
}
