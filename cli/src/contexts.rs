//! The farms that a user has logged in to.
//!
//! ```text
//! contexts/NAME.json   where the farm is and how it is known: a ticket without its secret
//! contexts/NAME.pem    the certificate that the ticket was traded for, and its key
//! contexts/current     the name of the one that commands go to
//! ```
//!
//! The folder is its owner's alone (0700), and so is each file (0600). The secret of the ticket is not kept: the
//! certificate is all that is needed, and is renewed whenever it is used in the last third of its life.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use farm_link::LinkError;
use farm_link::dial::{Dialer, Link};
use farm_link::identity::{Identity, private_folder};
use farm_proto::ids::Digest;
use farm_proto::ticket::{Role, Ticket};
use serde::{Deserialize, Serialize};

use crate::home::Home;

/// The file that names the current one. No context can be called so, as their files have endings.
const CURRENT: &str = "current";
const MAX_NAME: usize = 64;

/// A farm that somebody has logged in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub name: String,
    pub place: Place,
}

/// Where a farm is, how it is known, and what one may do there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub host: String,
    pub port: u16,
    pub role: Role,
    pub ca: Digest,
}

/// Why there is no such farm, or it cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("{0:?} is no name for a farm: 1 to {MAX_NAME} letters, digits, and `.`, `_`, `-`, `@`")]
    Name(String),
    #[error("no farm is called {name:?} here{known}", known = list(.known))]
    Unknown { name: String, known: Vec<String> },
    #[error("you are not logged in to any farm")]
    NotLoggedIn,
    #[error("{name:?} is another farm already, at {address}")]
    Taken { name: String, address: String },
    #[error("a ticket of a worker is for `farm worker`, not to log in with")]
    Worker,
    #[error("{path} does not say where a farm is")]
    Damaged { path: PathBuf },
    #[error("cannot use {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Link(#[from] LinkError),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; there is {}", names.join(", ")) }
}

impl Place {
    fn of(ticket: &Ticket) -> Self {
        Self { host: ticket.host.clone(), port: ticket.port, role: ticket.role, ca: ticket.ca }
    }

    /// For people.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn ticket(&self) -> Ticket {
        let Self { host, port, role, ca } = self.clone();
        Ticket { host, port, role, ca, secret: String::new() }
    }
}

/// All of one user's.
#[derive(Debug, Clone)]
pub struct Contexts {
    folder: PathBuf,
}

impl Contexts {
    /// Those of this home.
    pub fn of(home: &Home) -> Self {
        Self { folder: home.contexts() }
    }

