//! Compiled modules, and the folder that they are kept in.
//!
//! An artefact is machine code: whoever can choose one can do anything in the process that opens it. So none is ever
//! taken from the network. A worker makes its own, in a child process that may crash or be killed, and keeps them in a
//! [`Cache`]: a folder that only its user can enter.
//!
//! An artefact's name is made of the module's digest and of everything that compiled code depends on (profile, layout,
//! version of wasmtime, processor), so that a change of any of them is a miss instead of a fault. Beside each artefact
//! lies its BLAKE3 digest. [`Cache::get`] checks it, and so a file that was cut short or damaged is compiled again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use farm_proto::ids::Digest;
use farm_proto::job::Profile;
use farm_proto::outcome::{Failure, FailureKind};
use tempfile::TempPath;
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Precompiled};

use crate::sandbox::{Layout, compatibility, compiler};

mod compile;

pub use compile::{COMPILE_COMMAND, Compiler, compile_main};

/// Why there is no artefact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtefactError {
    /// The module cannot be compiled here or anywhere.
    #[error("the module does not compile: {0}")]
    BadModule(String),
    #[error("compiling took longer than {seconds} s and was stopped")]
    TimedOut { seconds: u64 },
    #[error("compiling needs more than {limit} of memory")]
    OutOfMemory { limit: String },
    #[error("the compiler died of {cause}")]
    Died { cause: String },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("no space is left for compiled modules in {path}", path = path.display())]
    DiskFull { path: PathBuf },
    #[error("{path} is no folder that only this user can enter (mode 0700)", path = path.display())]
    NotPrivate { path: PathBuf },
    #[error("{path} was not compiled by this farm for this machine: {reason}", path = path.display())]
    Foreign { path: PathBuf, reason: String },
    #[error("this machine cannot run compiled code: {0}")]
    Unsupported(String),
}

impl ArtefactError {
    fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }

    /// Whether it is the module that is at fault, so that no other worker would do better.
    pub const fn is_of_module(&self) -> bool {
        matches!(self, Self::BadModule(_) | Self::TimedOut { .. } | Self::OutOfMemory { .. } | Self::Died { .. })
    }
}

impl From<ArtefactError> for Failure {
    /// What is the worker's fault ends an attempt there, and not the job.
    fn from(error: ArtefactError) -> Self {
        let kind = if error.is_of_module() { FailureKind::BadModule } else { FailureKind::WorkerLost };
        Self::new(kind, error.to_string())
    }
}

/// A folder of artefacts.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens the folder, and makes it (mode 0700) if it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be made, or is one that others can enter.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ArtefactError> {
        let directory = directory.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|error| ArtefactError::io(&directory, error))?;
        check_private(&directory)?;
        Ok(Self { directory })
    }

    /// Where the folder is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the artefact of a module is, or would be, for the engines of this process.
    ///
    /// # Errors
    ///
    /// [`ArtefactError::Unsupported`].
    pub fn path(&self, module: &Digest, profile: Profile) -> Result<PathBuf, ArtefactError> {
        let layout = Layout::of_process();
        let hash = compatibility(profile, layout).map_err(|error| ArtefactError::Unsupported(format!("{error:#}")))?;
        let profile = profile_name(profile);
        Ok(self.directory.join(format!("{module}-{profile}-{hash:016x}.cwasm")))
    }

    /// The artefact of a module, if it is there and whole. Reads all of it.
    ///
    /// # Errors
    ///
    /// [`ArtefactError::Unsupported`]. A damaged artefact is no error but removed.
    pub fn get(&self, module: &Digest, profile: Profile) -> Result<Option<PathBuf>, ArtefactError> {
        let path = self.path(module, profile)?;
        match is_whole(&path) {
            Ok(true) => return Ok(Some(path)),
            Ok(false) => tracing::warn!(path = %path.display(), "a compiled module is damaged and made again"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a compiled module is unreadable and made again");
            }
        }
        _ = fs::remove_file(&path);
        Ok(None)
    }

    /// Compiles in this process, without a bound on time or memory: for a user's own modules on a user's own machine,
    /// and for tests. A worker has a [`Compiler`].
    ///
    /// # Errors
    ///
    /// See [`ArtefactError`].
    pub fn compile_here(&self, module: &[u8], profile: Profile) -> Result<PathBuf, ArtefactError> {
        let digest = Digest::of(module);
        let artefact = self.path(&digest, profile)?;
        if self.get(&digest, profile)?.is_some() {
            return Ok(artefact);
        }
        let engine = compiler(profile, Layout::of_process())
            .map_err(|error| ArtefactError::Unsupported(format!("{error:#}")))?;
        let code = precompile(&engine, module).map_err(|error| ArtefactError::BadModule(format!("{error:#}")))?;
        let temporary = self.temporary()?;
        fs::write(&temporary, code).map_err(|error| ArtefactError::io(&self.directory, error))?;
        self.adopt(&temporary, &artefact)?;
        Ok(artefact)
    }

    /// A file in the folder, gone again with this value unless it was adopted before.
    fn temporary(&self) -> Result<TempPath, ArtefactError> {
        tempfile::Builder::new()
            .prefix(".compiling-")
            .suffix(".tmp")
            .tempfile_in(&self.directory)
            .map(tempfile::NamedTempFile::into_temp_path)
            .map_err(|error| ArtefactError::io(&self.directory, error))
    }

    /// Puts an artefact that lies at `from`, in the same folder, in its place, together with its digest.
    fn adopt(&self, from: &Path, to: &Path) -> Result<(), ArtefactError> {
        let io = |error| ArtefactError::io(&self.directory, error);
        let digest = digest_of(from).map_err(io)?;
        // The digest first: until the artefact follows it says nothing.
        let digest_from = from.with_extension("b3");
        fs::write(&digest_from, digest.to_string()).map_err(io)?;
        fs::rename(&digest_from, to.with_extension("b3")).map_err(io)?;
        fs::rename(from, to).map_err(io)
    }
}

