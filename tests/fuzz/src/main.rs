//! Fuzzing without a fuzzer: `farm-fuzz run TARGET SECONDS` tries inputs that are made of the corpus by chance, and
//! `farm-fuzz try TARGET FILE…` tries those. `farm-fuzz seeds` writes the inputs to begin with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use farm_fuzz::{Mutations, TARGETS, Target};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["run", name, seconds] => run(target(name)?, Duration::from_secs(seconds.parse().context("seconds")?)),
        ["try", name, ref files @ ..] => {
            let target = target(name)?;
            for file in files {
                (target.run)(&std::fs::read(file).with_context(|| format!("cannot read `{file}`"))?);
            }
            Ok(())
        }
        ["seeds"] => seeds(),
        _ => bail!("usage: farm-fuzz run TARGET SECONDS | try TARGET FILE… | seeds"),
    }
}

fn target(name: &str) -> Result<Target> {
    farm_fuzz::target(name).with_context(|| format!("there is no target `{name}`"))
}

/// Tells the input if it is the one with which the target panics.
struct InHand<'a>(&'a [u8]);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let file = std::env::temp_dir().join(format!("farm-fuzz-{}", std::process::id()));
            match std::fs::write(&file, self.0) {
                Ok(()) => eprintln!("the input is in {}", file.display()),
                Err(error) => eprintln!("the input is {:?}, and was not written: {error}", self.0),
            }
        }
    }
}

fn run(target: Target, time: Duration) -> Result<()> {
    let corpus = target.inputs().context("cannot read the corpus")?;
    let start = Instant::now();
    // Other inputs each time: what a run has not found, the next one may.
    let seed = u64::from(std::process::id()) << 32 | u64::from(start_nanos());
    let mut count = 0_u64;
    for input in Mutations::new(&corpus, target.longest, seed) {
        if start.elapsed() >= time {
            break;
        }
        let in_hand = InHand(&input);
        (target.run)(in_hand.0);
        count += 1;
    }
    println!("{}: {count} inputs in {} s, none of them bad", target.name, start.elapsed().as_secs());
    Ok(())
}

fn start_nanos() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.subsec_nanos())
}

fn seeds() -> Result<()> {
    for target in TARGETS {
        let folder = target.corpus();
        std::fs::create_dir_all(&folder)?;
        for (name, input) in (target.seeds)() {
            std::fs::write(folder.join(name), input)?;
        }
    }
    Ok(())
}
