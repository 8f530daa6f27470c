//! What a certificate says of its bearer: `farm:ROLE/NAME?cluster=CLUSTER&ticket=ID`, a URI among its subject's
//! alternative names. Only workers have a cluster, and each of them has one.

use std::fmt;

use farm_proto::ids::TicketId;
use farm_proto::ticket::{Role, is_cluster_name};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::is_name;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    pub(crate) name: String,
    /// The cluster that a worker works in; none for everyone else.
    pub(crate) cluster: Option<String>,
    /// What it came with.
    pub(crate) ticket: TicketId,
}

impl Caller {
    pub(crate) fn uri(&self) -> String {
        let Self { role, name, cluster, ticket } = self;
        match cluster {
            Some(cluster) => format!("farm:{role}/{name}?cluster={cluster}&ticket={ticket}"),
            None => format!("farm:{role}/{name}?ticket={ticket}"),
        }
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
        let (role, rest) = uri.strip_prefix("farm:")?.split_once('/')?;
        let (name, query) = rest.split_once('?')?;
        let role: Role = role.parse().ok()?;
        let (cluster, ticket) = match query.strip_prefix("cluster=") {
            Some(rest) => rest.split_once('&').map(|(cluster, ticket)| (Some(cluster.to_owned()), ticket))?,
            None => (None, query),
        };
        let has_its_own = cluster.is_some() == (role == Role::Worker) && cluster.as_deref().is_none_or(is_cluster_name);
        (is_name(name) && has_its_own).then_some(())?;
        let ticket = ticket.strip_prefix("ticket=")?.parse().ok()?;
        Some(Self { role, name: name.to_owned(), cluster, ticket })
    }

    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether jobs of `owner` are this caller's to see.
    pub(crate) fn may_see(&self, owner: &str) -> bool {
        self.is_admin() || (self.role == Role::User && self.name == owner)
    }
}

/// For logs and lists: `role/name`.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_says_is_read_back() {
        let user =
            Caller { role: Role::User, name: "ada@x.org".to_owned(), cluster: None, ticket: TicketId(0x00c0_ffee) };
        assert_eq!(user.uri(), "farm:user/ada@x.org?ticket=00c0ffee");
        let worker = Caller { role: Role::Worker, cluster: Some("gpu-2".to_owned()), ..user.clone() };
        assert_eq!(worker.uri(), "farm:worker/ada@x.org?cluster=gpu-2&ticket=00c0ffee");
        for caller in [user, worker] {
            assert_eq!(Caller::of_uri(&caller.uri()), Some(caller));
        }
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        for uri in [
            "farm:user/ada",
            "farm:user/ada?ticket=1",
            "farm:user/ada?ticket=0000000g",
            "farm:user/a b?ticket=00000001",
            "farm:user/ada?cluster=gpu&ticket=00000001",
            "farm:worker/w?ticket=00000001",
            "farm:worker/w?cluster=-&ticket=00000001",
            "farm:boss/ada?ticket=00000001",
            "http://user/ada?ticket=00000001",
        ] {
            assert_eq!(Caller::of_uri(uri), None, "{uri}");
        }
    }
}
