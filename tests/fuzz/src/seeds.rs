//! Inputs to begin with: one of each kind, so that chance need not find out what a frame looks like.

use farm_proto::columns::ColumnsBuilder;
use farm_proto::frame::encode;
use farm_proto::ids::{Digest, JobId, LeaseId, TicketId, WorkerId};
use farm_proto::job::{
    ArgChunk, Args, CommandOptions, Input, JobSpec, Limits, ModuleKind, ModuleRef, Mounts, Profile, ResultArgs,
    ResultEncoding,
};
use farm_proto::message::{
    Batch, Claim, Enrol, Enrolled, Lease, Open, Request, RequestError, Response, Resume, SchedulerControl,
    SchedulerWork, SubmitKey, WorkerControl, WorkerHello, WorkerWork,
};
use farm_proto::outcome::{Captured, Failure, FailureKind, GuestFrame};
use farm_proto::ticket::{NewTicket, Role, Ticket};
use farm_proto::why::Stage;
use serde::Serialize;

use crate::mutation::SplitMix;
use crate::store_recovery::Edit;

fn frame(kind: u8, message: &impl Serialize, payload: &[u8]) -> Vec<u8> {
    // Messages of a few bytes are within every limit.
    let frame = encode(message, payload.len()).unwrap_or_else(|error| panic!("{error}"));
    [&[kind][..], &frame, payload].concat()
}

fn spec(args: Args) -> JobSpec {
    JobSpec {
        cluster: None,
        time_request_ms: None,
        name: Some("squares".to_owned()),
        module: ModuleRef {
            digest: Digest::of(b"module"),
            size: 6,
            kind: ModuleKind::Sdk,
            result: ResultEncoding::Json,
        },
        function: "square".to_owned(),
        args,
        limits: Limits { timeout_ms: Some(1_000), fuel: Some(1), ..Limits::default() },
        profile: Profile::Metered,
        env: vec![("LANG".to_owned(), "C".to_owned())],
        inputs: vec![Input { path: "a/b".to_owned(), digest: Digest::of(b"input"), size: 5 }],
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 2,
        max_failures: Some(3),
        priority: -1,
        after: vec![JobId(1)],
        fold: false,
    }
}

/// Frames of every stream.
pub(crate) fn frames() -> Vec<(String, Vec<u8>)> {
    let mut builder = ColumnsBuilder::new();
    [&b"1"[..], b"", b"[2,3]"].into_iter().for_each(|item| builder.push(item));
    let three = builder.finish().encode();
    let submit =
        |args| Open::Request(Request::Submit { key: SubmitKey(u128::MAX), spec: Box::new(spec(args)), watch: true });
    let backtrace = vec![GuestFrame { function: "f".to_owned(), file: Some("f.rs".to_owned()), line: Some(7) }];
    let failure = Failure { kind: FailureKind::Trap, message: "no".to_owned(), backtrace };
    let batch = Batch {
        first: 300,
        count: 3,
        failures: vec![(1, failure.clone())],
        captured: vec![(0, Captured { stdout: b"out".to_vec(), log: "info x\n".to_owned(), ..Captured::default() })],
        run_ns: 1 << 40,
        fetch_ns: 2,
        compile_ns: 3,
    };
    let hello = WorkerHello {
        ends_in_ms: None,
        name: "w".to_owned(),
        host: "h".to_owned(),
        pid: 7,
        slots: 4,
        version: "0.1.0".to_owned(),
        incarnation: 9,
    };
    let claims = vec![Claim { lease: LeaseId(1 << 40), job: JobId(1), tasks: vec![(0, 3), (5, 6)] }];
    let resume = Resume { jobs: vec![(JobId(1), 77)], claims };
    let chunk = ArgChunk { digest: Digest::of(b"chunk"), count: 3, size: 18 };
    let lease = Lease { lease: LeaseId(5), job: JobId(1), first: 0, count: 3, attempts: vec![(1, 2)] };
    let results = ResultArgs { job: JobId(1), count: 2, group: Some(2), raw: true };
    let (name, cluster) = ("w".to_owned(), Some("gpu".to_owned()));
    let new_ticket = NewTicket { role: Role::Worker, name, cluster, valid_s: 60, uses: Some(1) };
    let open = [
        ("submit-range", submit(Args::Range { start: -3, end: 9 })),
        ("submit-inline", submit(Args::Inline { count: 3 })),
        ("submit-chunks", submit(Args::Chunks(vec![chunk]))),
        ("submit-results", submit(Args::Results(results))),
        ("submit-subset", submit(Args::Subset { of: Box::new(Args::Results(results)), tasks: vec![(0, 2), (4, 5)] })),
        ("watch", Open::Request(Request::Watch { job: JobId(1), from: 2, follow: true })),
        ("why", Open::Request(Request::Why { job: JobId(1), task: Some(3) })),
        ("ticket", Open::Request(Request::Ticket(new_ticket))),
        ("revoke", Open::Request(Request::Revoke { ticket: TicketId(7) })),
        ("renew", Open::Request(Request::Renew { csr: vec![0x30, 0x82] })),
        ("control", Open::Control { hello, resume }),
        ("work", Open::Work),
    ];
    let mut seeds: Vec<_> = open.iter().map(|(name, open)| (format!("open-{name}"), frame(0, open, &three))).collect();
    let mut add = |name: &str, input| seeds.push((name.to_owned(), input));
    add("response-results", frame(1, &Response::Results { seq: 4, batch: batch.clone() }, &three));
    add("response-error", frame(1, &Response::Error(RequestError::Forbidden(Role::Admin)), &[]));
    add("response-missing", frame(1, &Response::Missing { digests: vec![Digest::of(b"x")] }, &[]));
    add("worker-failed", frame(2, &WorkerControl::JobFailed { job: JobId(1), failure }, &[]));
    add("worker-preparing", frame(2, &WorkerControl::Preparing { job: JobId(1), stage: Stage::Compiling }, &[]));
    add("scheduler-welcome", frame(3, &SchedulerControl::Welcome { worker: WorkerId(1) }, &[]));
    add("scheduler-recall", frame(3, &SchedulerControl::Recall { lease: LeaseId(5), keep: 1 }, &[]));
    add("worker-results", frame(4, &WorkerWork::Results { lease: LeaseId(5), batch }, &three));
    add("worker-returned", frame(4, &WorkerWork::Returned { lease: LeaseId(5), first: 1, count: 2 }, &[]));
    add("worker-checkpoint", frame(4, &WorkerWork::Checkpoint { lease: LeaseId(5), task: 1 }, b"state"));
    let job = SchedulerWork::Job { job: JobId(1), stamp: 7, spec: Box::new(spec(Args::Inline { count: 3 })) };
    add("scheduler-job", frame(5, &job, &three));
    add("scheduler-lease", frame(5, &SchedulerWork::Lease(lease), &three));
    add("scheduler-restored", frame(5, &SchedulerWork::Restored { lease: LeaseId(5), task: 1 }, b"state"));
    add("enrol", frame(6, &Enrol { secret: "secret".to_owned(), csr: vec![0x30, 0x82] }, &[]));
    add("enrolled", frame(7, &Enrolled::Certificate { chain: vec![vec![0x30], vec![]] }, &[]));
    seeds
}

