//! Peers that speak rubbish, lie, or stop in the middle: the farm goes on for everybody else.

use std::net::UdpSocket;
use std::time::Duration;

use farm_link::dial::{self, Link};
use farm_proto::frame;
use farm_proto::ids::{Digest, JobId, LeaseId};
use farm_proto::message::{Batch, Open, Request, Resume, WorkerHello, WorkerWork};

use crate::support::{Farm, module, squares};
use crate::wat;

/// A farm with honest work under way; afterwards it is done, and so is new work.
fn while_work_goes_on(disturb: impl AsyncFnOnce(&Farm)) {
    let farm = Farm::new(1);
    let m = module(&farm.world, &wat::busy(1_000_000));
    let client = farm.farm(&["submit", m, "--range", "0..2000"]).start();
    farm.wait_until("1", "is under way", |status| status["counts"]["succeeded"].as_u64() > Some(10));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let disturbed = tokio::time::timeout(Duration::from_secs(60), disturb(&farm));
        disturbed.await.expect("the peer hangs");
    });
    assert_eq!(client.wait().with_code(0).json(), squares(2000));
    let square = module(&farm.world, wat::SQUARE);
    assert_eq!(farm.farm(&["submit", square, "--range", "0..100"]).succeeds().json(), squares(100));
    assert!(!farm.scheduler.log().contains("panicked"), "{}", farm.scheduler.log());
    assert!(!farm.workers[0].log().contains("panicked"), "{}", farm.workers[0].log());
}

async fn connect(ticket: &str) -> Link {
    dial::connect(&ticket.parse().expect("a ticket"), None).await.expect("a good ticket")
}

/// Numbers that are the same every time: xorshift64.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 32) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }
}

#[test]
fn datagrams_of_noise() {
    while_work_goes_on(async |farm| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let mut noise = Noise(1);
        for number in 0..3000 {
            let mut bytes = noise.bytes(1 + number % 1400);
            if number % 3 == 0 {
                // Looks like the first packet of a connection: long header, version 1.
                let start = [0xc3, 0, 0, 0, 1];
                bytes.splice(..start.len().min(bytes.len()), start);
            }
            // A full buffer is no concern of ours.
            let _ = socket.send_to(&bytes, &farm.scheduler.address);
        }
    });
}

/// What nobody sends who knows the protocol.
fn rubbish() -> Vec<Vec<u8>> {
    let message = |text: &[u8]| [&(text.len() as u32).to_le_bytes()[..], &[0; 4], text].concat();
    let mut noise = Noise(2);
    let mut all = vec![
        vec![0xff; 64],
        message(b""),
        message(&[0xff; 10]),
        b"GET / HTTP/1.1\r\nHost: farm\r\n\r\n".to_vec(),
        frame::encode(&Open::Work, 0).expect("small").to_vec(),
    ];
    all.extend((0..20).map(|length| noise.bytes(1 + 50 * length)));
    all.extend((0..20).map(|length| message(&noise.bytes(1 + 10 * length))));
    all
}

#[test]
fn frames_of_noise_by_those_who_may_connect() {
    while_work_goes_on(async |farm| {
        let user = farm.farm(&["ticket", "create", "--role", "user"]).succeeds().text().trim().to_owned();
        for ticket in [user, farm.scheduler.admin_ticket(), farm.scheduler.worker_ticket()] {
            for bytes in rubbish() {
                let link = connect(&ticket).await;
                let (mut send, mut receive) = link.connection.open_bi().await.expect("a stream");
                // The scheduler may have closed the connection already.
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                // It says something, or closes the stream or the connection; what it does not is wait.
                let _ =
                    tokio::time::timeout(Duration::from_secs(20), receive.read_to_end(1 << 20)).await.expect("an end");
                link.close(0).await;
            }
        }
    });
}

#[test]
fn half_a_frame_and_then_nothing() {
    while_work_goes_on(async |farm| {
        let request = frame::encode(&Open::Request(Request::Jobs), 0).expect("small");
        let blob = Request::PutBlob { digest: Digest::of(b"x"), size: 1 << 30, ask: false };
        let blob = frame::encode(&Open::Request(blob), 0).expect("small");
        let mut silent = Vec::new();
        for bytes in [&request[..3], &request[..request.len() - 1], &blob] {
            for _ in 0..10 {
                let link = connect(&farm.scheduler.admin_ticket()).await;
                let (mut send, receive) = link.connection.open_bi().await.expect("a stream");
                send.write_all(bytes).await.expect("taken");
                silent.push((link, send, receive));
            }
        }
        // Others are served meanwhile.
        farm.status();
        for (link, _send, _receive) in &silent {
            let closed = tokio::time::timeout(Duration::from_secs(30), link.connection.closed()).await;
            closed.expect("whoever stops in the middle is not waited for");
        }
    });
}

/// A worker's control and work streams.
async fn enlist(farm: &Farm) -> (Link, quinn::SendStream, quinn::SendStream) {
    let link = connect(&farm.scheduler.worker_ticket()).await;
    let hello = WorkerHello {
        ends_in_ms: None,
        name: "liar".into(),
        host: "nowhere".into(),
        pid: 1,
        slots: 1,
        version: env!("CARGO_PKG_VERSION").into(),
        incarnation: 1,
    };
    let (mut control, _) = link.connection.open_bi().await.expect("a stream");
    control
        .write_all(&frame::encode(&Open::Control { hello, resume: Resume::default() }, 0).expect("small"))
        .await
        .expect("taken");
    let (mut work, _) = link.connection.open_bi().await.expect("a stream");
    work.write_all(&frame::encode(&Open::Work, 0).expect("small")).await.expect("taken");
    (link, control, work)
}

#[test]
fn a_worker_that_answers_what_it_was_not_asked() {
    while_work_goes_on(async |farm| {
        let batch = Batch {
            first: 0,
            count: 3,
            failures: Vec::new(),
            captured: Vec::new(),
            run_ns: 0,
            fetch_ns: 0,
            compile_ns: 0,
        };
        let lease = LeaseId(u64::MAX);
        let answers = [
            (WorkerWork::Results { lease, batch: batch.clone() }, vec![0; 12]),
            (WorkerWork::Results { lease: LeaseId(1), batch: Batch { count: u32::MAX, ..batch.clone() } }, Vec::new()),
            (WorkerWork::Results { lease: LeaseId(1), batch: Batch { first: u64::MAX, ..batch } }, vec![0xff; 12]),
            (WorkerWork::Lost { lease, task: u64::MAX, message: "x".repeat(100_000) }, Vec::new()),
            (WorkerWork::Returned { lease, first: u64::MAX, count: u32::MAX }, Vec::new()),
        ];
        for (answer, payload) in answers {
            let (link, _control, mut work) = enlist(farm).await;
            let mut bytes = frame::encode(&answer, payload.len()).expect("small").to_vec();
            bytes.extend(payload);
            let _ = work.write_all(&bytes).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            link.close(0).await;
        }
        let (link, mut control, _work) = enlist(farm).await;
        let failed = farm_proto::message::WorkerControl::JobFailed {
            job: JobId(99),
            failure: farm_proto::outcome::Failure::new(farm_proto::outcome::FailureKind::BadModule, "never seen"),
        };
        let _ = control.write_all(&frame::encode(&failed, 0).expect("small")).await;
        let _ = control.write_all(&Noise(3).bytes(1000)).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        link.close(0).await;
    });
}
