//! Tickets that run out, are used up or are taken back, and certificates that are renewed.

use std::fs;
use std::time::Duration;

use farm_link::LinkError;
use farm_link::dial::{self, Dialer};
use farm_link::identity::Identity;
use farm_proto::close;
use farm_proto::ids::TicketId;
use farm_proto::message::{Request, RequestError, Response};
use farm_proto::ticket::{NewTicket, Role, Ticket, TicketStatus};
use farm_scheduler::admin;

use crate::support::{Client, Farm, WorkerKind, limited, range_job, until};

fn new(role: Role, name: &str) -> NewTicket {
    NewTicket { role, name: name.to_owned(), cluster: None, valid_s: 600, uses: None }
}

async fn list(client: &Client) -> Vec<TicketStatus> {
    match client.ask(Request::Tickets).await.unwrap() {
        Response::Tickets(tickets) => tickets,
        other => panic!("{other:?}"),
    }
}

async fn find(client: &Client, ticket: TicketId) -> Option<TicketStatus> {
    list(client).await.into_iter().find(|status| status.ticket == ticket)
}

async fn revoke(client: &Client, ticket: TicketId) -> TicketStatus {
    match client.ask(Request::Revoke { ticket }).await.unwrap() {
        Response::Revoked(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Why a ticket is refused at enrolment.
async fn refusal(ticket: &Ticket) -> String {
    match dial::enrol(ticket).await {
        Err(LinkError::Refused { reason }) => reason,
        other => panic!("{other:?}"),
    }
}

/// What becomes of a connection with that identity.
async fn ends_with(ticket: &Ticket, identity: &Identity) -> LinkError {
    match dial::connect_as(ticket, identity).await {
        Ok(link) => link.connection.closed().await.into(),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_revoked(error: &LinkError, words: &str) {
    assert!(matches!(error, LinkError::Revoked { reason } if reason.contains(words)), "{error:?}");
    assert!(!error.is_passing());
}

#[test]
fn a_ticket_lets_in_as_often_as_it_says_across_restarts() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        let (ticket, status) = client.new_ticket(NewTicket { uses: Some(2), ..new(Role::User, "ada") }).await.unwrap();
        assert_eq!(status.uses_left, Some(2));
        dial::enrol(&ticket).await.unwrap();
        let farm = farm.crash().await;
        assert_eq!(find(&farm.client().await, status.ticket).await.unwrap().uses_left, Some(1));
        let last = dial::enrol(&ticket).await.unwrap();
        assert!(refusal(&ticket).await.contains("as often as it may"));
        let farm = farm.restart().await;
        assert!(refusal(&ticket).await.contains("as often as it may"));
        // Whoever is in is in.
        let link = dial::connect_as(&ticket, &last).await.unwrap();
        assert_eq!(Client { link }.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
        farm.stop().await;
    });
}

#[test]
fn a_request_that_cannot_be_signed_costs_nothing() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        let (ticket, _) = client.new_ticket(NewTicket { uses: Some(1), ..new(Role::User, "ada") }).await.unwrap();
        let connection = crate::support::stranger(&ticket, farm_proto::ALPN_ENROL).await;
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut writer = farm_link::stream::FrameWriter::new(send);
        let mut reader = farm_link::stream::FrameReader::new(receive);
        let enrol = farm_proto::message::Enrol { secret: ticket.secret.clone(), csr: b"rubbish".to_vec() };
        writer.send(&enrol, bytes::Bytes::new()).await.unwrap();
        let (answer, _) = reader.expect().await.unwrap();
        assert!(matches!(answer, farm_proto::message::Enrolled::Refused { .. }), "{answer:?}");
        dial::enrol(&ticket).await.unwrap();
        farm.stop().await;
    });
}

