//! Where `farm` keeps things.
//!
//! | what | where | override |
//! |---|---|---|
//! | state: local farms, identities | `$XDG_STATE_HOME/farm`, else `~/.local/state/farm` | `FARM_HOME` |
//! | configuration: `farm.toml` | `$XDG_CONFIG_HOME/farm`, else `~/.config/farm` | `farm scheduler --config` |
//! | cache: prepared modules, compiled artefacts | `$XDG_CACHE_HOME/farm`, else `~/.cache/farm` | `FARM_CACHE` |

use std::env;
use std::path::{Path, PathBuf};

/// The folders of one user, all below two roots.
#[derive(Debug, Clone)]
pub struct Home {
    state: PathBuf,
    cache: PathBuf,
    config: PathBuf,
}

impl Home {
    /// Reads the environment. Without a home directory, everything goes below the system's temporary folder.
    pub fn from_env() -> Self {
        let below_home = |rest: &str| env::home_dir().unwrap_or_else(env::temp_dir).join(rest);
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let xdg = |name, rest| set(name).map_or_else(|| below_home(rest), |folder| folder.join("farm"));
        let root = |own, name, rest| set(own).unwrap_or_else(|| xdg(name, rest));
        Self {
            state: root("FARM_HOME", "XDG_STATE_HOME", ".local/state/farm"),
            cache: root("FARM_CACHE", "XDG_CACHE_HOME", ".cache/farm"),
            config: xdg("XDG_CONFIG_HOME", ".config/farm"),
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

    /// What a scheduler is configured by, unless it is told another file.
    pub fn config_file(&self) -> PathBuf {
        self.config.join("farm.toml")
    }

    /// Certificates and keys of this user, one file for each ticket.
    pub fn identities(&self) -> PathBuf {
        self.state.join("identities")
    }

    /// The farms that this user has logged in to.
    pub fn contexts(&self) -> PathBuf {
        self.state.join("contexts")
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