/// Tickets, and some that were torn.
pub(crate) fn ticket() -> Vec<(String, Vec<u8>)> {
    let ticket = |host: &str, role| Ticket {
        host: host.to_owned(),
        port: 7117,
        role,
        ca: Digest::of(b"ca"),
        secret: "AQEBAQEBAQEBAQEBAQEBAQ".to_owned(),
    };
    let name = ticket("login.example.org", Role::Worker).to_string();
    [
        ("address", ticket("192.0.2.1", Role::Admin).to_string()),
        ("brackets", ticket("2001:db8::1", Role::User).to_string()),
        ("double-brackets", name.replace("login.example.org", "[[login]]")),
        ("no-question-mark", name.replace('?', "")),
        ("torn", name.replace("&secret", "\n&secret")),
        ("more", format!(" {name}&x=y\n")),
        ("name", name),
        ("digest", Digest::of(b"ca").to_string()),
    ]
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .into()
}

/// Chance alone: any bytes are operations.
pub(crate) fn core_operations() -> Vec<(String, Vec<u8>)> {
    (1..=12).map(|seed| (format!("chance-{seed:02}"), SplitMix(seed).bytes(128 * seed as usize))).collect()
}

/// One edit of each kind, to the first files of both folders; and none.
pub(crate) fn store_recovery() -> Vec<(String, Vec<u8>)> {
    let kinds = [
        ("truncate", Edit::TRUNCATE),
        ("flip", Edit::FLIP),
        ("overwrite", Edit::OVERWRITE),
        ("delete", Edit::DELETE),
        ("append", Edit::APPEND),
        ("copy-page", Edit::COPY_PAGE),
    ];
    let mut seeds = vec![("amid-whole".to_owned(), vec![1]), ("ended-whole".to_owned(), vec![0])];
    for (number, (kind_name, kind)) in kinds.into_iter().enumerate() {
        for (which, folder_name) in [(0, "ended"), (1, "amid")] {
            let scaled = if number % 2 == 0 { Edit::SCALED } else { 0 };
            let edit = |file| Edit { file, kind: kind | scaled, at: 0x8000, value: 5, count: 100 }.bytes();
            let first = number as u8;
            seeds.push((format!("{folder_name}-{kind_name}"), [&[which][..], &edit(first)].concat()));
            seeds.push((
                format!("{folder_name}-{kind_name}-two"),
                [&[which][..], &edit(first + 3), &edit(first + 5)].concat(),
            ));
        }
    }
    seeds
}
