//! Who is let in: which tickets are good, and the connections of those who came with each.
//!
//! The one thing about tickets that is not the [owner](crate::farm::owner)'s alone: connections come and go on tasks of
//! their own, and between looking at a ticket and noting a connection nobody may revoke it. The owner tells what becomes
//! of tickets; locked for a look-up, never while anything is waited for.

use std::collections::HashMap;
use std::sync::Mutex;

use farm_proto::close;
use farm_proto::ids::TicketId;
use quinn::Connection;

use super::secret::TicketVoid;
use crate::sync::locked;

/// What those are told whose connection is closed.
const REVOKED: &str = "this ticket was revoked";
const UNKNOWN: &str = "the farm does not know this ticket any more";

/// Tickets, and who is connected by them.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    tickets: Mutex<HashMap<TicketId, Ticket>>,
}

#[derive(Debug, Default)]
struct Ticket {
    is_revoked: bool,
    /// By their stable id.
    connections: HashMap<usize, Connection>,
}

/// A connection's entry; dropped with its task.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    admission: &'a Admission,
    ticket: TicketId,
    connection: usize,
}

impl Admission {
    /// Lets in whoever comes with certificates of this ticket.
    pub(crate) fn allow(&self, ticket: TicketId) {
        locked(&self.tickets).entry(ticket).or_default();
    }

    /// Lets in nobody with certificates of this ticket any more, and closes all connections of it but that of `last`,
    /// who is to hear of it first.
    pub(crate) fn revoke(&self, ticket: TicketId, last: Option<usize>) {
        let mut tickets = locked(&self.tickets);
        let entry = tickets.entry(ticket).or_default();
        entry.is_revoked = true;
        for (_, connection) in entry.connections.iter().filter(|(id, _)| Some(**id) != last) {
            connection.close(close::REVOKED.into(), REVOKED.as_bytes());
        }
    }

    /// Forgets a ticket of which no certificate is valid any more, unless somebody is still connected by it.
    pub(crate) fn forget(&self, ticket: TicketId) -> bool {
        let mut tickets = locked(&self.tickets);
        let is_idle = tickets.get(&ticket).is_none_or(|entry| entry.connections.is_empty());
        if is_idle {
            tickets.remove(&ticket);
        }
        is_idle
    }

    /// Notes a connection of someone with a certificate of this ticket.
    ///
    /// # Errors
    ///
    /// The ticket is not good. The connection is closed then.
    pub(crate) fn admit(&self, ticket: TicketId, connection: &Connection) -> Result<Admitted<'_>, TicketVoid> {
        let mut tickets = locked(&self.tickets);
        let (void, reason) = match tickets.get_mut(&ticket) {
            Some(entry) if !entry.is_revoked => {
                let id = connection.stable_id();
                entry.connections.insert(id, connection.clone());
                return Ok(Admitted { admission: self, ticket, connection: id });
            }
            Some(_) => (TicketVoid::Revoked, REVOKED),
            None => (TicketVoid::Unknown, UNKNOWN),
        };
        connection.close(close::REVOKED.into(), reason.as_bytes());
        Err(void)
    }

    /// Whether a ticket was revoked.
    pub(crate) fn is_revoked(&self, ticket: TicketId) -> bool {
        locked(&self.tickets).get(&ticket).is_some_and(|entry| entry.is_revoked)
    }

    /// Connections of a ticket at present.
    pub(crate) fn connections(&self, ticket: TicketId) -> u32 {
        let tickets = locked(&self.tickets);
        tickets.get(&ticket).map_or(0, |entry| u32::try_from(entry.connections.len()).unwrap_or(u32::MAX))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(entry) = locked(&self.admission.tickets).get_mut(&self.ticket) {
            entry.connections.remove(&self.connection);
        }
    }
}
