//! Write functions for a farm: plain Rust functions that become WebAssembly.
//!
//! ```
//! # extern crate farm_sdk as farm;
//! /// The square of a number.
//! #[farm::function]
//! pub fn square(x: i64) -> Result<i64, String> {
//!     x.checked_mul(x).ok_or_else(|| format!("{x}² is beyond 64 bits"))
//! }
//! # assert_eq!(square(7), Ok(49));
//! ```
//!
//! The package is named `farm-sdk`; depend on it under the name `farm`, by which the macro finds it:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! farm = { package = "farm-sdk", version = "0.1" }
//! ```
//!
//! and build with `farm build`, or with plain cargo for one of two targets:
//!
//! * `wasm32-unknown-unknown`: a pure function. It can compute, and say something by [`info!`] and [`progress`]; there
//!   is no file, clock or environment that it could reach. The cheapest per task.
//! * `wasm32-wasip1`: standard input and output, clocks, and the files that the job mounts, through `std`.
//!
//! # What a function looks like
//!
//! [`function`](macro@function) goes on a function that is not generic, not `async`, not `unsafe` and not a method. It
//! takes any number of parameters, whose types read JSON (`serde::Deserialize`, owned), and gives a value that writes
//! JSON (`serde::Serialize`) or a `Result` of such a value and of any error that can be displayed. A module holds any
//! number of functions; no two of one crate have the same name.
//!
//! * A function of one parameter takes the JSON value itself, one of several an array (by position) or an object (by
//!   name), one of none `null`, `[]` or `{}`. A parameter of several that is an `Option` may be left out.
//! * An error is written with `{:#}`, which gives the whole chain of an `anyhow::Error`.
//! * `#[farm::function(raw)]` takes bytes (`&[u8]` or `Vec<u8>`) and gives bytes (`Vec<u8>`, or a `Result` of it).
//! * `#[farm::function(name = "…")]` gives it another name than that of the Rust function.
//! * `#[farm::function(crate = path)]` says where this crate is found, if not at `::farm`.
//!
//! Doc comments, parameter names and types travel with the module. Types that implement [`schemars::JsonSchema`] (most
//! of the standard library does) are described exactly, so that a wrong argument is refused before it is sent; of
//! others nothing is checked until the function reads them.
//!
//! JSON has no NaN and no infinities: as results they become `null`. Integers keep all of their bits.
//!
//! # What it can count on
//!
//! The function stays as written: call it from Rust, test it with `cargo test`. In a test the host's side is played by
//! [`testing`]: log lines go to standard error, the task is number 0 of job 0 unless the test says otherwise.
//!
//! Each task runs in a memory of its own, which is thrown away afterwards. Statics start anew for every task.
//!
//! Workers come and go, and a task that takes hours may outlive several. [`should_stop`] tells that the worker is about to
//! go, [`checkpoint`] keeps a state, and the task's next attempt begins with it ([`restored`]).

mod checkpoint;
mod describe;
mod failure;
mod host;
mod registry;
mod rng;
mod wrapper;

#[cfg(all(feature = "allocator", any(test, target_family = "wasm")))]
mod allocator;

#[cfg(target_family = "wasm")]
mod abi;
#[cfg(target_family = "wasm")]
#[rustfmt::skip]
#[expect(
    unsafe_code,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    reason = "made by wit-bindgen; tests/bindings.rs makes it again and compares"
)]
mod bindings;

pub mod testing;

pub use checkpoint::{TooLarge, checkpoint, restored, should_stop, suspend};
#[doc = include_str!("function.md")]
pub use farm_macros::function;
pub use host::{Level, Task, log, progress, task};
pub use rng::{Rng, rng};
/// For `#[derive(farm::schemars::JsonSchema)] #[schemars(crate = "farm::schemars")]`.
pub use schemars;

/// What the macros' output needs. No part of the interface: it changes without notice.
#[doc(hidden)]
pub mod __private {
    pub use std::string::String;
    pub use std::vec::Vec;

    pub use inventory;
    pub use serde;

    pub use crate::describe::{AnySchema, DerivedSchema, NoResult, Plain, Probe};
    pub use crate::failure::Failure;
    pub use crate::registry::{Function, Outcome};
    pub use crate::wrapper::{
        Argument, RawInput, RawResult, check_argument, read_argument, read_nothing, returned_error, write_result,
    };
}
