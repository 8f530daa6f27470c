//! Peers that speak rubbish, or stop in the middle.

use std::net::UdpSocket;

use bytes::Bytes;
use farm_link::dial;
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::{JobId, LeaseId};
use farm_proto::message::{Batch, Open, Request, Response, WorkerControl, WorkerWork};
use farm_proto::outcome::{Failure, FailureKind};
use farm_proto::ticket::Ticket;
use farm_proto::{ALPN_ENROL, close, frame};
use quinn::{Connection, ConnectionError};
use tokio::sync::mpsc;

use crate::support::worker::{Seen, Streams, control_of};
use crate::support::{Farm, Worker, WorkerKind, limited, range_job, stranger};

/// The number with which the scheduler closes a connection.
async fn closed(connection: &Connection) -> u64 {
    match connection.closed().await {
        ConnectionError::ApplicationClosed(closed) => closed.error_code.into_inner(),
        other => panic!("not closed with a number: {other:?}"),
    }
}

/// Still serves those who behave.
async fn still_well(farm: &Farm) {
    let client = farm.client().await;
    client.put_module().await;
    let _worker = farm.squares(1).await;
    client.run(range_job(0, 10), Bytes::new()).await.assert_squares(0, 10);
}

fn rubbish() -> Vec<Vec<u8>> {
    let message = |text: &[u8]| [(text.len() as u32).to_le_bytes().as_slice(), &[0; 4], text].concat();
    vec![
        // Lengths beyond all limits.
        vec![0xff; 64],
        // A message that is none.
        message(b"\xff\xff\xff\xff\xff"),
        message(b""),
        // Half a frame.
        message(b"\0\0\0\0")[..10].to_vec(),
        frame::encode(&Open::Work, 100).unwrap().to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ]
}

#[test]
fn rubbish_in_front_of_everything_closes_the_connection() {
    limited(async {
        let farm = Farm::start().await;
        let tickets: [(&Ticket, &str); 2] = [(&farm.admin, "admin"), (&farm.worker, "worker")];
        for (ticket, who) in tickets {
            for (index, bytes) in rubbish().into_iter().enumerate() {
                let link = dial::connect(ticket, None).await.unwrap();
                let (mut send, _receive) = link.connection.open_bi().await.unwrap();
                send.write_all(&bytes).await.unwrap();
                send.finish().unwrap();
                assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL), "{who} {index}");
            }
        }
        still_well(&farm).await;
        farm.stop().await;
    });
}

#[test]
fn rubbish_from_strangers_closes_the_connection() {
    limited(async {
        let farm = Farm::start().await;
        let mut rubbish = rubbish();
        // Fine for others, too long for a stranger.
        rubbish.push([1u32.to_le_bytes(), (1u32 << 20).to_le_bytes()].concat());
        for (index, bytes) in rubbish.into_iter().enumerate() {
            let connection = stranger(&farm.admin, ALPN_ENROL).await;
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            assert_eq!(closed(&connection).await, u64::from(close::PROTOCOL), "{index}");
        }
        // A good ticket and a bad signing request.
        let connection = stranger(&farm.admin, ALPN_ENROL).await;
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut writer = farm_link::stream::FrameWriter::new(send);
        let mut reader = farm_link::stream::FrameReader::new(receive);
        let secret = farm.admin.secret.clone();
        let enrol = farm_proto::message::Enrol { secret, csr: b"rubbish".to_vec() };
        writer.send(&enrol, Bytes::new()).await.unwrap();
        let (answer, _) = reader.expect().await.unwrap();
        assert!(matches!(answer, farm_proto::message::Enrolled::Refused { .. }), "{answer:?}");
        still_well(&farm).await;
        farm.stop().await;
    });
}

#[test]
fn datagrams_of_rubbish_change_nothing() {
    limited(async {
        let farm = Farm::start().await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for length in [0, 1, 20, 1200, 1452, 6000] {
            for first in [0u8, 0x40, 0xc0, 0xff] {
                let mut bytes = vec![first; length];
                bytes.iter_mut().skip(1).enumerate().for_each(|(n, byte)| *byte = (n * 31) as u8);
                socket.send_to(&bytes, farm.address).unwrap();
            }
        }
        still_well(&farm).await;
        farm.stop().await;
    });
}

