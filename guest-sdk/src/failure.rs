//! Why a call gave no result.

use std::error::Error;
use std::fmt;

/// Why a call gave no result. The same cases as `failure` in `wit/farm.wit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no function of that name. Holds the names that there are, joined by ", ".
    NoSuchFunction(String),
    /// The input is not what the function takes. Holds what was wrong, and where.
    BadArguments(String),
    /// The function returned an error. Holds its text.
    ReturnedError(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchFunction(names) if names.is_empty() => f.write_str("this module has no functions"),
            Self::NoSuchFunction(names) => write!(f, "no such function; there is {names}"),
            Self::BadArguments(why) | Self::ReturnedError(why) => f.write_str(why),
        }
    }
}

impl Error for Failure {}
