//! From the file a user names to the module that travels.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use farm_host::module::{self, ArgumentChecker, FunctionInfo, ModuleError, ModuleInfo};
use farm_link::identity::private_folder;
use farm_proto::ids::Digest;
use farm_proto::job::ModuleKind;

use crate::home::Home;

/// A module on this machine, ready to be sent or run.
#[derive(Debug, Clone)]
pub struct LoadedModule {
    pub bytes: Bytes,
    pub info: ModuleInfo,
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: {source}")]
    Module {
        path: PathBuf,
        #[source]
        source: ModuleError,
    },
}

impl LoadedModule {
    /// Reads and prepares a module. What it was prepared to is kept in `home`'s cache, because finding out what an SDK
    /// function takes means running it once.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is no module that a farm can run.
    pub fn load(path: &Path, home: &Home) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let module = |source| LoadError::Module { path: path.to_owned(), source };
        let bytes = fs::read(path).map_err(read)?;
        let cached = home.prepared().join(format!("{}-{}.wasm", Digest::of(&bytes), env!("CARGO_PKG_VERSION")));
        if let Some(prepared) = fs::read(&cached).ok().and_then(|bytes| module::prepare(bytes).ok()) {
            return Ok(Self { bytes: prepared.bytes.into(), info: prepared.info });
        }
        let changed = bytes.clone();
        let prepared = module::prepare(bytes).map_err(module)?;
        if prepared.bytes != changed
            && let Err(error) = keep(&cached, &prepared.bytes)
        {
            // It is only a cache.
            tracing::debug!(%error, path = %cached.display(), "cannot keep the prepared module");
        }
        Ok(Self { bytes: prepared.bytes.into(), info: prepared.info })
    }

    /// The function to call, and what its arguments have to be.
    ///
    /// # Errors
    ///
    /// There is no such function, or several and no name.
    pub fn function(&self, name: Option<&str>) -> Result<Function, ModuleError> {
        let info = self.info.find(name)?.clone();
        Ok(Function { kind: self.info.kind, checker: ArgumentChecker::new(&info), info })
    }
}

fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    private_folder(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// A function that was found in a module.
#[derive(Debug)]
pub struct Function {
    kind: ModuleKind,
    checker: ArgumentChecker,
    pub info: FunctionInfo,
}

impl Function {
    /// Whether it is given bytes, not JSON.
    pub fn takes_bytes(&self) -> bool {
        self.kind == ModuleKind::Sdk && self.info.raw
    }

    /// Checks one argument and appends the bytes that the task gets.
    ///
    /// # Errors
    ///
    /// The argument is not what the function takes: where, what was expected, and what was found.
    pub fn encode(&self, element: &str, out: &mut Vec<u8>) -> Result<(), String> {
        self.checker.check(element.as_bytes()).map_err(|error| error.to_string())?;
        module::encode_argument(self.kind, &self.info, element.as_bytes(), out).map_err(|error| error.to_string())
    }
}
