//! The kinds of failures, as they stand in NDJSON, and what people are told.

use farm_client::client::{BlobSource, Client, Opened, Update};
use farm_proto::columns::ColumnsBuilder;
use farm_proto::ids::Digest;
use farm_proto::job::ResultEncoding;
use farm_proto::job::{
    Args, CommandOptions, JobSpec, JobState, JobStatus, Limits, ModuleKind, ModuleRef, Mounts, Profile,
};
use farm_tests::World;
use serde_json::json;

use crate::support::{Farm, kinds, module, outcomes, squares};
use crate::wat;

#[test]
fn each_kind_has_its_name() {
    let world = World::new();
    let spin = ["--timeout", "100ms"];
    for (text, args, options, kind) in [
        (wat::EVEN, "[1]", &[][..], "trap"),
        (wat::RECURSE, "[1]", &[], "trap"),
        (wat::SPIN, "[0]", &spin, "timeout"),
        (wat::SPIN, "[0]", &["--fuel", "1000"], "out-of-fuel"),
        (wat::ALLOCATE, "[0]", &["--memory", "8MiB"], "memory-limit"),
        (wat::RETURN_A_GIGABYTE, "[0]", &["--memory", "2GiB"], "result-too-large"),
        (wat::EXIT, r#"["3"]"#, &[], "returned-error"),
    ] {
        let m = module(&world, text);
        for command in ["run", "submit"] {
            let command = world.farm([command, m, "--args", args, "--format", "ndjson"]).with(options);
            let finished = command.fails(1);
            assert_eq!(kinds(&finished), [kind]);
            let line = &outcomes(&finished)[0];
            assert!(line["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}");
            assert!(line["error"]["backtrace"].is_array(), "{line}");
            finished.says(&["1 of 1 tasks failed", &format!("{kind}: "), "task 0"]);
        }
    }
}

#[test]
fn good_results_are_delivered_beside_failures_of_several_kinds() {
    let world = World::new();
    // Traps on 1 mod 4, fails to have enough memory on 3 mod 4.
    let m = module(
        &world,
        r#"(module (memory 1) (func $grow
            (loop $again (br_if $again (i32.ne (memory.grow (i32.const 64)) (i32.const -1))) unreachable))
            (func (export "mixed") (param $x i64) (result i64) (local $rest i64)
                (local.set $rest (i64.and (local.get $x) (i64.const 3)))
                (if (i64.eq (local.get $rest) (i64.const 1)) (then unreachable))
                (if (i64.eq (local.get $rest) (i64.const 3)) (then (call $grow)))
                (i64.mul (local.get $x) (local.get $x))))"#,
    );
    for command in ["run", "submit"] {
        let submit = |format: &str| {
            let command = world.farm([command, m, "--range", "0..200", "--memory", "4MiB", "--format", format]);
            command.fails(1)
        };
        for (x, outcome) in kinds(&submit("ndjson")).iter().enumerate() {
            match x % 4 {
                1 => assert_eq!(outcome, "trap"),
                3 => assert_eq!(outcome, "memory-limit"),
                _ => assert_eq!(*outcome, x * x),
            }
        }
        let array = submit("json");
        array.says(&[
            "100 of 200 tasks failed",
            "tasks 1, 5, 9, 13, 17 and 45 more",
            "tasks 3, 7, 11, 15, 19 and 45 more",
        ]);
        let expected = squares(200);
        let values = array.json();
        for x in 0..200 {
            assert_eq!(values[x], if x % 2 == 0 { expected[x].clone() } else { json!(null) });
        }
    }
}

/// Squares, but links to nothing: the name of its import is offered, its type is not.
const WRONG_IMPORT: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_write" (func (param f64)))
    (func (export "square") (param i64) (result i64) (local.get 0)))"#;

#[test]
fn a_module_that_does_not_link_fails_its_job_once() {
    let farm = Farm::new(2);
    let m = module(&farm.world, WRONG_IMPORT);
    let finished = farm.farm(&["submit", m, "--range", "0..100000"]).fails(7);
    finished.says(&["error: job 1 failed: ", "bad-module: ", "fd_write"]);
    let status = farm.job("1");
    assert_eq!((&status["state"], &status["counts"]["cancelled"]), (&json!("failed"), &json!(100_000)));
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("fd_write")), "{status}");
    farm.farm(&["run", m, "--args", "[1]"]).fails(7).says(&["bad-module: ", "fd_write"]);
    // The worker is as good as before.
    let square = module(&farm.world, wat::SQUARE);
    assert_eq!(farm.farm(&["submit", square, "--args", "[3]"]).succeeds().json(), json!([9]));
}