/// Machine code for a module or component. Takes no artefact for a module.
fn precompile(engine: &Engine, module: &[u8]) -> wasmtime::Result<Vec<u8>> {
    if wasmparser::Parser::is_component(module) {
        engine.precompile_component(module)
    } else {
        engine.precompile_module(module)
    }
}

/// The name of a profile in files and on command lines.
const fn profile_name(profile: Profile) -> &'static str {
    match profile {
        Profile::Fast => "fast",
        Profile::Metered => "metered",
    }
}

fn is_whole(artefact: &Path) -> io::Result<bool> {
    let expected = fs::read_to_string(artefact.with_extension("b3"))?;
    Ok(digest_of(artefact)?.to_string() == expected.trim())
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    const CHUNK: usize = 1 << 20;
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => _ = hasher.update(&buffer[..read]),
        }
    }
}

/// That nobody else can put anything into a folder, nor read what is in it.
fn check_private(directory: &Path) -> Result<(), ArtefactError> {
    let metadata = fs::metadata(directory).map_err(|error| ArtefactError::io(directory, error))?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    let is_closed = metadata.permissions().mode() & 0o077 == 0;
    if metadata.is_dir() && is_ours && is_closed {
        Ok(())
    } else {
        Err(ArtefactError::NotPrivate { path: directory.to_path_buf() })
    }
}

/// Compiled code, mapped into this process.
#[derive(Debug)]
pub(crate) enum Code {
    Module(Module),
    Component(Component),
}

/// Maps an artefact that a [`Cache`] gave out.
///
/// # Errors
///
/// It lies where others can write, or was compiled for another engine.
pub(crate) fn load(engine: &Engine, path: &Path) -> Result<Code, ArtefactError> {
    let foreign = |reason: String| ArtefactError::Foreign { path: path.to_path_buf(), reason };
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    check_private(directory)?;
    let kind = Engine::detect_precompiled_file(path).map_err(|error| foreign(format!("{error:#}")))?;
    let code = match kind {
        Some(kind) => deserialize(engine, path, kind),
        None => return Err(foreign("it is no artefact of wasmtime".to_owned())),
    };
    code.map_err(|error| foreign(format!("{error:#}")))
}

#[expect(
    unsafe_code,
    reason = "the file is machine code made by `compile`: `load` has seen that it lies in a folder that only this user \
              can write to, and `Cache::get` that it is the one that was put there"
)]
fn deserialize(engine: &Engine, path: &Path, kind: Precompiled) -> wasmtime::Result<Code> {
    match kind {
        // SAFETY: as above; nobody shortens or changes an artefact in place, because they only come by rename.
        Precompiled::Module => unsafe { Module::deserialize_file(engine, path) }.map(Code::Module),
        // SAFETY: as above.
        Precompiled::Component => unsafe { Component::deserialize_file(engine, path) }.map(Code::Component),
    }
}
