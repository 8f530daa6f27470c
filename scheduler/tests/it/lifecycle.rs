//! How schedulers start and end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use farm_link::LinkError;
use farm_proto::close;
use farm_proto::ids::{Digest, JobId};
use farm_proto::message::{Request, Response};
use farm_proto::ticket::{Role, Ticket};
use farm_scheduler::{Scheduler, SchedulerError};
use quinn::ConnectionError;

use crate::support::client::MODULE;
use crate::support::{Client, Farm, limited, options, range_job, until};

#[test]
fn a_handle_ends_it_and_everyone_hears_of_it() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let worker = farm.squares(1).await;
        let watching = client.submit(range_job(0, 10), Bytes::new()).await;
        watching.finish().await.assert_squares(0, 10);
        farm.handle.shutdown();
        worker.ended().await;
        let ConnectionError::ApplicationClosed(closed) = client.link.connection.closed().await else {
            panic!("not closed")
        };
        assert_eq!(closed.error_code, close::SHUTDOWN.into());
        farm.ended().await;
    });
}

#[test]
fn an_admin_ends_it_though_jobs_wait_and_a_worker_does_not_leave() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let mut watching = client.submit(range_job(0, 10), Bytes::new()).await;
        let stubborn = farm_link::dial::connect(&farm.worker, None).await.unwrap();
        let _streams = crate::support::worker::Streams::open(&stubborn, 1).await;
        assert_eq!(client.ask(Request::Shutdown).await.unwrap(), Response::Stopping);
        farm.ended().await;
        loop {
            match watching.reader.next::<Response>().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended as if the job had"),
                Err(LinkError::Lost(ConnectionError::ApplicationClosed(closed))) => {
                    break assert_eq!(closed.error_code, close::SHUTDOWN.into());
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_folder_and_a_port_have_one_scheduler() {
    limited(async {
        let farm = Farm::start().await;
        let error = Scheduler::start(options(farm.folder.path())).await.unwrap_err();
        let SchedulerError::InUse { holder, .. } = &error else { panic!("{error:?}") };
        assert!(holder.contains(&farm.address.to_string()), "{holder}");
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
        let other = tempfile::tempdir().unwrap();
        let error = Scheduler::start(options(other.path()).listen(farm.address)).await.unwrap_err();
        assert!(matches!(error, SchedulerError::Listen { .. }), "{error:?}");
        // What was begun is given up again.
        Scheduler::start(options(other.path())).await.unwrap();
        farm.stop().await;
    });
}

#[test]
fn a_folder_that_is_something_else_is_refused() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), "not a certificate").unwrap();
        let error = Scheduler::start(options(folder.path())).await.unwrap_err();
        assert!(matches!(error, SchedulerError::Foreign { .. }), "{error:?}");
        let file = folder.path().join("ca.pem");
        let error = Scheduler::start(options(&file)).await.unwrap_err();
        assert!(matches!(error, SchedulerError::State { .. }), "{error:?}");
    });
}

#[test]
fn keys_are_made_once() {
    limited(async {
        // A first start that came to nothing is no farm yet.
        let folder = tempfile::tempdir().unwrap();
        drop(Scheduler::start(options(folder.path())).await.unwrap());
        for name in ["secret.key", "admin.ticket", "worker.ticket"] {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        let scheduler = Scheduler::start(options(folder.path())).await.unwrap();
        let address = scheduler.local_addr();
        drop(scheduler);
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        let ticket = read("worker.ticket");
        for name in ["ca.pem", "secret.key"] {
            let key = read(name);
            fs::remove_file(folder.path().join(name)).unwrap();
            let error = Scheduler::start(options(folder.path())).await.unwrap_err();
            assert!(matches!(&error, SchedulerError::Incomplete { path } if path.ends_with(name)), "{error:?}");
            fs::write(folder.path().join(name), key).unwrap();
        }
        // A ticket is written when there is none that will do.
        let start = async |address| {
            until(async || Scheduler::start(options(folder.path()).listen(address)).await.is_ok()).await;
        };
        start(address).await;
        assert_eq!(read("worker.ticket"), ticket);
        for spoilt in [&ticket[..40], b"", b"\xff"] {
            fs::write(folder.path().join("worker.ticket"), spoilt).unwrap();
            start(address).await;
            let written = String::from_utf8(read("worker.ticket")).unwrap().parse::<Ticket>().unwrap();
            assert_eq!((written.role, written.port), (Role::Worker, address.port()));
        }
        let elsewhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let before = read("worker.ticket");
        start(elsewhere).await;
        assert_ne!(read("worker.ticket"), before);
    });
}

#[test]
fn identities_blobs_jobs_and_results_outlive_a_scheduler() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(1).await;
        client.run(range_job(0, 10_000), Bytes::new()).await.assert_squares(0, 10_000);
        let before = client.status(JobId(1)).await;
        let (ca, secret) = (farm.admin.ca, farm.admin.secret.clone());
        let folder = farm.stop().await;
        fs::write(folder.path().join("blobs/new/half"), "of a blob").unwrap();

        let scheduler = Scheduler::start(options(folder.path())).await.unwrap();
        let (address, handle) = (scheduler.local_addr(), scheduler.handle());
        let running = tokio::spawn(scheduler.run());
        // An old secret still lets in.
        let ticket = Ticket { host: "127.0.0.1".to_owned(), port: address.port(), role: Role::Admin, ca, secret };
        let client = Client::connect(&ticket).await;
        assert_eq!(client.get(Digest::of(MODULE)).await.unwrap(), MODULE);
        let Response::Jobs(jobs) = client.ask(Request::Jobs).await.unwrap() else { panic!("no jobs") };
        assert_eq!(jobs, [before]);
        client.watch(JobId(1), 0, true).await.assert_squares(0, 10_000);
        assert!(!fs::exists(folder.path().join("blobs/new/half")).unwrap());
        assert_eq!(client.detach(range_job(0, 1)).await, JobId(2));
        handle.shutdown();
        running.await.unwrap().unwrap();
    });
}

#[test]
fn tickets_are_written_for_the_owner_only() {
    limited(async {
        let farm = Farm::start().await;
        for name in ["admin.ticket", "worker.ticket", "ca.pem", "secret.key", "lock"] {
            let mode = fs::metadata(farm.folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let read = |name| fs::read_to_string(farm.folder.path().join(name)).unwrap().parse::<Ticket>().unwrap();
        let client = Client::connect(&read("admin.ticket")).await;
        assert_eq!(read("worker.ticket").role, Role::Worker);
        let status = client.farm().await;
        assert_eq!((status.pid, status.live_jobs), (std::process::id(), 0));
        assert!(status.memory > 1 << 20);
        farm.stop().await;
    });
}

#[test]
fn dropping_it_frees_everything() {
    limited(async {
        let folder = tempfile::tempdir().unwrap();
        let scheduler = Scheduler::start(options(folder.path())).await.unwrap();
        let address = scheduler.local_addr();
        let running = tokio::spawn(scheduler.run());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        running.abort();
        let _ = running.await;
        until(async || Scheduler::start(options(folder.path()).listen(address)).await.is_ok()).await;
    });
}
