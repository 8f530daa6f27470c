//! The blobs of one job on the client's side: module, argument chunks and input files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use farm_proto::ids::Digest;
use farm_proto::job::{Input, MOST_INPUTS, is_below};
use farm_proto::secret::{self, MAX_SECRET, MOST_SECRETS, SecretValue, Secrets};

use crate::args::Arguments;
use crate::client::{BlobSource, Opened};

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
    async fn open(&self, digest: &Digest) -> io::Result<Option<Opened>> {
        let memory = |bytes: Bytes| {
            Some(Opened { size: bytes.len() as u64, bytes: Box::new(io::Cursor::new(bytes)), path: None })
        };
        if *digest == self.module.0 {
            return Ok(memory(self.module.1.clone()));
        }
        if let Some((size, path)) = self.files.get(digest) {
            let file = tokio::fs::File::open(path).await?;
            return Ok(Some(Opened { size: *size, bytes: Box::new(file), path: Some(path.clone()) }));
        }
        Ok(self.arguments.chunk(digest)?.and_then(memory))
    }
}

/// All names of inputs together, in bytes: a job travels in one message.
const LONGEST_NAMES: usize = 9 << 20;

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
    #[error("{path} is a link to {target}, which is outside of the folder", path = path.display(), target = target.display())]
    Outside { path: PathBuf, target: PathBuf },
    #[error("{0} is a link to a folder that it is in")]
    Loop(PathBuf),
    #[error("more than {MOST_INPUTS} files, or their names are too long for a message; {0} is where it was too much")]
    Many(PathBuf),
    #[error("a secret is written NAME=FILE")]
    SecretForm(String),
    #[error("{0:?} is no name for a secret: it is one for a variable, of letters, digits and _")]
    SecretName(String),
    #[error("secret {0} is given twice")]
    TwiceSecret(String),
    #[error("{0} is too large for a secret; the most is {MAX_SECRET} bytes")]
    LargeSecret(PathBuf),
    #[error("{0} secrets; the most is {MOST_SECRETS}")]
    ManySecrets(usize),
    #[error("{0} is neither a file nor a folder, or its name is not UTF-8")]
    Kind(PathBuf),
}

/// What a job finds at `/in`.
#[derive(Debug, Default)]
pub struct Inputs {
    pub files: Vec<InputFile>,
    /// Folders in which nothing is.
    pub folders: Vec<String>,
}

/// Reads and digests what `NAME=FILE` or `NAME=FOLDER` names. A folder's files are called `NAME/path/in/the/folder`.
/// Symbolic links in a folder are followed if they stay in it.
///
/// # Errors
///
/// The form is wrong, something cannot be read or is neither file nor folder, a link leads outside, or there is too much.
pub fn read_inputs(texts: &[String]) -> Result<Inputs, InputError> {
    let mut found = Found::default();
    for text in texts {
        let (name, path) = text.split_once('=').ok_or_else(|| InputError::Form(text.clone()))?;
        if !is_below(name) {
            return Err(InputError::Name(name.to_owned()));
        }
        let path = Path::new(path);
        let root = path.canonicalize().map_err(|source| InputError::Read { path: path.to_owned(), source })?;
        found.add(name, path, &root, &mut Vec::new())?;
    }
    // All of it is known to be good, and not too many, before the first file is read.
    let files = found.files.into_iter().map(|(name, source)| {
        let read = |source_error| InputError::Read { path: source.clone(), source: source_error };
        let mut hasher = blake3::Hasher::new();
        let size = io::copy(&mut File::open(&source).map_err(read)?, &mut hasher).map_err(read)?;
        let input = Input { path: name, digest: hasher.finalize().into(), size };
        Ok(InputFile { input, source: source.clone() })
    });
    Ok(Inputs { files: files.collect::<Result<_, _>>()?, folders: found.folders.into_iter().collect() })
}

/// What inputs consist of, by its names.
#[derive(Default)]
struct Found {
    files: BTreeMap<String, PathBuf>,
    folders: BTreeSet<String>,
    names: usize,
}

