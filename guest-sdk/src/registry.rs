//! The functions of a module.
//!
//! Each `#[farm::function]` submits an entry through `inventory`. On WebAssembly such an entry is linked into a list by
//! a constructor: some twenty instructions in each new instance, which the exports of `abi` run before anything else.
//! A table made by the linker would cost nothing, but LLVM's WebAssembly linker cannot be told from Rust to make one:
//! there, `#[link_section]` makes a custom section, which is not in memory.

use std::fmt;

use crate::failure::Failure;

/// What comes of a call: a JSON text, or bytes where the function is raw.
pub type Outcome = Result<Vec<u8>, Failure>;

/// One function, as the macro submits it.
pub struct Function {
    /// The name by which it is called.
    pub name: &'static str,
    /// The line of the custom section without its newline, in pieces: between them go the schemas.
    pub summary: &'static [&'static str],
    /// The file that holds it.
    pub file: &'static str,
    /// Its line there.
    pub line: u32,
    /// Reads the input, calls, writes the result.
    pub call: fn(Vec<u8>) -> Outcome,
    /// Makes the JSON Schemas of its parameters and of its result, as JSON texts. A raw function has none.
    pub schemas: fn() -> Vec<String>,
}

inventory::collect!(Function);

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Calls the function of that name.
pub(crate) fn call(name: &str, input: Vec<u8>) -> Outcome {
    match inventory::iter::<Function>().find(|function| function.name == name) {
        Some(function) => (function.call)(input),
        None => Err(no_such_function()),
    }
}

/// All functions, in the order of the source.
pub(crate) fn sorted() -> Vec<&'static Function> {
    let mut functions: Vec<&Function> = inventory::iter::<Function>().collect();
    // The one sort of the standard library that takes little code; there are few functions.
    functions.sort_unstable_by_key(|function| (function.file, function.line));
    functions
}

#[cold]
fn no_such_function() -> Failure {
    let names: Vec<&str> = sorted().iter().map(|function| function.name).collect();
    Failure::NoSuchFunction(names.join(", "))
}