#[test]
fn who_came_with_a_revoked_ticket_is_cut_off() {
    limited(async {
        let farm = Farm::start().await;
        let admin = farm.client().await;
        let (hers, status) = admin.new_ticket(new(Role::User, "ada")).await.unwrap();
        let (other, _) = admin.new_ticket(new(Role::User, "ada")).await.unwrap();
        let identity = dial::enrol(&hers).await.unwrap();
        let link = dial::connect_as(&hers, &identity).await.unwrap();
        let spared = Client::connect(&other).await;
        until(async || find(&admin, status.ticket).await.unwrap().connections == 1).await;

        let revoked = revoke(&admin, status.ticket).await;
        assert!(revoked.revoked_ms.is_some());
        assert_revoked(&link.connection.closed().await.into(), "this ticket was revoked");
        assert_revoked(&ends_with(&hers, &identity).await, "this ticket was revoked");
        assert!(refusal(&hers).await.contains("revoked"));
        // The same person by another ticket is not meant.
        assert_eq!(spared.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
        // It is stored, and revoking it again changes nothing.
        let farm = farm.crash().await;
        assert_revoked(&ends_with(&hers, &identity).await, "this ticket was revoked");
        let admin = farm.client().await;
        assert_eq!(revoke(&admin, status.ticket).await.revoked_ms, revoked.revoked_ms);
        let none = TicketId(status.ticket.0 ^ 1);
        assert_eq!(admin.refused(Request::Revoke { ticket: none }).await, RequestError::NoSuchTicket(none));
        farm.stop().await;
    });
}

#[test]
fn an_admin_hears_of_its_own_revocation() {
    limited(async {
        let farm = Farm::start().await;
        let (ticket, status) = farm.client().await.new_ticket(new(Role::Admin, "root")).await.unwrap();
        let root = Client::connect(&ticket).await;
        assert!(revoke(&root, status.ticket).await.revoked_ms.is_some());
        assert_revoked(&root.link.connection.closed().await.into(), "this ticket was revoked");
        farm.stop().await;
    });
}

#[test]
fn a_worker_that_is_cut_off_is_not_taken_for_one_that_crashed() {
    limited(async {
        let farm = Farm::start_with(|options| options.core.crash_limit = 1).await;
        let admin = farm.client().await;
        admin.put_module().await;
        let (ticket, status) = admin.new_ticket(new(Role::Worker, "w")).await.unwrap();
        let (seen, mut sees) = tokio::sync::mpsc::unbounded_channel();
        let worker = crate::support::Worker::start(&ticket, 1, WorkerKind::Silent(seen)).await;
        let job = admin.detach(range_job(0, 3)).await;
        while !matches!(sees.recv().await, Some(crate::support::worker::Seen::Lease(..))) {}
        revoke(&admin, status.ticket).await;
        assert_revoked(&worker.link.connection.closed().await.into(), "this ticket was revoked");
        let _other = farm.squares(1).await;
        admin.watch(job, 0, true).await.assert_squares(0, 3);
        farm.stop().await;
    });
}

#[test]
fn a_certificate_is_renewed_and_so_outlives_itself() {
    limited(async {
        let farm = Farm::start_with(|options| options.certificate_validity = Some(Duration::from_secs(3))).await;
        let client = farm.client().await;
        let (ticket, _) = client.new_ticket(NewTicket { uses: Some(1), ..new(Role::User, "ada") }).await.unwrap();
        let kept = tempfile::tempdir().unwrap();
        let mut dialer = Dialer::new(ticket.clone(), Some(kept.path()));
        dialer.dial().await.unwrap();
        // The ticket is used up, and each certificate lasts for three seconds.
        for _ in 0..4 {
            let renewal = dialer.renewal_in().unwrap();
            assert!(renewal <= Duration::from_secs(2), "{renewal:?}");
            tokio::time::sleep(renewal + Duration::from_millis(20)).await;
            // Whoever comes next finds it where it is kept.
            let mut next = Dialer::new(ticket.clone(), Some(kept.path()));
            next.dial().await.unwrap();
            assert!(next.renewal_in().unwrap() > Duration::ZERO);
            dialer = next;
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        match dialer.dial().await {
            Err(LinkError::Refused { reason }) => assert!(reason.contains("as often as it may"), "{reason}"),
            other => panic!("{other:?}"),
        }
        farm.stop().await;
    });
}

#[test]
fn tickets_that_are_over_are_forgotten_but_not_before() {
    limited(async {
        let farm = Farm::start_with(|options| options.certificate_validity = Some(Duration::from_secs(3))).await;
        let client = farm.client().await;
        let short = |name| NewTicket { valid_s: 1, ..new(Role::User, name) };
        let (_, unused) = client.new_ticket(short("unused")).await.unwrap();
        let (ticket, used) = client.new_ticket(short("used")).await.unwrap();
        let ada = Client::connect(&ticket).await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        client.new_ticket(new(Role::User, "bob")).await.unwrap();
        assert_eq!(find(&client, unused.ticket).await, None);
        assert!(find(&client, used.ticket).await.is_some(), "there is a certificate of it, and a connection");
        let reason = refusal(&ticket).await;
        assert!(reason.contains("its time is over since"), "{reason}");
        assert_eq!(ada.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
        farm.stop().await;
    });
}

#[test]
fn the_tickets_of_the_state_folder_last_until_they_are_revoked() {
    limited(async {
        let farm = Farm::start().await;
        let read = |farm: &Farm| fs::read_to_string(farm.folder.path().join("worker.ticket")).unwrap();
        let first = read(&farm);
        let farm = farm.restart().await;
        assert_eq!(read(&farm), first);
        let admin = farm.client().await;
        let ticket: Ticket = first.parse().unwrap();
        dial::enrol(&ticket).await.unwrap();
        let by_scheduler = |status: &TicketStatus| status.role == Role::Worker && status.created_by == "the scheduler";
        let status = list(&admin).await.into_iter().find(by_scheduler).unwrap();
        assert_eq!((status.name.as_str(), status.cluster.as_deref()), ("worker", Some("default")));
        revoke(&admin, status.ticket).await;
        assert!(refusal(&ticket).await.contains("revoked"));
        let farm = farm.restart().await;
        assert_ne!(read(&farm), first);
        dial::enrol(&read(&farm).parse().unwrap()).await.unwrap();
        farm.stop().await;
    });
}

#[test]
fn a_farm_from_a_backup_does_not_know_later_tickets() {
    limited(async {
        let farm = Farm::start().await;
        let copy = tempfile::tempdir().unwrap();
        let (from, to) = (farm.folder.path().to_owned(), copy.path().to_owned());
        tokio::task::spawn_blocking(move || admin::backup(&from, &to).unwrap()).await.unwrap();
        let (ticket, _) = farm.client().await.new_ticket(new(Role::User, "ada")).await.unwrap();
        let identity = dial::enrol(&ticket).await.unwrap();
        farm.stop().await;
        let farm = Farm::start_at(copy, |_| {}).await;
        let ticket = Ticket { port: farm.admin.port, ..ticket };
        assert!(refusal(&ticket).await.contains("backup"));
        assert_revoked(&ends_with(&ticket, &identity).await, "does not know this ticket");
        farm.stop().await;
    });
}

#[test]
fn tickets_that_make_no_sense_are_refused() {
    limited(async {
        let farm = Farm::start().await;
        let admin = farm.client().await;
        let bad = [
            NewTicket { cluster: Some("a b".to_owned()), ..new(Role::Worker, "w") },
            NewTicket { cluster: Some("gpu".to_owned()), ..new(Role::User, "ada") },
            NewTicket { uses: Some(0), ..new(Role::User, "ada") },
            NewTicket { valid_s: 0, ..new(Role::User, "ada") },
        ];
        for new in bad {
            let refused = admin.new_ticket(new.clone()).await;
            assert!(matches!(refused, Err(RequestError::Invalid(_))), "{new:?}");
        }
        let good = NewTicket { cluster: Some("gpu".to_owned()), ..new(Role::Worker, "w") };
        let (ticket, status) = admin.new_ticket(good).await.unwrap();
        assert_eq!(status.cluster.as_deref(), Some("gpu"));
        let worker = crate::support::Worker::start(&ticket, 1, WorkerKind::Squares).await;
        worker.link.close(close::DONE).await;
        farm.stop().await;
    });
}
