//! Where `farm` keeps things.
//!
//! | what | where | override |
//! |---|---|---|
//! | state: local farms, identities | `$XDG_STATE_HOME/farm`, else `~/.local/state/farm` | `FARM_HOME` |
//! | cache: prepared modules, compiled artefacts | `$XDG_CACHE_HOME/farm`, else `~/.cache/farm` | `FARM_CACHE` |

use std::env;
use std::path::{Path, PathBuf};

/// The folders of one user, all below two roots.
#[derive(Debug, Clone)]
pub struct Home {
    state: PathBuf,
    cache: PathBuf,
}

impl Home {
    /// Reads the environment. Without a home directory, everything goes below the system's temporary folder.
    pub fn from_env() -> Self {
        let below_home = |rest: &str| env::home_dir().unwrap_or_else(env::temp_dir).join(rest);
        let root = |own: &str, xdg: &str, rest: &str| {
            let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
            set(own).or_else(|| set(xdg).map(|folder| folder.join("farm"))).unwrap_or_else(|| below_home(rest))
        };
        Self {
            state: root("FARM_HOME", "XDG_STATE_HOME", ".local/state/farm"),
            cache: root("FARM_CACHE", "XDG_CACHE_HOME", ".cache/farm"),
        }
    }

    /// The local farm of `farm up`.
    pub fn local_farm(&self) -> PathBuf {
        self.state.join("local")
    }

    /// The state of its scheduler, which outlives it.
    pub fn standing_state(&self) -> PathBuf {
        self.local_farm().join("state")
    }

    /// The state of a scheduler that is told no other place.
    pub fn scheduler(&self) -> PathBuf {
        self.state.join("scheduler")
    }

    /// Certificates and keys of this user, one file for each farm and role.
    pub fn identities(&self) -> PathBuf {
        self.state.join("identities")
    }

    /// Modules as the farm wants them, by the digest of what the user gave.
    pub fn prepared(&self) -> PathBuf {
        self.cache.join("prepared")
    }

    /// Compiled modules, shared by all workers of this user on this machine.
    pub fn artefacts(&self) -> PathBuf {
        self.cache.join("artefacts")
    }

    /// The root of it all; workers keep blobs and artefacts below it.
    pub fn cache(&self) -> &Path {
        &self.cache
    }
}
