//! Tickets as rows.

use std::path::Path;

use farm_proto::ids::TicketId;
use farm_proto::ticket::{Role, TicketStatus};
use rusqlite::{Connection, Row, params};

use super::StoreError;
use super::codec::Sum;
use super::rows::{maybe, number};

/// The columns of `tickets` that [`ticket`] reads.
pub(crate) const TICKET: &str =
    "ticket, role, name, cluster, created_by, created_ms, expires_s, uses_left, certified_s, revoked_ms, sum";

/// What is known of a ticket. Not its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TicketRow {
    pub(crate) ticket: TicketId,
    pub(crate) role: Role,
    pub(crate) name: String,
    /// Workers have one, others do not.
    pub(crate) cluster: Option<String>,
    /// For people.
    pub(crate) created_by: String,
    pub(crate) created_ms: u64,
    /// Until when it buys certificates, in seconds since the Unix epoch.
    pub(crate) expires_s: u64,
    /// How many it still buys; none for any number.
    pub(crate) uses_left: Option<u64>,
    /// No certificate of this ticket is valid after that, in seconds since the Unix epoch.
    pub(crate) certified_s: u64,
    pub(crate) revoked_ms: Option<u64>,
}

impl TicketRow {
    /// About how much storing it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        let Self { name, cluster, created_by, .. } = self;
        128 + name.len() + created_by.len() + cluster.as_ref().map_or(0, String::len)
    }

    /// What people are told of it.
    pub(crate) fn status(&self, connections: u32) -> TicketStatus {
        let Self { ticket, role, created_ms, expires_s, revoked_ms, .. } = *self;
        TicketStatus {
            ticket,
            role,
            name: self.name.clone(),
            cluster: self.cluster.clone(),
            created_by: self.created_by.clone(),
            created_ms,
            expires_s,
            uses_left: self.uses_left.map(|uses| u32::try_from(uses).unwrap_or(u32::MAX)),
            revoked_ms,
            connections,
        }
    }

    fn sum(&self) -> [u8; 16] {
        Sum::new("tickets")
            .number(self.ticket.0.into())
            .bytes(self.role.as_str().as_bytes())
            .bytes(self.name.as_bytes())
            .number(self.cluster.is_some().into())
            .bytes(self.cluster.as_deref().unwrap_or_default().as_bytes())
            .bytes(self.created_by.as_bytes())
            .number(self.created_ms)
            .number(self.expires_s)
            .maybe(self.uses_left)
            .number(self.certified_s)
            .maybe(self.revoked_ms)
            .finish()
    }
}

/// Writes a ticket as it is now, in the place of what it was.
pub(super) fn put_ticket(connection: &Connection, row: &TicketRow) -> rusqlite::Result<()> {
    let sql = format!("INSERT OR REPLACE INTO tickets ({TICKET}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    connection.prepare_cached(&sql)?.execute(params![
        row.ticket.0,
        row.role.as_str(),
        row.name,
        row.cluster,
        row.created_by,
        row.created_ms.cast_signed(),
        row.expires_s.cast_signed(),
        row.uses_left.map(u64::cast_signed),
        row.certified_s.cast_signed(),
        row.revoked_ms.map(u64::cast_signed),
        row.sum(),
    ])?;
    Ok(())
}

/// Drops a ticket that is over.
pub(super) fn forget_ticket(connection: &Connection, ticket: TicketId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM tickets WHERE ticket = ?")?.execute([ticket.0])?;
    Ok(())
}

/// Reads [`TICKET`], and checks that it is what was written.
pub(crate) fn ticket(row: &Row<'_>, path: &Path) -> Result<TicketRow, StoreError> {
    let id = number(row, 0).map_err(StoreError::of(path))?;
    let corrupt = || StoreError::corrupt(path, format!("table tickets, ticket {id:08x}: not what was written"));
    let ticket = TicketId(u32::try_from(id).map_err(|_| corrupt())?);
    let read = || -> rusqlite::Result<_> {
        let Ok(role) = row.get_ref(1)?.as_str()?.parse() else { return Ok(None) };
        let found = TicketRow {
            ticket,
            role,
            name: row.get(2)?,
            cluster: row.get(3)?,
            created_by: row.get(4)?,
            created_ms: number(row, 5)?,
            expires_s: number(row, 6)?,
            uses_left: maybe(row, 7)?,
            certified_s: number(row, 8)?,
            revoked_ms: maybe(row, 9)?,
        };
        Ok((row.get::<_, [u8; 16]>(10)? == found.sum()).then_some(found))
    };
    // A column of another type is a sum that does not fit.
    read().ok().flatten().ok_or_else(corrupt)
}

/// All tickets.
pub(super) fn tickets(connection: &Connection, path: &Path) -> Result<Vec<TicketRow>, StoreError> {
    let sqlite = StoreError::of(path);
    let mut statement = connection.prepare(&format!("SELECT {TICKET} FROM tickets")).map_err(&sqlite)?;
    let mut found = statement.query([]).map_err(&sqlite)?;
    let mut tickets = Vec::new();
    while let Some(row) = found.next().map_err(&sqlite)? {
        tickets.push(ticket(row, path)?);
    }
    Ok(tickets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SchedulerError;
    use crate::admin;
    use crate::store::tests::world::{SOUND, World};
    use crate::store::{Durability, Record};

    fn row(number: u32) -> TicketRow {
        let is_worker = number.is_multiple_of(2);
        TicketRow {
            ticket: TicketId(u32::MAX - number),
            role: if is_worker { Role::Worker } else { Role::User },
            name: format!("n{number}"),
            cluster: is_worker.then(|| "gpu".to_owned()),
            created_by: "admin/root".to_owned(),
            created_ms: 1_700_000_000_000,
            expires_s: 1_800_000_000,
            uses_left: is_worker.then_some(3),
            certified_s: 0,
            revoked_ms: None,
        }
    }

    fn put(row: &TicketRow) -> Record {
        Record::Ticket(Box::new(row.clone()))
    }

    #[test]
    fn tickets_are_there_again_as_they_last_were() {
        let mut world = World::new(Durability::Synced);
        let (one, two) = (row(1), row(2));
        world.commit(&[put(&one), put(&two), put(&row(3))]);
        let two = TicketRow { uses_left: Some(2), certified_s: 99, revoked_ms: Some(5), ..two };
        world.commit(&[put(&two), Record::TicketForgotten { ticket: row(3).ticket }]);
        world.reopen();
        let mut found = world.tickets.clone();
        found.sort_by_key(|row| std::cmp::Reverse(row.ticket));
        assert_eq!(found, [one, two]);
        world.close();
        assert_eq!(admin::check(world.path()).unwrap().faults, SOUND);
    }

    #[test]
    fn a_ticket_that_was_changed_by_others_is_noticed() {
        for change in ["uses_left = 4", "revoked_ms = NULL", "role = 'admin'", "expires_s = expires_s + 1"] {
            let mut world = World::new(Durability::Synced);
            world.commit(&[put(&TicketRow { revoked_ms: Some(7), ..row(2) })]);
            world.close();
            let database = Connection::open(world.path().join("farm.sqlite")).unwrap();
            database.execute(&format!("UPDATE tickets SET {change}"), []).unwrap();
            drop(database);
            let faults = admin::check(world.path()).unwrap().faults;
            assert!(
                faults.iter().any(|fault| fault.contains("table tickets, ticket fffffffd")),
                "{change}: {faults:?}"
            );
            let refused = world.try_open().unwrap_err();
            assert!(matches!(refused, SchedulerError::Corrupt { .. }), "{change}: {refused}");
        }
    }
}
