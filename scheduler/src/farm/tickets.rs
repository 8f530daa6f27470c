//! Tickets: who made which, what each still buys, and what was taken back.
//!
//! A ticket is a row. That it was made and that a use of it is gone is stored before anyone is told; a revocation holds
//! before it is stored. The [`Admission`] is told of all
//! of it, and closes connections.
//!
//! A row is kept for as long as anybody may come with a secret or a certificate of it. To know when that is over without
//! storing something for each certificate, a row [says](TicketRow::certified_s) until when there may be some, and that is
//! moved on by a whole validity at a time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farm_proto::ids::TicketId;
use farm_proto::message::RequestError;
use farm_proto::ticket::{DEFAULT_CLUSTER, NewTicket, Role, TicketStatus, is_cluster_name};

use super::owner::Owner;
use super::{Ask, Farm, Reply};
use crate::clock::unix_ms;
use crate::error::TicketRefused;
use crate::identity::admission::Admission;
use crate::identity::caller::Caller;
use crate::identity::secret::{TicketVoid, in_time, random, unix_now};
use crate::identity::{MAX_TICKET, certificate_validity, is_name};
use crate::store::{Record, TicketRow};
use crate::{Options, SchedulerError};

/// A certificate is signed within this time after it was promised.
const SIGNED: Duration = Duration::from_secs(60);

/// What is asked about tickets.
#[derive(Debug)]
pub(super) enum TicketAsk {
    New { new: NewTicket, by: String, reply: Reply<TicketRow> },
    List { reply: Reply<Vec<TicketStatus>> },
    Revoke { ticket: TicketId, by: String, last: Option<usize>, reply: Reply<TicketStatus> },
    Enrol { ticket: TicketId, reply: Reply<Result<Bearer, TicketVoid>> },
    Renew { ticket: TicketId, reply: Reply<Result<Bearer, TicketVoid>> },
}

/// Whom a certificate is to be made for.
#[derive(Debug, Clone)]
pub(crate) struct Bearer {
    pub(crate) caller: Caller,
    /// Of the certificate.
    pub(crate) validity: Duration,
}

/// All tickets.
#[derive(Debug)]
pub(super) struct Tickets {
    rows: BTreeMap<TicketId, TicketRow>,
    admission: Arc<Admission>,
    /// Of certificates, if it is not the usual one.
    validity: Option<Duration>,
    /// Tickets that were made and may not be stored yet: when that many records are written, they are.
    unstored: BTreeMap<TicketId, u64>,
    /// Who is to be told when so many records are written. Ascending.
    waiting: VecDeque<(u64, Waiter)>,
}

#[derive(Debug)]
enum Waiter {
    New(TicketRow, Reply<TicketRow>),
    Revoked(TicketId, Reply<TicketStatus>),
    /// The use is given back if it cannot be stored.
    Certified(Bearer, Reply<Result<Bearer, TicketVoid>>, Use),
}

/// What a certificate takes of its ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    One,
    Nothing,
}

impl Farm {
    async fn ask_ticket<T>(&self, ask: impl FnOnce(Reply<T>) -> TicketAsk) -> Result<T, RequestError> {
        self.ask(|reply| Ask::Ticket(ask(reply))).await
    }

    /// Makes a ticket. Answers once it is stored.
    pub(crate) async fn new_ticket(&self, new: NewTicket, by: String) -> Result<TicketRow, RequestError> {
        self.ask_ticket(|reply| TicketAsk::New { new, by, reply }).await
    }

    pub(crate) async fn tickets(&self) -> Result<Vec<TicketStatus>, RequestError> {
        self.ask_ticket(|reply| TicketAsk::List { reply }).await
    }

    /// Takes back a ticket and closes the connections of those who came with it, but for that of `last`. Answers once it
    /// is stored.
    pub(crate) async fn revoke(
        &self,
        ticket: TicketId,
        by: String,
        last: Option<usize>,
    ) -> Result<TicketStatus, RequestError> {
        self.ask_ticket(|reply| TicketAsk::Revoke { ticket, by, last, reply }).await
    }

    /// Takes a use of a ticket, for a certificate. Answers once it is stored.
    pub(crate) async fn enrol(&self, ticket: TicketId) -> Result<Result<Bearer, TicketVoid>, RequestError> {
        self.ask_ticket(|reply| TicketAsk::Enrol { ticket, reply }).await
    }

    /// Allows another certificate to someone who has one of this ticket.
    pub(crate) async fn renew(&self, ticket: TicketId) -> Result<Result<Bearer, TicketVoid>, RequestError> {
        self.ask_ticket(|reply| TicketAsk::Renew { ticket, reply }).await
    }
}

