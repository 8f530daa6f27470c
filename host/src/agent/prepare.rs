//! Everything that has to be there before a job's first task: its module, compiled, and its inputs.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

use farm_link::identity::private_folder;
use farm_proto::ids::{Digest, JobId};
use farm_proto::job::{Input, JobSpec, Profile, is_below};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::why::Stage;
use tempfile::TempDir;
use tokio::sync::{OnceCell, watch};

use super::blobs::{BlobError, Blobs};
use crate::artefact::{ArtefactError, Compiler};
use crate::sandbox::Layout;
use crate::slot::JobFolders;

/// What a job needs, once it is there.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) artefact: PathBuf,
    /// The folder that guests see at `/in`. It is removed with this value.
    pub(super) inputs: Option<TempDir>,
    /// Where slots make the folders that guests see at `/out`.
    pub(super) outputs: Option<PathBuf>,
    /// Where its secrets are.
    pub(super) secrets: Option<PathBuf>,
}

impl Prepared {
    pub(super) fn folders(&self) -> JobFolders {
        let inputs = self.inputs.as_ref().map(|inputs| inputs.path().to_owned());
        JobFolders { inputs, outputs: self.outputs.clone(), secrets: self.secrets.clone() }
    }
}

/// Why a job cannot be run here.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error("an input is to be called {0:?}, which is no path below a folder")]
    BadPath(String),
    #[error("{0}")]
    Secrets(String),
    #[error("two inputs want to be at {0:?}")]
    Twice(String),
    #[error("cannot keep inputs or outputs in {path}: {source}", path = path.display())]
    Inputs { path: PathBuf, source: io::Error },
}

impl PrepareError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Artefact(error) if error.is_of_module() => FailureKind::BadModule,
            Self::BadPath(_) | Self::Twice(_) => FailureKind::BadArguments,
            // Not the job's fault. It fails all the same: on a worker that cannot do its part it would wait for ever,
            // and nobody would say why.
            Self::Blob(_) | Self::Artefact(_) | Self::Inputs { .. } | Self::Secrets(_) => FailureKind::WorkerLost,
        }
    }

    fn is_for_want_of_space(&self) -> bool {
        let full =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match self {
            Self::Blob(BlobError::Store { source, .. }) | Self::Inputs { source, .. } => full(source),
            Self::Artefact(error) => matches!(error, ArtefactError::DiskFull { .. }),
            Self::Blob(_) | Self::BadPath(_) | Self::Twice(_) | Self::Secrets(_) => false,
        }
    }
}

/// A module that is being compiled, or has been.
#[derive(Debug)]
struct Artefact {
    /// Where it is, once it is. Whoever wants it meanwhile waits for it.
    path: OnceCell<PathBuf>,
    /// What is being done about it, if anything takes long.
    stage: watch::Sender<Option<Stage>>,
}

impl Default for Artefact {
    fn default() -> Self {
        Self { path: OnceCell::new(), stage: watch::Sender::new(None) }
    }
}

/// Prepares jobs. One for all of a worker's jobs, so that what they share is fetched and compiled once.
#[derive(Debug)]
pub(super) struct Preparer {
    /// For people, in what they are told when it fails.
    worker: String,
    blobs: Blobs,
    compiler: Compiler,
    /// Where folders of inputs and of outputs are made. On one file system with the blobs, links save the copies.
    folder: PathBuf,
    compiled: Mutex<HashMap<(Digest, Profile), Arc<Artefact>>>,
}

impl Preparer {
    pub(super) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    pub(super) fn new(worker: String, blobs: Blobs, compiler: Compiler, folder: PathBuf) -> Self {
        Self { worker, blobs, compiler, folder, compiled: Mutex::default() }
    }

    /// Fetches and compiles whatever of the job's is not there yet; `secrets` is where these are, or why not. `tell` is told when either begins.
    ///
    /// # Errors
    ///
    /// A failure that ends the job, with the reason in words.
    pub(super) async fn prepare(
        &self,
        job: JobId,
        spec: &JobSpec,
        secrets: Result<Option<PathBuf>, String>,
        tell: impl Fn(Stage),
    ) -> Result<Prepared, Failure> {
        let result = async {
            let secrets = secrets.map_err(PrepareError::Secrets)?;
            let artefact = self.artefact(spec, &tell).await?;
            let inputs = self.inputs(job, &spec.inputs, &spec.mounts.folders, &tell).await?;
            let outputs = spec.mounts.outputs.is_some().then(|| self.outputs()).transpose()?;
            Ok(Prepared { artefact, inputs, outputs, secrets })
        };
        result.await.map_err(|error: PrepareError| {
            let kind = error.kind();
            let mut message = error.to_string();
            if kind == FailureKind::WorkerLost {
                message = format!("worker {} cannot prepare the job: {message}", self.worker);
            }
            if error.is_for_want_of_space() {
                message.push_str("; make room there, or give the worker another cache folder");
            }
            tracing::warn!(%job, "{message}");
            Failure::new(kind, message)
        })
    }