#[test]
fn whoever_stops_in_the_middle_is_not_waited_for() {
    limited(async {
        let farm = Farm::start().await;
        let mut connections = Vec::new();
        let request = frame::encode(&Open::Request(Request::Jobs), 0).unwrap();
        // In the middle of a frame, and of a blob.
        let blob = Request::PutBlob { digest: farm_proto::ids::Digest::of(b"x"), size: 1 << 20, ask: false };
        let blob = frame::encode(&Open::Request(blob), 0).unwrap();
        for bytes in [&request[..5], &request[..request.len() - 1], &blob] {
            let link = dial::connect(&farm.admin, None).await.unwrap();
            let (mut send, receive) = link.connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            connections.push((link, send, receive));
        }
        // A stranger who says nothing at all, one who stops, and a worker without a work stream.
        let silent = stranger(&farm.admin, ALPN_ENROL).await;
        let slow = stranger(&farm.admin, ALPN_ENROL).await;
        let (mut send, _receive) = slow.open_bi().await.unwrap();
        send.write_all(&[7; 4]).await.unwrap();
        let half = dial::connect(&farm.worker, None).await.unwrap();
        let (mut writer, _reader) = half.open().await.unwrap();
        writer.send(&control_of(1), Bytes::new()).await.unwrap();
        still_well(&farm).await;
        for (link, _, _) in &connections {
            assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL));
        }
        for connection in [&silent, &slow, &half.connection] {
            assert_eq!(closed(connection).await, u64::from(close::PROTOCOL));
        }
        farm.stop().await;
    });
}

fn columns(count: u64) -> Bytes {
    let mut columns = ColumnsBuilder::new();
    (0..count).for_each(|_| columns.push(b"1"));
    columns.finish().encode()
}

fn batch(first: u64, count: u32) -> Batch {
    Batch { first, count, failures: Vec::new(), captured: Vec::new(), run_ns: 0, fetch_ns: 0, compile_ns: 0 }
}

#[test]
fn workers_that_break_the_protocol_are_closed_and_their_tasks_go_elsewhere() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let watching = client.submit(range_job(0, 100), Bytes::new()).await;
        let failure = Failure::new(FailureKind::Panic, "");
        type Answer = Box<dyn Fn(LeaseId, u64) -> (WorkerWork, Bytes)>;
        let answers: Vec<Answer> = vec![
            // Outside of the lease.
            Box::new(|lease, _| (WorkerWork::Results { lease, batch: batch(1_000_000, 1) }, columns(1))),
            Box::new(|lease, _| (WorkerWork::Returned { lease, first: 5_000, count: 1 }, Bytes::new())),
            // Of a lease that never was.
            Box::new(|_, first| (WorkerWork::Results { lease: LeaseId(u64::MAX), batch: batch(first, 1) }, columns(1))),
            Box::new(|_, task| {
                (WorkerWork::Lost { lease: LeaseId(u64::MAX), task, message: String::new() }, Bytes::new())
            }),
            // Contradictions.
            Box::new(|lease, first| (WorkerWork::Results { lease, batch: batch(first, 0) }, columns(0))),
            Box::new(|lease, first| (WorkerWork::Results { lease, batch: batch(first, 2) }, columns(1))),
            Box::new(|lease, first| (WorkerWork::Results { lease, batch: batch(first, 1) }, Bytes::from_static(b"x"))),
            Box::new(move |lease, first| {
                let failures = vec![(1, failure.clone()), (0, failure.clone())];
                (WorkerWork::Results { lease, batch: Batch { failures, ..batch(first, 2) } }, columns(2))
            }),
            Box::new(|lease, _| (WorkerWork::Results { lease, batch: batch(u64::MAX, 2) }, columns(2))),
        ];
        for (index, answer) in answers.into_iter().enumerate() {
            let link = dial::connect(&farm.worker, None).await.unwrap();
            let mut streams = Streams::open(&link, 1).await;
            // The first frame introduces the job, the second is the lease.
            let lease = loop {
                match streams.work.1.expect().await.unwrap().0 {
                    farm_proto::message::SchedulerWork::Lease(lease) => break lease,
                    farm_proto::message::SchedulerWork::Job { .. } => {}
                    farm_proto::message::SchedulerWork::Secrets { .. } => panic!("no job has any"),
                    farm_proto::message::SchedulerWork::Restored { .. } => panic!("no task has kept anything"),
                }
            };
            let (message, payload) = answer(lease.lease, lease.first);
            streams.work.0.send(&message, payload).await.unwrap();
            assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL), "{index}");
        }
        // A second stream of either kind, and jobs that one has never heard of.
        for open in [control_of(1), Open::Work] {
            let link = dial::connect(&farm.worker, None).await.unwrap();
            let _streams = Streams::open(&link, 1).await;
            let (mut writer, _reader) = link.open().await.unwrap();
            writer.send(&open, Bytes::new()).await.unwrap();
            assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL));
        }
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let mut streams = Streams::open(&link, 1).await;
        let unknown = WorkerControl::JobFailed { job: JobId(77), failure: Failure::new(FailureKind::BadModule, "") };
        streams.control.0.send(&unknown, Bytes::new()).await.unwrap();
        assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL));
        let link = dial::connect(&farm.worker, None).await.unwrap();
        let (mut writer, _reader) = link.open().await.unwrap();
        writer.send(&control_of(0), Bytes::new()).await.unwrap();
        assert_eq!(closed(&link.connection).await, u64::from(close::PROTOCOL));

        // Crashes are counted against tasks that may have been running: some have had all of theirs.
        let _worker = farm.squares(1).await;
        let watched = watching.finish().await;
        assert_eq!(watched.outcomes.len(), 100);
        assert!(watched.status().counts.succeeded >= 90, "{:?}", watched.status().counts);
        farm.stop().await;
    });
}