impl Tickets {
    pub(super) fn recover(rows: Vec<TicketRow>, admission: Arc<Admission>, options: &Options) -> Self {
        for row in &rows {
            admission.allow(row.ticket);
            if row.revoked_ms.is_some() {
                admission.revoke(row.ticket, None);
            }
        }
        let rows = rows.into_iter().map(|row| (row.ticket, row)).collect();
        Self {
            rows,
            admission,
            validity: options.certificate_validity,
            unstored: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    fn status(&self, row: &TicketRow) -> TicketStatus {
        row.status(self.admission.connections(row.ticket))
    }
}

impl Owner {
    pub(super) fn answer_ticket(&mut self, ask: TicketAsk) {
        match ask {
            TicketAsk::New { new, by, reply } => match self
                .commits
                .check_trouble()
                .and_then(|()| self.make_ticket(&new, by).map_err(|error| RequestError::Invalid(error.to_string())))
            {
                Ok((row, number)) => self.tickets.waiting.push_back((number, Waiter::New(row, reply))),
                Err(error) => drop(reply.send(Err(error))),
            },
            TicketAsk::List { reply } => {
                let mut rows: Vec<_> = self.tickets.rows.values().collect();
                rows.sort_by_key(|row| (row.created_ms, row.ticket));
                let _ = reply.send(Ok(rows.into_iter().map(|row| self.tickets.status(row)).collect()));
            }
            TicketAsk::Revoke { ticket, by, last, reply } => self.revoke(ticket, &by, last, reply),
            TicketAsk::Enrol { ticket, reply } => self.certify(ticket, Use::One, reply),
            TicketAsk::Renew { ticket, reply } => self.certify(ticket, Use::Nothing, reply),
        }
    }

    /// What is known of a ticket.
    pub(crate) fn ticket(&self, ticket: TicketId) -> Option<&TicketRow> {
        self.tickets.rows.get(&ticket)
    }

    /// Makes a ticket, which is stored with the next commit: the row, and how many records are written then.
    ///
    /// # Errors
    ///
    /// There can be no such ticket, or the system has no randomness to give.
    pub(crate) fn make_ticket(&mut self, new: &NewTicket, by: String) -> Result<(TicketRow, u64), SchedulerError> {
        let valid_s = check(new)?.as_secs();
        self.forget_tickets();
        let ticket = loop {
            let ticket = TicketId(u32::from_le_bytes(random()?));
            if !self.tickets.rows.contains_key(&ticket) {
                break ticket;
            }
        };
        let default = || (new.role == Role::Worker).then(|| DEFAULT_CLUSTER.to_owned());
        let row = TicketRow {
            ticket,
            role: new.role,
            name: new.name.clone(),
            cluster: new.cluster.clone().or_else(default),
            created_by: by,
            created_ms: unix_ms(),
            expires_s: unix_now() + valid_s,
            uses_left: new.uses.map(u64::from),
            certified_s: 0,
            revoked_ms: None,
        };
        let TicketRow { role, name, created_by, .. } = &row;
        tracing::info!(%ticket, %role, name, by = created_by, valid_s, uses = new.uses, "made a ticket");
        self.tickets.admission.allow(ticket);
        self.tickets.rows.insert(ticket, row.clone());
        let number = self.commits.add_other(Record::Ticket(Box::new(row.clone())));
        self.tickets.unstored.insert(ticket, number);
        Ok((row, number))
    }

    /// Drops the tickets that nobody can come with any more.
    fn forget_tickets(&mut self) {
        let now = unix_now();
        let (admission, commits) = (&self.tickets.admission, &mut self.commits);
        self.tickets.rows.retain(|&ticket, row| {
            let is_over = row.expires_s.max(row.certified_s) < now && admission.forget(ticket);
            if is_over {
                commits.add_other(Record::TicketForgotten { ticket });
            }
            !is_over
        });
    }

    fn revoke(&mut self, ticket: TicketId, by: &str, last: Option<usize>, reply: Reply<TicketStatus>) {
        let Some(row) = self.tickets.rows.get_mut(&ticket) else {
            let _ = reply.send(Err(RequestError::NoSuchTicket(ticket)));
            return;
        };
        // A repeated question waits for the answer to the first, which may be under way.
        let is_new = row.revoked_ms.is_none();
        let row = TicketRow { revoked_ms: row.revoked_ms.or_else(|| Some(unix_ms())), ..row.clone() };
        self.tickets.admission.revoke(ticket, last);
        if is_new {
            tracing::info!(%ticket, by, role = %row.role, name = row.name, "ticket revoked");
        }
        self.tickets.rows.insert(ticket, row.clone());
        let number = self.commits.add_other(Record::Ticket(Box::new(row)));
        self.tickets.waiting.push_back((number, Waiter::Revoked(ticket, reply)));
    }

    /// Promises a certificate of a ticket.
    fn certify(&mut self, ticket: TicketId, uses: Use, reply: Reply<Result<Bearer, TicketVoid>>) {
        let (row, bearer) = match self.promise(ticket, uses) {
            Ok(promise) => promise,
            Err(void) => return drop(reply.send(Ok(Err(void)))),
        };
        // Until when there may be certificates is not worth a wait, nor to turn anybody away while the disk is full.
        let is_counted = uses == Use::One && row.uses_left.is_some();
        if is_counted && let Err(error) = self.commits.check_trouble() {
            return drop(reply.send(Err(error)));
        }
        if self.tickets.rows.get(&ticket) != Some(&row) {
            self.tickets.rows.insert(ticket, row.clone());
            self.commits.add_other(Record::Ticket(Box::new(row)));
        }
        if is_counted || self.tickets.unstored.contains_key(&ticket) {
            self.tickets.waiting.push_back((self.commits.added(), Waiter::Certified(bearer, reply, uses)));
        } else {
            let _ = reply.send(Ok(Ok(bearer)));
        }
    }

    /// Whom a certificate of a ticket would be for, and what the ticket then is.
    fn promise(&self, ticket: TicketId, uses: Use) -> Result<(TicketRow, Bearer), TicketVoid> {
        let mut row = self.ticket(ticket).cloned().ok_or(TicketVoid::Unknown)?;
        if row.revoked_ms.is_some() {
            return Err(TicketVoid::Revoked);
        }
        if uses == Use::One {
            in_time(row.expires_s)?;
            row.uses_left = match row.uses_left {
                Some(0) => return Err(TicketVoid::UsedUp),
                uses => uses.map(|uses| uses - 1),
            };
        }
        let validity = self.tickets.validity.unwrap_or_else(|| certificate_validity(row.role));
        let until = unix_now() + (validity + SIGNED).as_secs();
        if until > row.certified_s {
            row.certified_s = until + validity.as_secs();
        }
        let TicketRow { role, name, cluster, .. } = row.clone();
        Ok((row, Bearer { caller: Caller { role, name, cluster, ticket }, validity }))
    }

    /// Answers those whose records are written; if nothing can be written, those whose are not.
    pub(super) fn settle_tickets(&mut self) {
        let written = self.commits.written();
        self.tickets.unstored.retain(|_, number| *number > written);
        while let Some(&(number, _)) = self.tickets.waiting.front()
            && let Some(result) = self.commits.fate(number)
            && let Some((_, waiter)) = self.tickets.waiting.pop_front()
        {
            match waiter {
                Waiter::New(row, reply) => drop(reply.send(result.map(|()| row))),
                Waiter::Revoked(ticket, reply) => {
                    let status = self.tickets.rows.get(&ticket).map(|row| self.tickets.status(row));
                    let status = status.ok_or(RequestError::NoSuchTicket(ticket));
                    let _ = reply.send(result.and(status));
                }
                Waiter::Certified(bearer, reply, uses) => {
                    if result.is_err() && uses == Use::One {
                        self.give_back(bearer.caller.ticket);
                    }
                    let _ = reply.send(result.map(|()| Ok(bearer)));
                }
            }
        }
    }

    /// A use was taken of a ticket that nobody got anything for. Its record is still on its way to the disk, and this one
    /// is behind it.
    fn give_back(&mut self, ticket: TicketId) {
        if let Some(row) = self.tickets.rows.get_mut(&ticket)
            && let Some(uses) = &mut row.uses_left
        {
            *uses += 1;
            let record = Record::Ticket(Box::new(row.clone()));
            self.commits.add_other(record);
        }
    }
}

/// For how long a new ticket is to be valid.
fn check(new: &NewTicket) -> Result<Duration, TicketRefused> {
    let NewTicket { role, name, cluster, valid_s, uses } = new;
    if !is_name(name) {
        return Err(TicketRefused::Name(name.clone()));
    }
    match cluster {
        Some(_) if *role != Role::Worker => return Err(TicketRefused::NoCluster(*role)),
        Some(cluster) if !is_cluster_name(cluster) => return Err(TicketRefused::Cluster(cluster.clone())),
        _ => {}
    }
    if *uses == Some(0) {
        return Err(TicketRefused::Uses);
    }
    let validity = Duration::from_secs(*valid_s);
    if validity.is_zero() || validity > MAX_TICKET {
        return Err(TicketRefused::Validity);
    }
    Ok(validity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_for_plain_names_and_bounded_times() {
        let good = NewTicket { role: Role::Worker, name: "w".to_owned(), cluster: None, valid_s: 60, uses: Some(1) };
        assert_eq!(check(&good), Ok(Duration::from_secs(60)));
        assert!(check(&NewTicket { cluster: Some("gpu".to_owned()), ..good.clone() }).is_ok());
        for name in ["", "a/b", "a b", "ü", &"x".repeat(65)] {
            let refused = check(&NewTicket { name: name.to_owned(), ..good.clone() });
            assert!(matches!(refused, Err(TicketRefused::Name(_))), "{name}");
        }
        for valid_s in [0, MAX_TICKET.as_secs() + 1, u64::MAX] {
            assert_eq!(check(&NewTicket { valid_s, ..good.clone() }), Err(TicketRefused::Validity));
        }
        let cluster = Some("a b".to_owned());
        assert!(matches!(check(&NewTicket { cluster, ..good.clone() }), Err(TicketRefused::Cluster(_))));
        let of_user = NewTicket { role: Role::User, cluster: Some("gpu".to_owned()), ..good.clone() };
        assert_eq!(check(&of_user), Err(TicketRefused::NoCluster(Role::User)));
        assert_eq!(check(&NewTicket { uses: Some(0), ..good }), Err(TicketRefused::Uses));
    }
}
