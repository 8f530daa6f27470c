//! What a module is, told without running it.
//!
//! [`prepare`] turns a file into the bytes that travel and says what is in them. A client calls it before anything is
//! uploaded; a worker never needs to, because the digest of a job's module covers the prepared bytes and their
//! descriptions.
//!
//! Preparing is idempotent: `prepare(prepare(x).bytes)` gives the same bytes again, and so the same digest.
//!
//! # Names of functions
//!
//! An SDK function has the name that its module gives it, a core function the name of its export. A function of a typed
//! component is called `name` where the component exports it at the top, and `interface#name` where it is in an
//! exported interface: `docs:adder/add@0.1.0#add`. [`ModuleInfo::find`] also takes a shorter form which fits only one
//! of them: `docs:adder/add#add`, `add#add` or `add`.
//!
//! # WIT and JSON
//!
//! | WIT | JSON |
//! |---|---|
//! | `bool`, `string`, integers | the same; integers are exact up to 64 bits |
//! | `f32`, `f64` | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"`, for which JSON has no number |
//! | `char` | a string of one character |
//! | `list`, `tuple` | an array; a `list<u8>` argument also `{"base64": "…"}` |
//! | `record` | an object; an `option` field may be left out |
//! | `variant` | `{"case": payload}`, or `"case"` where it has none |
//! | `enum` | a string |
//! | `option` | `null` or the value; `{"some": value}` where the value itself may be `null` |
//! | `result` | `{"ok": value}` or `{"err": value}`; as a function's whole result, the value or a failure |
//! | `flags` | an array of names |
//!
//! Resources, streams and futures have no JSON. `map` and fixed-length lists are proposals that the engine has off.
//!
//! Core modules have numbers only: integers of either sign as parameters and signed ones as results, floats as above,
//! several results as an array.

use farm_proto::ids::Digest;
use farm_proto::job::{CommandOptions, ModuleKind, ResultEncoding};
use serde::{Deserialize, Serialize, Serializer};

mod argument;
mod component;
mod core;
mod describe;
mod encode;
mod imports;
mod prepare;
mod schema;
mod wit;

pub use argument::{ArgumentChecker, ArgumentError};
pub use encode::{compact_json, encode_argument};
pub use imports::Capability;
pub use prepare::prepare;

pub(crate) use encode::{as_base64_object, json_string};
pub(crate) use schema::found;

/// The custom section in which a component says what its functions are.
pub const FUNCTIONS_SECTION: &str = "farm:functions";

/// A module that is ready to be sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What is stored, sent and compiled. A component where the file was a core module of the SDK.
    pub bytes: Vec<u8>,
    pub info: ModuleInfo,
}

/// What a module is. Its JSON is what `farm inspect --output json` prints, and a promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModuleInfo {
    /// Of the prepared bytes.
    #[serde(serialize_with = "digest_as_text")]
    pub digest: Digest,
    /// Of the prepared bytes.
    pub size: u64,
    pub kind: ModuleKind,
    /// What can be called, in the order of the module. A command has the one function `""`.
    pub functions: Vec<FunctionInfo>,
    /// `module.name` of each import of a core module, and the name of each interface that a component imports.
    pub imports: Vec<String>,
    /// What its imports could reach. A module that reaches nothing is a pure function of its argument.
    pub touches: Vec<Capability>,
    /// Whether backtraces can name files and lines.
    pub has_debug_info: bool,
}

/// One function of a module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionInfo {
    pub name: String,
    /// Its documentation, empty where it has none.
    #[serde(default)]
    pub doc: String,
    pub params: Vec<ParamInfo>,
    #[serde(default)]
    pub result: ResultInfo,
    /// Whether argument and result are bytes instead of JSON.
    #[serde(default)]
    pub raw: bool,
}

/// One parameter of a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParamInfo {
    pub name: String,
    /// Its type as people write it in the module's language.
    #[serde(rename = "type")]
    pub type_text: String,
    /// Whether it has to be there when there are several.
    #[serde(default = "yes")]
    pub required: bool,
    /// What its JSON looks like, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
}

/// What a function gives back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultInfo {
    /// Its type as people write it in the module's language.
    #[serde(rename = "type", default)]
    pub type_text: String,
    /// What its JSON looks like, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
}

const fn yes() -> bool {
    true
}

fn digest_as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