#[test]
fn there_is_room_for_so_many_and_again_when_they_have_gone() {
    limited(async {
        // One of them is the enrolment of the next, for a moment.
        let farm = Farm::start_with(|options| options.max_connections = 4).await;
        let identity = dial::enrol(&farm.admin).await.unwrap();
        let mut links = Vec::new();
        while links.len() < 4 {
            // The enrolment's connection ends when it has ended on both sides.
            if let Ok(link) = dial::connect_as(&farm.admin, &identity).await {
                links.push(link);
            }
        }
        assert!(dial::connect_as(&farm.admin, &identity).await.is_err());
        links.pop().unwrap().close(close::DONE).await;
        crate::support::until(async || dial::connect_as(&farm.admin, &identity).await.is_ok()).await;
        farm.stop().await;
    });
}

#[test]
fn a_watcher_that_does_not_read_holds_up_nobody() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let _worker = farm.squares(2).await;
        // More than its stream's window of results, none of it read.
        let lazy = farm.client().await;
        let watching = lazy.submit(range_job(0, 1_000_000), Bytes::new()).await;
        let watched = client.watch(watching.job, 0, true).await;
        watched.assert_squares(0, 1_000_000);
        // Late, but whole.
        watching.finish().await.assert_squares(0, 1_000_000);
        farm.stop().await;
    });
}

#[test]
fn whoever_resets_a_stream_ends_that_request_and_no_more() {
    limited(async {
        let farm = Farm::start().await;
        let client = farm.client().await;
        client.put_module().await;
        let (seen, mut saw) = mpsc::unbounded_channel();
        let _worker = Worker::start(&farm.worker, 1, WorkerKind::Silent(seen)).await;
        for _ in 0..200 {
            let (mut writer, mut reader) = client.link.open().await.unwrap();
            let open = Open::Request(Request::Watch { job: JobId(1), from: 0, follow: true });
            writer.send(&open, Bytes::new()).await.unwrap();
            writer.reset(9);
            reader.stop(9);
        }
        for _ in 0..200 {
            let mut watching = client.submit(range_job(0, 10), Bytes::new()).await;
            watching.reader.stop(9);
        }
        loop {
            if let Seen::Lease(..) = saw.recv().await.unwrap() {
                break;
            }
        }
        assert!(matches!(client.ask(Request::Jobs).await.unwrap(), Response::Jobs(jobs) if jobs.len() == 200));
        farm.stop().await;
    });
}
