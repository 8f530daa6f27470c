//! The blobs of one job on the client's side: module, argument chunks and input files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use farm_proto::ids::Digest;
use farm_proto::job::Input;
use tokio::io::AsyncRead;

use crate::args::Arguments;
use crate::client::BlobSource;

/// Everything that a farm may lack of a job.
#[derive(Debug)]
pub struct JobBlobs<'a> {
    module: (Digest, Bytes),
    arguments: &'a Arguments,
    files: BTreeMap<Digest, (u64, PathBuf)>,
}

impl<'a> JobBlobs<'a> {
    pub fn new(module: Bytes, digest: Digest, arguments: &'a Arguments, inputs: &[InputFile]) -> Self {
        let files = inputs.iter().map(|file| (file.input.digest, (file.input.size, file.source.clone())));
        Self { module: (digest, module), arguments, files: files.collect() }
    }
}

impl BlobSource for JobBlobs<'_> {
    async fn open(&self, digest: &Digest) -> io::Result<Option<(u64, Box<dyn AsyncRead + Unpin + Send>)>> {
        let memory = |bytes: Bytes| Some((bytes.len() as u64, Box::new(io::Cursor::new(bytes)) as Box<_>));
        if *digest == self.module.0 {
            return Ok(memory(self.module.1.clone()));
        }
        if let Some((size, path)) = self.files.get(digest) {
            let file = tokio::fs::File::open(path).await?;
            return Ok(Some((*size, Box::new(file))));
        }
        Ok(self.arguments.chunk(digest)?.and_then(memory))
    }
}

/// An input, and where its bytes are on this machine.
#[derive(Debug, Clone)]
pub struct InputFile {
    pub input: Input,
    pub source: PathBuf,
}

/// Why an `--input` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    #[error("an input is written NAME=FILE or NAME=FOLDER, not {0:?}")]
    Form(String),
    #[error("{0:?} is no name for an input: it is a relative path without `.` and `..`")]
    Name(String),
    #[error("two inputs are called {0:?}")]
    Twice(String),
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0} is neither a file nor a folder, or its name is not UTF-8")]
    Kind(PathBuf),
}

/// Reads and digests what `NAME=FILE` or `NAME=FOLDER` names. A folder's files are called `NAME/path/in/the/folder`;
/// symbolic links are followed.
///
/// # Errors
///
/// The form is wrong, or something cannot be read.
pub fn read_inputs(texts: &[String]) -> Result<Vec<InputFile>, InputError> {
    let mut files = BTreeMap::new();
    for text in texts {
        let (name, path) = text.split_once('=').ok_or_else(|| InputError::Form(text.clone()))?;
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
        if !name.split('/').all(plain) {
            return Err(InputError::Name(name.to_owned()));
        }
        add(&mut files, name, Path::new(path))?;
    }
    Ok(files.into_values().collect())
}

fn add(files: &mut BTreeMap<String, InputFile>, name: &str, path: &Path) -> Result<(), InputError> {
    let read = |source| InputError::Read { path: path.to_owned(), source };
    let metadata = path.metadata().map_err(read)?;
    if metadata.is_dir() {
        for entry in path.read_dir().map_err(read)? {
            let entry = entry.map_err(read)?;
            let file_name = entry.file_name();
            let below = file_name.to_str().ok_or_else(|| InputError::Kind(entry.path()))?;
            add(files, &format!("{name}/{below}"), &entry.path())?;
        }
        return Ok(());
    }
    if !metadata.is_file() {
        return Err(InputError::Kind(path.to_owned()));
    }
    let mut hasher = blake3::Hasher::new();
    let size = io::copy(&mut File::open(path).map_err(read)?, &mut hasher).map_err(read)?;
    let input = Input { path: name.to_owned(), digest: hasher.finalize().into(), size };
    let file = InputFile { input, source: path.to_owned() };
    match files.insert(name.to_owned(), file) {
        None => Ok(()),
        Some(_) => Err(InputError::Twice(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_and_names_checked() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("sub")).expect("a folder");
        std::fs::write(folder.path().join("a.txt"), "a").expect("a file");
        std::fs::write(folder.path().join("sub/b.txt"), "bb").expect("a file");
        let path = folder.path().display();
        let files = read_inputs(&[format!("src={path}")]).expect("good");
        let names: Vec<_> = files.iter().map(|file| (file.input.path.as_str(), file.input.size)).collect();
        assert_eq!(names, [("src/a.txt", 1), ("src/sub/b.txt", 2)]);
        assert_eq!(files[0].input.digest, Digest::of(b"a"));

        assert!(matches!(read_inputs(&["x".into()]), Err(InputError::Form(_))));
        assert!(matches!(read_inputs(&[format!("../x={path}")]), Err(InputError::Name(_))));
        assert!(matches!(read_inputs(&[format!("={path}")]), Err(InputError::Name(_))));
        assert!(matches!(read_inputs(&["x=/no/such".into()]), Err(InputError::Read { .. })));
        let twice = [format!("x={path}/a.txt"), format!("x={path}/sub/b.txt")];
        assert!(matches!(read_inputs(&twice), Err(InputError::Twice(_))));
    }
}
