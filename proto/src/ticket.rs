//! Tickets: one string to paste that leads to a farm and lets its bearer in.
//!
//! ```text
//! farm://HOST:PORT/ROLE?ca=FINGERPRINT&secret=SECRET
//! ```
//!
//! The fingerprint is the BLAKE3 digest of the CA's certificate (DER): the bearer knows the farm before it says
//! anything. The secret is opaque to everyone but the scheduler that made it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, TicketId};

/// What a certificate allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything: sees every job, makes tickets, ends the farm.
    Admin,
    /// Submits jobs and sees its own.
    User,
    /// Runs what it is leased.
    Worker,
}

impl Role {
    /// The name in tickets and certificates.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::User => "user",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "admin" => Ok(Self::Admin),
            "user" => Ok(Self::User),
            "worker" => Ok(Self::Worker),
            other => Err(TicketError::Role(other.to_owned())),
        }
    }
}

/// The cluster of workers whose ticket names no other.
pub const DEFAULT_CLUSTER: &str = "default";
/// The longest name of a cluster.
const MAX_CLUSTER_NAME: usize = 32;

/// Whether a name is fit for a cluster: 1 to 32 letters, digits, `-` and `_`, of which the first is a letter or digit.
pub fn is_cluster_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=MAX_CLUSTER_NAME).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with(['-', '_'])
}

/// What a ticket is to allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTicket {
    pub role: Role,
    /// Who the bearer will be.
    pub name: String,
    /// Of a worker: where it works; without one, in [`DEFAULT_CLUSTER`]. Nobody else has one.
    pub cluster: Option<String>,
    /// For so many seconds from now, it can be traded for certificates.
    pub valid_s: u64,
    /// How often it can; any number of times if there is none.
    pub uses: Option<u32>,
}

/// A ticket as the farm knows it: without its secret, which nobody has but its bearer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketStatus {
    pub ticket: TicketId,
    pub role: Role,
    pub name: String,
    pub cluster: Option<String>,
    /// Who made it, as `role/name`.
    pub created_by: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Until when it can be traded for certificates, in seconds since the Unix epoch. Those that it was traded for go on
    /// being good, and are renewed, until it is revoked.
    pub expires_s: u64,
    /// How often it can still be traded; any number of times if there is none.
    pub uses_left: Option<u32>,
    /// When it was revoked, in milliseconds since the Unix epoch.
    pub revoked_ms: Option<u64>,
    /// Connections at present of those who came with it.
    pub connections: u32,
}

/// A way into a farm.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
    pub role: Role,
    /// Digest of the CA certificate, DER.
    pub ca: Digest,
    pub secret: String,
}

/// Why a text is no ticket. Never quotes the secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("a ticket begins with farm://")]
    Scheme,
    #[error("the ticket has a blank in it: it may have been torn when it was pasted")]
    Torn,
    #[error("the ticket names no host and port, as in farm://host:port/…")]
    Address,
    #[error("the ticket's role is {0:?}; there are admin, user and worker")]
    Role(String),
    #[error("the ticket lacks `{0}=`: it may have been cut off when it was pasted")]
    Lacks(&'static str),
    #[error("the ticket's fingerprint is {0}")]
    Fingerprint(#[from] crate::ids::ParseDigestError),
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, role, ca, secret } = self;
        if host.contains(':') {
            write!(f, "farm://[{host}]:{port}/{role}?ca={ca}&secret={secret}")
        } else {
            write!(f, "farm://{host}:{port}/{role}?ca={ca}&secret={secret}")
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, role, .. } = self;
        write!(f, "Ticket(farm://{host}:{port}/{role}?…)")
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.trim().strip_prefix("farm://").ok_or(TicketError::Scheme)?;
        if rest.contains(char::is_whitespace) {
            return Err(TicketError::Torn);
        }
        let (address, rest) = rest.split_once('/').ok_or(TicketError::Address)?;
        let (host, port) = address.rsplit_once(':').ok_or(TicketError::Address)?;
        let port = port.parse().map_err(|_| TicketError::Address)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['[', ']']) {
            return Err(TicketError::Address);
        }
        let (role, query) = rest.split_once('?').unwrap_or((rest, ""));
        // Without the question mark, the secret is not far, and what is taken for the role may be quoted.
        let role = role.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
        let value = |name: &'static str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == name && !value.is_empty()).then_some(value))
                .ok_or(TicketError::Lacks(name))
        };
        Ok(Self {
            host: host.to_owned(),
            port,
            role: role.parse()?,
            ca: value("ca")?.parse()?,
            secret: value("secret")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(host: &str) -> Ticket {
        Ticket {
            host: host.to_owned(),
            port: 7117,
            role: Role::Worker,
            ca: Digest::of(b"ca"),
            secret: "s3cret".to_owned(),
        }
    }

    #[test]
    fn a_ticket_is_written_and_read_back() {
        for host in ["127.0.0.1", "::1", "login.example.org"] {
            let ticket = ticket(host);
            assert_eq!(ticket.to_string().parse(), Ok(ticket));
        }
    }

    #[test]
    fn clusters_have_plain_names() {
        for name in ["default", "a", "gpu-2", "0x", &"c".repeat(32)] {
            assert!(is_cluster_name(name), "{name}");
        }
        for name in ["", "-a", "_a", "a b", "a/b", "a.b", "ü", "a?b=c", &"c".repeat(33)] {
            assert!(!is_cluster_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_the_secret_is_not() {
        let text = ticket("h").to_string();
        let cut = text.split("&secret").next().expect("the part in front");
        assert_eq!(cut.parse::<Ticket>(), Err(TicketError::Lacks("secret")));
        assert_eq!("http://x".parse::<Ticket>(), Err(TicketError::Scheme));
        assert_eq!("farm://x/admin".parse::<Ticket>(), Err(TicketError::Address));
        assert_eq!(text.replace("/worker", "/boss").parse::<Ticket>(), Err(TicketError::Role("boss".into())));
        assert!(!format!("{:?}", ticket("h")).contains("s3cret"));
        assert_eq!(text.replace('?', "").parse::<Ticket>(), Err(TicketError::Role("workerca".into())));
        assert_eq!(text.replace("s3", "s3\n").parse::<Ticket>(), Err(TicketError::Torn));
        assert_eq!(text.replace("//h", "//[[h]]").parse::<Ticket>(), Err(TicketError::Address));
    }
}
