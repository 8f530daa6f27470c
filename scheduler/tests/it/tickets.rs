//! Who is let in, and what they may do.

use std::time::Duration;

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::dial;
use farm_proto::close;
use farm_proto::ids::{JobId, TicketId};
use farm_proto::message::{Open, Request, RequestError, Response};
use farm_proto::ticket::{NewTicket, Role};
use quinn::ConnectionError;

use crate::support::client::submit;
use crate::support::worker::control_of;
use crate::support::{Client, Farm, limited, range_job};

#[test]
fn a_wrong_secret_is_refused() {
    limited(async {
        let farm = Farm::start().await;
        for secret in ["", "x", "c29tZXRoaW5n", &farm.admin.secret[2..]] {
            let mut ticket = farm.admin.clone();
            ticket.secret = secret.to_owned();
            match dial::connect(&ticket, None).await {
                Err(LinkError::Refused { reason }) => assert!(reason.contains("not a ticket"), "{reason}"),
                other => panic!("let in with {secret:?}: {other:?}"),
            }
        }
        farm.stop().await;
    });
}

#[test]
fn an_expired_secret_is_refused_for_another_reason() {
    limited(async {
        let farm = Farm::start().await;
        let ticket = farm.client().await.ticket(Role::User, "late", 1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        match dial::connect(&ticket, None).await {
            Err(LinkError::Refused { reason }) => assert!(reason.contains("over"), "{reason}"),
            other => panic!("let in: {other:?}"),
        }
        farm.stop().await;
    });
}

#[test]
fn tickets_and_identities_of_another_farm_do_not_fit() {
    limited(async {
        let (farm, other) = (Farm::start().await, Farm::start().await);
        // A ticket that leads to the wrong scheduler.
        let mut ticket = other.admin.clone();
        ticket.port = farm.admin.port;
        let result = dial::connect(&ticket, None).await;
        assert!(matches!(result, Err(LinkError::WrongFarm { .. })), "{result:?}");
        // A secret of another farm.
        ticket.ca = farm.admin.ca;
        let result = dial::connect(&ticket, None).await;
        assert!(matches!(result, Err(LinkError::Refused { .. })), "{result:?}");
        // A certificate of another farm: TLS ends it as soon as the scheduler has seen it.
        let stranger = dial::enrol(&other.admin).await.unwrap();
        if let Ok(link) = dial::connect_as(&farm.admin, &stranger).await {
            let error = link.connection.closed().await;
            assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error:?}");
        }
        farm.stop().await;
        other.stop().await;
    });
}

#[test]
fn an_identity_is_kept_and_used_again() {
    limited(async {
        let farm = Farm::start().await;
        let kept = tempfile::tempdir().unwrap();
        let ticket = farm.client().await.ticket(Role::User, "alice", 1).await.unwrap();
        let link = dial::connect(&ticket, Some(kept.path())).await.unwrap();
        link.close(close::DONE).await;
        // The ticket's time is over, the certificate's is not.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let link = dial::connect(&ticket, Some(kept.path())).await.unwrap();
        let client = Client { link };
        assert_eq!(client.ask(Request::Jobs).await.unwrap(), Response::Jobs(Vec::new()));
        farm.stop().await;
    });
}

#[test]
fn without_a_certificate_there_is_only_enrolment() {
    limited(async {
        let farm = Farm::start().await;
        let link = crate::support::stranger(&farm.admin, farm_proto::ALPN).await;
        let ConnectionError::ApplicationClosed(closed) = link.closed().await else { panic!("not closed") };
        assert_eq!(closed.error_code, close::FORBIDDEN.into());
        farm.stop().await;
    });
}

#[test]
fn tickets_are_made_by_admins_only_and_let_in_whom_they_name() {
    limited(async {
        let farm = Farm::start().await;
        let (admin, user) = (farm.client().await, farm.user("alice").await);
        let refused = user.ticket(Role::User, "bob", 60).await;
        assert_eq!(refused, Err(RequestError::Forbidden(Role::Admin)));
        for (name, valid_s) in [("", 60), ("a/b", 60), ("a", 0), ("a", u64::MAX)] {
            let refused = admin.ticket(Role::User, name, valid_s).await;
            assert!(matches!(refused, Err(RequestError::Invalid(_))), "{name:?} {valid_s}");
        }
        let ticket = admin.ticket(Role::Admin, "carol", 60).await.unwrap();
        assert_eq!((ticket.host.as_str(), ticket.port, ticket.ca), ("127.0.0.1", farm.admin.port, farm.admin.ca));
        let carol = Client::connect(&ticket).await;
        carol.ticket(Role::User, "dave", 60).await.unwrap();
        farm.stop().await;
    });
}

#[test]
fn users_see_their_own_jobs_only() {
    limited(async {
        let farm = Farm::start().await;
        let (alice, bob, admin) = (farm.user("alice").await, farm.user("bob").await, farm.client().await);
        alice.put_module().await;
        let hers = alice.detach(range_job(0, 10)).await;
        let his = bob.detach(range_job(0, 10)).await;
        let jobs = async |client: &Client| match client.ask(Request::Jobs).await.unwrap() {
            Response::Jobs(jobs) => jobs.iter().map(|status| status.job).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            (jobs(&alice).await, jobs(&bob).await, jobs(&admin).await),
            (vec![hers], vec![his], vec![hers, his])
        );
        assert_eq!(alice.status(hers).await.owner, "alice");
        for request in [
            Request::Job { job: hers },
            Request::Cancel { job: hers },
            Request::Watch { job: hers, from: 0, follow: true },
        ] {
            assert_eq!(bob.refused(request).await, RequestError::NoSuchJob(hers));
        }
        assert_eq!(admin.cancel(his).await.counts.cancelled, 10);
        assert_eq!(bob.refused(Request::Shutdown).await, RequestError::Forbidden(Role::Admin));
        farm.stop().await;
    });
}

#[test]
fn workers_work_and_do_nothing_else() {
    limited(async {
        let farm = Farm::start().await;
        farm.client().await.put_module().await;
        let worker = Client::connect(&farm.worker).await;
        let job = JobId(1);
        for request in [
            submit(range_job(0, 1), false),
            Request::Missing { digests: Vec::new() },
            Request::Watch { job, from: 0, follow: true },
            Request::Jobs,
            Request::Job { job },
            Request::Cancel { job },
            Request::Farm,
        ] {
            assert_eq!(worker.refused(request).await, RequestError::Forbidden(Role::User));
        }
        let new = NewTicket { role: Role::Admin, name: "w".to_owned(), cluster: None, valid_s: 1, uses: None };
        let revoke = Request::Revoke { ticket: TicketId(1) };
        for request in [Request::Ticket(new), Request::Tickets, revoke, Request::Shutdown] {
            assert_eq!(worker.refused(request).await, RequestError::Forbidden(Role::Admin));
        }
        farm.stop().await;
    });
}

#[test]
fn others_do_not_work() {
    limited(async {
        let farm = Farm::start().await;
        for open in [control_of(1), Open::Work] {
            let user = farm.user("alice").await;
            let (mut writer, _reader) = user.link.open().await.unwrap();
            writer.send(&open, Bytes::new()).await.unwrap();
            let ConnectionError::ApplicationClosed(closed) = user.link.connection.closed().await else {
                panic!("not closed")
            };
            assert_eq!(closed.error_code, close::FORBIDDEN.into());
        }
        farm.stop().await;
    });
}