    fn io(path: &Path) -> impl FnOnce(io::Error) -> ContextError {
        let path = path.to_owned();
        move |source| ContextError::Folder { path, source }
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    /// All of them, by name.
    ///
    /// # Errors
    ///
    /// The folder or a file in it cannot be read.
    pub fn all(&self) -> Result<Vec<Context>, ContextError> {
        self.names()?.into_iter().map(|name| self.get(&name)).collect()
    }

    fn names(&self) -> Result<Vec<String>, ContextError> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Self::io(&self.folder))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(Self::io(&self.folder))?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The one of that name.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be read.
    pub fn get(&self, name: &str) -> Result<Context, ContextError> {
        if !is_name(name) {
            return Err(ContextError::Name(name.to_owned()));
        }
        let path = self.file(name, "json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ContextError::Unknown { name: name.to_owned(), known: self.names()? });
            }
            result => result.map_err(Self::io(&path))?,
        };
        let place = serde_json::from_slice(&text).map_err(|_| ContextError::Damaged { path })?;
        Ok(Context { name: name.to_owned(), place })
    }

    /// The one that commands go to, if any.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn current(&self) -> Result<Option<Context>, ContextError> {
        let path = self.folder.join(CURRENT);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => self.get(result.map_err(Self::io(&path))?.trim()).map(Some),
        }
    }

    /// Makes that one the current one.
    ///
    /// # Errors
    ///
    /// There is none of that name, or the folder cannot be written.
    pub fn choose(&self, name: &str) -> Result<Context, ContextError> {
        let context = self.get(name)?;
        self.write(&self.folder.join(CURRENT), format!("{name}\n").as_bytes())?;
        Ok(context)
    }

    /// How to connect to it.
    pub fn dialer(&self, context: &Context) -> Dialer {
        Dialer::kept_at(context.place.ticket(), &self.file(&context.name, "pem"))
    }

    /// Until when its certificate is valid, if there is one.
    pub fn valid_until(&self, context: &Context) -> Option<SystemTime> {
        Identity::load(&self.file(&context.name, "pem"))?.life().map(|life| life.end)
    }

    /// Trades a ticket for a certificate, keeps that, and makes this farm the current one. A farm that is logged in to
    /// already gets the new certificate. Nothing of the ticket is used if the name will not do.
    ///
    /// # Errors
    ///
    /// The name is another farm's, the farm refuses the ticket or cannot be reached, or nothing can be kept.
    pub async fn login(&self, ticket: Ticket, name: Option<&str>) -> Result<(Context, Link), ContextError> {
        if ticket.role == Role::Worker {
            return Err(ContextError::Worker);
        }
        let place = Place::of(&ticket);
        let name = name.map_or_else(|| name_of(&ticket.host), str::to_owned);
        match self.get(&name) {
            Ok(other) if other.place.ca != place.ca => {
                return Err(ContextError::Taken { name, address: other.place.address() });
            }
            Ok(_) | Err(ContextError::Unknown { .. } | ContextError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        private_folder(&self.folder).map_err(Self::io(&self.folder))?;
        // Not yet where the one is that may be there: this ticket may be refused.
        let new = self.file(&name, "new");
        let link = async {
            let _ = fs::remove_file(&new);
            Dialer::kept_at(ticket, &new).dial().await
        };
        let link = link.await.inspect_err(|_| drop(fs::remove_file(&new)))?;
        let pem = self.file(&name, "pem");
        fs::rename(&new, &pem).map_err(Self::io(&pem))?;
        let text = serde_json::to_vec_pretty(&place).map_err(|error| Self::io(&self.folder)(error.into()))?;
        self.write(&self.file(&name, "json"), &text)?;
        Ok((self.choose(&name)?, link))
    }

    /// Forgets a farm, by default the current one.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot be removed.
    pub fn logout(&self, name: Option<&str>) -> Result<Context, ContextError> {
        let current = self.current()?;
        let context = match name {
            Some(name) => self.get(name)?,
            None => current.clone().ok_or(ContextError::NotLoggedIn)?,
        };
        if current.as_ref() == Some(&context) {
            let path = self.folder.join(CURRENT);
            fs::remove_file(&path).map_err(Self::io(&path))?;
        }
        for ending in ["pem", "json"] {
            let path = self.file(&context.name, ending);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Self::io(&path)(error)),
                _ => {}
            }
        }
        Ok(context)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ContextError> {
        let write = || -> io::Result<()> {
            // A temporary file is 0600 from the start.
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(bytes)?;
            file.persist(path)?;
            Ok(())
        };
        write().map_err(Self::io(path))
    }
}

fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.')
}

/// What a farm on that host is called: addresses may have letters that are not for names.
fn name_of(host: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    let name: String = host.chars().map(|letter| if fits(letter) { letter } else { '-' }).take(MAX_NAME).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(folder: &Path) -> Contexts {
        let contexts = Contexts { folder: folder.join("contexts") };
        private_folder(&contexts.folder).expect("a folder");
        contexts
    }

    fn put(contexts: &Contexts, name: &str) -> Context {
        let place = Place { host: "h".to_owned(), port: 7117, role: Role::User, ca: Digest::of(name.as_bytes()) };
        contexts.write(&contexts.file(name, "json"), &serde_json::to_vec(&place).expect("JSON")).expect("written");
        Context { name: name.to_owned(), place }
    }

    #[test]
    fn one_of_them_is_current_until_it_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let contexts = contexts(folder.path());
        assert_eq!(contexts.current().expect("readable"), None);
        let (a, b) = (put(&contexts, "a"), put(&contexts, "b"));
        assert_eq!(contexts.all().expect("readable"), [a.clone(), b.clone()]);
        contexts.choose("b").expect("known");
        assert_eq!(contexts.current().expect("readable"), Some(b.clone()));
        assert_eq!(contexts.logout(Some("a")).expect("known"), a);
        assert_eq!(contexts.current().expect("readable"), Some(b.clone()));
        assert_eq!(contexts.logout(None).expect("current"), b);
        assert_eq!(contexts.current().expect("readable"), None);
        assert!(matches!(contexts.logout(None), Err(ContextError::NotLoggedIn)));
        assert!(matches!(contexts.logout(Some("a")), Err(ContextError::Unknown { .. })));
        assert!(matches!(contexts.choose("../a"), Err(ContextError::Name(_))));
    }

    #[test]
    fn what_is_kept_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let contexts = contexts(folder.path());
        put(&contexts, "a");
        contexts.choose("a").expect("known");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&contexts.folder), 0o700);
        assert_eq!(mode(&contexts.file("a", "json")), 0o600);
        assert_eq!(mode(&contexts.folder.join(CURRENT)), 0o600);
    }

    #[test]
    fn farms_are_called_as_their_hosts() {
        for (host, name) in [("login.example.org", "login.example.org"), ("::1", "--1"), ("127.0.0.1", "127.0.0.1")] {
            assert_eq!(name_of(host), name);
            assert!(is_name(name));
        }
        for bad in ["", ".", "..", "a/b", ".hidden", "a b"] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