/// What a client that checks nothing sends.
struct Bytes(Vec<u8>);

impl BlobSource for Bytes {
    async fn open(&self, digest: &Digest) -> std::io::Result<Option<Opened>> {
        let bytes = (Digest::of(&self.0) == *digest).then(|| self.0.clone());
        Ok(bytes.map(|bytes| Opened {
            size: bytes.len() as u64,
            bytes: Box::new(std::io::Cursor::new(bytes)),
            path: None,
        }))
    }
}

/// Submits a job that no command line would let through. Gives its end, and what tasks failed of.
fn unchecked(farm: &Farm, module: &[u8], function: &str, arguments: &[&str]) -> (JobStatus, Vec<String>) {
    let mut columns = ColumnsBuilder::new();
    arguments.iter().for_each(|argument| columns.push(argument.as_bytes()));
    let spec = JobSpec {
        cluster: None,
        time_request_ms: None,
        name: None,
        module: ModuleRef {
            digest: Digest::of(module),
            size: module.len() as u64,
            kind: ModuleKind::Core,
            result: ResultEncoding::Json,
        },
        function: function.to_owned(),
        args: Args::Inline { count: arguments.len() as u64 },
        limits: Limits::default(),
        profile: Profile::Fast,
        env: Vec::new(),
        inputs: Vec::new(),
        mounts: Mounts::default(),
        command: CommandOptions::default(),
        retries: 0,
        max_failures: None,
        priority: 0,
        after: Vec::new(),
        fold: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let ticket = farm.scheduler.admin_ticket().parse().expect("a ticket");
        let client = Client::connect(&ticket, None).await.expect("a connection");
        let payload = columns.finish().encode();
        let source = Bytes(module.to_vec());
        let mut watch = client.submit(&spec, payload, &source, true, &|_| {}).await.expect("accepted");
        let (mut last, mut failures) = (None, Vec::new());
        while let Some(update) = watch.next().await.expect("readable") {
            match update {
                Update::Results { batch, .. } => {
                    failures.extend(batch.failures.iter().map(|(_, failure)| failure.to_string()));
                }
                Update::Status(status) => last = Some(status),
                other => panic!("the scheduler was always there: {other:?}"),
            }
        }
        (last.expect("a last word"), failures)
    })
}

#[test]
fn what_the_client_did_not_check_the_sandbox_does() {
    let farm = Farm::new(1);
    let square = ::wat::parse_str(wat::SQUARE).expect("a module");
    let (status, failures) = unchecked(&farm, &square, "square", &["3", "\"x\"", "rubbish", "1e400"]);
    assert_eq!((status.state, status.counts.succeeded, status.counts.failed), (JobState::Done, 1, 3));
    assert!(failures.iter().all(|failure| failure.starts_with("bad-arguments: ")), "{failures:?}");

    let (status, failures) = unchecked(&farm, &square, "cube", &["3"]);
    assert_eq!((status.state, failures), (JobState::Failed, Vec::new()));
    let reason = status.reason.expect("a reason");
    assert!(reason.contains("no-such-function: no function `cube`; there are: square"), "{reason}");

    for bytes in [&b"\x7fELF no module"[..], b"hello", b""] {
        let (status, _) = unchecked(&farm, bytes, "square", &["3"]);
        assert_eq!(status.state, JobState::Failed);
        let reason = status.reason.expect("a reason");
        assert!(reason.contains("bad-module: "), "{reason}");
    }
    let (status, _) = unchecked(&farm, &square, "square", &["4"]);
    assert_eq!((status.state, status.counts.succeeded), (JobState::Done, 1));
}

#[test]
fn a_backtrace_names_functions() {
    let world = World::new();
    let m = module(&world, wat::EVEN);
    for command in ["run", "submit"] {
        let finished = world.farm([command, m, "--args", "[1]", "--format", "ndjson"]).fails(1);
        let backtrace = outcomes(&finished)[0]["error"]["backtrace"].clone();
        assert_eq!((&backtrace[0]["function"], &backtrace[1]["function"]), (&json!("refuse"), &json!("even")));
        finished.says(&["at refuse", "at even"]);
    }
}
