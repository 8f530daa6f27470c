//! What a certificate says of its bearer: `farm:ROLE/NAME`, a URI among its subject's alternative names.

use std::fmt;

use farm_proto::ticket::Role;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::is_name;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    pub(crate) name: String,
}

impl Caller {
    pub(crate) fn uri(&self) -> String {
        format!("farm:{self}")
    }

    /// Reads a certificate that TLS has verified. None if it is not one that enrolment made.
    pub(crate) fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Self::of_uri(uri),
            _ => None,
        })
    }

    fn of_uri(uri: &str) -> Option<Self> {
        let (role, name) = uri.strip_prefix("farm:")?.split_once('/')?;
        is_name(name).then_some(())?;
        Some(Self { role: role.parse().ok()?, name: name.to_owned() })
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether jobs of `owner` are this caller's to see.
    pub(crate) fn may_see(&self, owner: &str) -> bool {
        self.is_admin() || (self.role == Role::User && self.name == owner)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}
