//! What any bytes may do to farm: each target is a function of bytes that panics if farm does what it must not.
//!
//! They are called by three:
//!
//! * `cargo-fuzz/`, where libFuzzer looks for inputs that reach new code (`cargo xtask fuzz`; needs a nightly compiler);
//! * `tests/corpus.rs`, an ordinary test: the inputs in `corpus/`, and some that are made of them by chance;
//! * the program of this package, which does the same for as long as one likes, where there is no fuzzer.
//!
//! An input that has found a fault goes to `corpus/TARGET/`, named for the fault.

mod core_operations;
mod frames;
mod mutation;
mod seeds;
mod store_recovery;
mod ticket;

use std::path::PathBuf;

pub use crate::core_operations::core_operations;
pub use crate::frames::frames;
pub use crate::mutation::{Mutations, SplitMix};
pub use crate::store_recovery::store_recovery;
pub use crate::ticket::ticket;

/// A function of any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics if the bytes make farm do what it must not.
    pub run: fn(&[u8]),
    /// How many inputs are tried by the ordinary test: as many as take about a second.
    pub inputs: usize,
    /// The longest input that makes sense.
    pub longest: usize,
    /// Inputs to begin with, each with a name.
    pub seeds: fn() -> Vec<(String, Vec<u8>)>,
}

/// All targets.
pub const TARGETS: [Target; 4] = [
    Target { name: "frames", run: frames, inputs: 30_000, longest: 4096, seeds: seeds::frames },
    Target { name: "ticket", run: ticket, inputs: 30_000, longest: 1024, seeds: seeds::ticket },
    Target {
        name: "core_operations",
        run: core_operations,
        inputs: 5_000,
        longest: 4096,
        seeds: seeds::core_operations,
    },
    Target { name: "store_recovery", run: store_recovery, inputs: 60, longest: 64, seeds: seeds::store_recovery },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

impl Target {
    /// Where its inputs are.
    pub fn corpus(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Its inputs, each with its name, in the order of these.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn inputs(&self) -> std::io::Result<Vec<(String, Vec<u8>)>> {
        let mut inputs = Vec::new();
        for entry in std::fs::read_dir(self.corpus())? {
            let entry = entry?;
            inputs.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
        }
        inputs.sort();
        Ok(inputs)
    }
}