    async fn artefact(&self, spec: &JobSpec, tell: &impl Fn(Stage)) -> Result<PathBuf, PrepareError> {
        warn_of_little_address_space();
        let key = (spec.module.digest, spec.profile);
        let artefact = {
            let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            let artefact = compiled.entry(key).or_default();
            if artefact.path.get().is_some_and(|path| !path.exists()) {
                *artefact = Arc::default();
            }
            Arc::clone(artefact)
        };
        let make = || async {
            // A module that was compiled by an earlier worker need not even be fetched.
            if let Some(path) = self.compiler.cache().get(&key.0, key.1)? {
                return Ok::<_, PrepareError>(path);
            }
            if !self.blobs.has(key.0, spec.module.size) {
                artefact.stage.send_replace(Some(Stage::Fetching));
            }
            let module = self.blobs.get(key.0, spec.module.size).await?;
            artefact.stage.send_replace(Some(Stage::Compiling));
            Ok(self.compiler.compile(&module, &key.0, key.1).await?)
        };
        let mut stages = artefact.stage.subscribe();
        // Somebody else may be at it.
        stages.mark_changed();
        let mut path = std::pin::pin!(artefact.path.get_or_try_init(make));
        loop {
            tokio::select! {
                biased;
                path = &mut path => return Ok(path?.clone()),
                // It does not end before the artefact does.
                Ok(()) = stages.changed() => if let Some(stage) = *stages.borrow_and_update() {
                    tell(stage);
                },
            }
        }
    }

    fn outputs(&self) -> Result<PathBuf, PrepareError> {
        let folder = self.folder.join("out");
        private_folder(&folder).map_err(|source| PrepareError::Inputs { path: folder.clone(), source })?;
        Ok(folder)
    }

    async fn inputs(
        &self,
        job: JobId,
        inputs: &[Input],
        folders: &[String],
        tell: &impl Fn(Stage),
    ) -> Result<Option<TempDir>, PrepareError> {
        if inputs.is_empty() && folders.is_empty() {
            return Ok(None);
        }
        let cannot = |source| PrepareError::Inputs { path: self.folder.clone(), source };
        let folder =
            tempfile::Builder::new().prefix(&format!("job-{job}-")).tempdir_in(&self.folder).map_err(cannot)?;
        if inputs.iter().any(|input| !self.blobs.has(input.digest, input.size)) {
            tell(Stage::Fetching);
        }
        for empty in folders {
            fs::create_dir_all(folder.path().join(below(empty)?)).map_err(cannot)?;
        }
        for input in inputs {
            let blob = self.blobs.get(input.digest, input.size).await?;
            let path = folder.path().join(below(&input.path)?);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(cannot)?;
            }
            match fs::hard_link(&blob, &path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(PrepareError::Twice(input.path.clone()));
                }
                // Not every file system links, nor for ever many names.
                Err(_) => fs::copy(&blob, &path).map(drop).map_err(cannot)?,
            }
        }
        Ok(Some(folder))
    }
}

/// Says once if tasks run slower here than they could. Slots would say it again and again.
fn warn_of_little_address_space() {
    static SAID: Once = Once::new();
    if Layout::of_process() == Layout::Compact {
        SAID.call_once(|| {
            tracing::warn!(
                "there is too little address space for a pool (`ulimit -v`): tasks run up to a third slower"
            );
        });
    }
}

/// A path from the network, if it leads to somewhere below the folder that it is joined to.
fn below(path: &str) -> Result<&Path, PrepareError> {
    let is_plain = is_below(path) && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    is_plain.then_some(Path::new(path)).ok_or_else(|| PrepareError::BadPath(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_do_not_lead_outside() {
        for good in ["a", "a/b.csv", "..a", "a b/ü"] {
            assert!(below(good).is_ok(), "{good:?}");
        }
        for bad in ["", "/", "/etc/passwd", "..", "../a", "a/../b", "a/./b", "a//b", "a/", "a\0b"] {
            assert!(below(bad).is_err(), "{bad:?}");
        }
    }
}