impl ModuleInfo {
    /// The function of that name, or the only one where no name is given.
    ///
    /// # Errors
    ///
    /// [`ModuleError::NoSuchFunction`], [`ModuleError::AmbiguousFunction`] and [`ModuleError::WhichFunction`], each of
    /// which lists the functions that there are.
    pub fn find(&self, name: Option<&str>) -> Result<&FunctionInfo, ModuleError> {
        let Some(name) = name else {
            return match self.functions.as_slice() {
                [only] => Ok(only),
                _ => Err(ModuleError::WhichFunction { available: self.names() }),
            };
        };
        if let Some(exact) = self.functions.iter().find(|function| function.name == name) {
            return Ok(exact);
        }
        let mut fitting = self.functions.iter().filter(|function| short_name_fits(&function.name, name));
        match (fitting.next(), fitting.next()) {
            (Some(function), None) => Ok(function),
            (Some(_), Some(_)) => {
                Err(ModuleError::AmbiguousFunction { name: name.to_owned(), available: self.names() })
            }
            (None, _) => Err(ModuleError::NoSuchFunction { name: name.to_owned(), available: self.names() }),
        }
    }

    /// What the bytes of `function`'s results are.
    pub fn result_encoding(&self, function: &FunctionInfo, command: &CommandOptions) -> ResultEncoding {
        match self.kind {
            ModuleKind::Command => command.stdout.encoding(),
            ModuleKind::Sdk if function.raw => ResultEncoding::Bytes,
            ModuleKind::Sdk | ModuleKind::Component | ModuleKind::Core => ResultEncoding::Json,
        }
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.functions.iter().map(|function| function.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

/// Whether `short` is `full` (`package:name/interface@version#function`) without its version, without its package, or
/// without its interface.
fn short_name_fits(full: &str, short: &str) -> bool {
    let Some((interface, function)) = full.rsplit_once('#') else {
        return false;
    };
    let Some((short_interface, short_function)) = short.rsplit_once('#') else {
        return function == short;
    };
    let unversioned = interface.split_once('@').map_or(interface, |(name, _)| name);
    let local = unversioned.rsplit_once('/').map_or(unversioned, |(_, name)| name);
    function == short_function && (short_interface == unversioned || short_interface == local)
}

/// Why a file is no module that a farm can run. Each message says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    #[error("the file is empty")]
    Empty,
    #[error("not WebAssembly: {found}")]
    NotWasm { found: String },
    #[error("a precompiled artefact, which could contain any machine code: send the .wasm that it was made from")]
    Precompiled,
    #[error("the WebAssembly is truncated: it ends in the middle of something at byte {offset}")]
    Truncated { offset: u64 },
    #[error("invalid WebAssembly at byte {offset}: {message}")]
    Invalid { offset: u64, message: String },
    #[error("the WebAssembly text does not parse: {message}")]
    Text { message: String },
    #[error("a WIT package, which declares interfaces and holds no code: send a component that implements them")]
    WitPackage,
    #[error("the component's types cannot be read: {message}")]
    ComponentTypes { message: String },
    #[error("cannot make a component of this core module: {message}")]
    Componentize { message: String },
    #[error(
        "the module needs imports that are not offered: {}; offered are WASI 0.1 and 0.2 without network, and \
         `farm:function/host`",
        names.join(", ")
    )]
    MissingImports { names: Vec<String> },
    #[error(
        "nothing to call: the module exports no function whose parameters and results are numbers or WIT values, and \
         no `_start`"
    )]
    NothingToCall,
    #[error("the module does not describe its functions: {message}")]
    Describe { message: String },
    #[error("no function `{name}`; there are: {available}")]
    NoSuchFunction { name: String, available: String },
    #[error("more than one function is called `{name}`; there are: {available}")]
    AmbiguousFunction { name: String, available: String },
    #[error("which function? There are: {available}")]
    WhichFunction { available: String },
}

impl From<wasmparser::BinaryReaderError> for ModuleError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        let offset = u64::try_from(error.offset()).unwrap_or(u64::MAX);
        // wasmparser has no variant for it; the text is pinned by a test.
        if error.message().starts_with("unexpected end") {
            Self::Truncated { offset }
        } else {
            Self::Invalid { offset, message: error.message().to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_leaves_out_version_package_or_interface() {
        let full = "docs:adder/add@0.1.0#sum";
        for fits in ["docs:adder/add#sum", "add#sum", "sum"] {
            assert!(short_name_fits(full, fits), "{fits}");
        }
        for differs in ["adder/add#sum", "docs:adder#sum", "add", "add#", "other#sum"] {
            assert!(!short_name_fits(full, differs), "{differs}");
        }
        assert!(!short_name_fits("sum", "sum#sum"));
    }
}