impl Found {
    /// `root` is what was named, `above` are the folders that lead here, both without links.
    fn add(&mut self, name: &str, path: &Path, root: &Path, above: &mut Vec<PathBuf>) -> Result<(), InputError> {
        let read = |source| InputError::Read { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(read)?;
        if !real.starts_with(root) {
            return Err(InputError::Outside { path: path.to_owned(), target: real });
        }
        let metadata = real.metadata().map_err(read)?;
        self.names += name.len();
        if metadata.is_dir() {
            if above.contains(&real) {
                return Err(InputError::Loop(path.to_owned()));
            }
            above.push(real);
            let mut is_empty = true;
            for entry in path.read_dir().map_err(read)? {
                let entry = entry.map_err(read)?;
                let file_name = entry.file_name();
                let below = file_name.to_str().ok_or_else(|| InputError::Kind(entry.path()))?;
                self.add(&format!("{name}/{below}"), &entry.path(), root, above)?;
                is_empty = false;
            }
            above.pop();
            if is_empty && !self.folders.insert(name.to_owned()) {
                return Err(InputError::Twice(name.to_owned()));
            }
        } else if !metadata.is_file() {
            return Err(InputError::Kind(path.to_owned()));
        } else if self.files.insert(name.to_owned(), path.to_owned()).is_some() {
            return Err(InputError::Twice(name.to_owned()));
        }
        if self.files.len() + self.folders.len() > MOST_INPUTS || self.names > LONGEST_NAMES {
            return Err(InputError::Many(path.to_owned()));
        }
        Ok(())
    }
}

/// Reads what `NAME=FILE` names as a secret: bytes that are to be on nobody else's disk.
///
/// # Errors
///
/// The form is wrong, there are too many, or something cannot be read or is too large.
pub fn read_secrets(texts: &[String]) -> Result<Secrets, InputError> {
    let mut secrets = Secrets::new();
    for text in texts {
        let (name, path) = text.split_once('=').ok_or_else(|| InputError::SecretForm(text.clone()))?;
        if !secret::is_name(name) {
            return Err(InputError::SecretName(name.to_owned()));
        }
        if secrets.iter().any(|(other, _)| other == name) {
            return Err(InputError::TwiceSecret(name.to_owned()));
        }
        let read = |source| InputError::Read { path: path.into(), source };
        let file = File::open(path).map_err(read)?;
        // With room for all of it from the start, so that no copy is left behind.
        let mut bytes = Vec::with_capacity(MAX_SECRET + 1);
        let result = file.take(MAX_SECRET as u64 + 1).read_to_end(&mut bytes);
        let value = SecretValue::new(bytes);
        result.map_err(read)?;
        if value.expose().len() > MAX_SECRET {
            return Err(InputError::LargeSecret(path.into()));
        }
        secrets.push((name.to_owned(), value));
    }
    if secrets.len() > MOST_SECRETS {
        return Err(InputError::ManySecrets(secrets.len()));
    }
    Ok(secrets)
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
        std::fs::create_dir(folder.path().join("sub/empty")).expect("a folder");
        let Inputs { files, folders } = read_inputs(&[format!("src={path}")]).expect("good");
        assert_eq!(folders, ["src/sub/empty"]);
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

    #[test]
    fn links_stay_inside() {
        use std::os::unix::fs::symlink;

        let place = tempfile::tempdir().expect("a temporary folder");
        let folder = place.path().join("tree");
        std::fs::create_dir_all(folder.join("sub")).expect("folders");
        std::fs::write(folder.join("sub/a"), "a").expect("a file");
        std::fs::write(place.path().join("outside"), "no").expect("a file");
        symlink("sub/a", folder.join("b")).expect("a link");
        symlink("sub", folder.join("again")).expect("a link");
        // What is named may be a link itself.
        symlink(&folder, place.path().join("named")).expect("a link");
        let read = || read_inputs(&[format!("t={}", place.path().join("named").display())]);
        let names = |inputs: Inputs| inputs.files.into_iter().map(|file| file.input.path).collect::<Vec<_>>();
        assert_eq!(names(read().expect("good")), ["t/again/a", "t/b", "t/sub/a"]);

        std::fs::remove_file(folder.join("again")).expect("a link");
        let bad = folder.join("sub/bad");
        symlink("../../outside", &bad).expect("a link");
        let error = read().expect_err("outside");
        assert!(matches!(&error, InputError::Outside { path, .. } if path.ends_with("sub/bad")), "{error}");
        std::fs::remove_file(&bad).expect("a link");
        symlink("..", &bad).expect("a link");
        assert!(matches!(read(), Err(InputError::Loop(_))));
        std::fs::remove_file(&bad).expect("a link");
        symlink("nothing", &bad).expect("a link");
        assert!(matches!(read(), Err(InputError::Read { .. })));
        std::fs::remove_file(&bad).expect("a link");
        let _socket = std::os::unix::net::UnixListener::bind(&bad).expect("a socket");
        assert!(matches!(read(), Err(InputError::Kind(_))));
    }
}
