//! The configuration file, `farm.toml`: what a farm allows whom.
//!
//! ```toml
//! [limits]                    # of each user, unless the user has others
//! workers = 20                # in the clusters that the user has made, all together
//! slots = 640                 # likewise
//! stored_bytes = "10GiB"      # what the user's jobs keep on the scheduler's disk
//!
//! [users.ada]                 # instead of these
//! stored_bytes = "100GiB"
//!
//! [clusters]
//! users_may_create = false    # or admins only
//!
//! [provider.slurm]            # see SlurmConfig
//! partition = "cms"
//! max_workers = 100
//! ```
//!
//! Every section and every entry may be left out. What is not known is an error: a misspelt limit is none. Admins have no
//! limits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use crate::identity::is_name;
use crate::{LocalConfig, SlurmConfig};

/// What the configuration file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Of users who have no other.
    pub limits: Limits,
    /// Of users by name, entry by entry in the place of [`Self::limits`].
    pub users: BTreeMap<String, Limits>,
    pub clusters: ClusterConfig,
    pub provider: ProviderConfig,
}

/// What is said about those who start workers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderConfig {
    pub local: LocalConfig,
    pub slurm: SlurmConfig,
}

/// What a user may use at most; none for as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Workers of the user's clusters, all together.
    pub workers: Option<u32>,
    /// Slots of these workers, all together.
    pub slots: Option<u32>,
    /// What the user's jobs keep on the scheduler's disk.
    pub stored_bytes: Option<Size>,
}

/// What is said about clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterConfig {
    /// Whether users may make clusters, or admins only.
    pub users_may_create: bool,
}

/// A number of bytes, written as `4096`, `"64KiB"` or `"1.5GB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}, line {line}, column {column}: {message}")]
    Invalid { path: PathBuf, line: usize, column: usize, message: String },
    #[error("{path}: the section users.{user:?} can be nobody's: users are called by 1 to {max} letters, digits, and `.`, `_`, `-`, `@`",
        max = crate::identity::MAX_NAME)]
    User { path: PathBuf, user: String },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or does not say what it should.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = place(text, error.span().map_or(0, |span| span.start));
            // It may be of several lines.
            let message = error.message().split('\n').map(str::trim).collect::<Vec<_>>().join(", ");
            ConfigError::Invalid { path: path.to_owned(), line, column, message }
        })?;
        match config.users.keys().find(|user| !is_name(user)) {
            Some(user) => Err(ConfigError::User { path: path.to_owned(), user: user.clone() }),
            None => Ok(config),
        }
    }

    /// What a user may use.
    pub fn limits_of(&self, user: &str) -> Limits {
        let own = self.users.get(user).copied().unwrap_or_default();
        Limits {
            workers: own.workers.or(self.limits.workers),
            slots: own.slots.or(self.limits.slots),
            stored_bytes: own.stored_bytes.or(self.limits.stored_bytes),
        }
    }
}

/// Line and column of a byte, counted from 1; columns in letters.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "a size is written 4096, 64KiB, 512MiB or 2GiB";
        const UNITS: [(&str, u64); 14] = [
            ("", 1),
            ("B", 1),
            ("K", 1 << 10),
            ("KiB", 1 << 10),
            ("kB", 1000),
            ("M", 1 << 20),
            ("MiB", 1 << 20),
            ("MB", 1_000_000),
            ("G", 1 << 30),
            ("GiB", 1 << 30),
            ("GB", 1_000_000_000),
            ("T", 1 << 40),
            ("TiB", 1 << 40),
            ("TB", 1_000_000_000_000),
        ];
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: f64 = number.replace('_', "").parse().map_err(|_| HELP)?;
        let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
        let (_, factor) = factor.ok_or(HELP)?;
        let value = number * *factor as f64;
        if value.is_finite() && value <= u64::MAX as f64 { Ok(Self(value as u64)) } else { Err(HELP.to_owned()) }
    }
}

/// As people write it: with the largest unit of 1024s that leaves a digit in front of the point.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{} {}", format!("{value:.1}").trim_end_matches(".0"), UNITS[unit])
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfSize;
        impl Visitor<'_> for OfSize {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, as 4096 or \"10GiB\"")
            }

            fn visit_i64<E: serde::de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(|_| E::custom("a size is not less than nothing"))
            }

            fn visit_u64<E: serde::de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(OfSize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("farm.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn limits_are_of_all_users_or_of_one() {
        let config = parse(
            "[limits]\nworkers = 20\nstored_bytes = \"10GiB\"\n[users.ada]\nstored_bytes = 4096\nslots = 8\n\
             [users.\"bob@x.org\"]\nworkers = 1\n[clusters]\nusers_may_create = true\n",
        )
        .unwrap();
        let all = Limits { workers: Some(20), slots: None, stored_bytes: Some(Size(10 << 30)) };
        assert_eq!(config.limits_of("carol"), all);
        assert_eq!(config.limits_of("ada"), Limits { slots: Some(8), stored_bytes: Some(Size(4096)), ..all });
        assert_eq!(config.limits_of("bob@x.org"), Limits { workers: Some(1), ..all });
        assert!(config.clusters.users_may_create);
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(Config::default().limits_of("ada"), Limits::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, place, words) in [
            ("[limits]\nworker = 20\n", "line 2, column 1", "unknown field `worker`"),
            ("[limit]\n", "line 1, column 2", "unknown field `limit`"),
            ("[users.ada]\nslots = -1\n", "line 2, column 9", "invalid value"),
            ("[limits]\nslots = \"many\"\n", "line 2, column 9", "invalid type"),
            ("[limits]\nstored_bytes = \"10 parsecs\"\n", "line 2, column 16", "a size is written"),
            ("[limits]\nstored_bytes = -1\n", "line 2, column 16", "less than nothing"),
            ("[limits\n", "line 1, column 8", ""),
            ("[limits]\nslots = 1\nslots = 2\n", "line 3, column 1", "duplicate key"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("farm.toml, {place}: ")), "{text:?}: {error}");
            assert!(error.contains(words) && !error.contains('\n'), "{text:?}: {error}");
        }
        let error = parse("[users.\"a b\"]\n").unwrap_err();
        assert!(error.contains("users.\"a b\""), "{error}");
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("4096", 4096, "4 KiB"),
            ("1.5GiB", 3 << 29, "1.5 GiB"),
            ("10TiB", 10 << 40, "10 TiB"),
            ("1_000", 1000, "1000 B"),
            ("2 kB", 2000, "2 KiB"),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), shown);
        }
        assert!("lots".parse::<Size>().is_err());
        assert!("".parse::<Size>().is_err());
    }
}
