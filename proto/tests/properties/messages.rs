//! Messages of every kind, drawn at random.

use farm_proto::ids::{Digest, JobId, LeaseId, TicketId, WorkerId};
use farm_proto::job::{
    ArgChunk, Args, CommandOptions, Counts, Input, JobSpec, JobState, JobStatus, Limits, ModuleKind, ModuleRef, Mounts,
    OutputLimits, Profile, ResultArgs, ResultEncoding, StdoutMode,
};
use farm_proto::message::{
    Batch, Claim, FarmStatus, Lease, Open, Request, RequestError, Response, Resume, SchedulerControl, SchedulerWork,
    SubmitKey, WorkerControl, WorkerHello, WorkerStatus, WorkerWork,
};
use farm_proto::outcome::{Captured, Failure, FailureKind, GuestFrame, OutputFile};
use farm_proto::secret::{SecretStatus, SecretValue, Secrets};
use farm_proto::ticket::{NewTicket, Role, TicketStatus};
use farm_proto::why::{Account, Cause, Checkpoint, Stage, Why, WhyGroup};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

fn text() -> impl Strategy<Value = String> {
    // Short, and of all the lengths that UTF-8 has.
    vec(prop_oneof![any::<char>(), prop::char::range('a', 'z')], 0..8).prop_map(String::from_iter)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn digests() -> impl Strategy<Value = Vec<Digest>> {
    vec(digest(), 0..4)
}

pub(crate) fn job_id() -> impl Strategy<Value = JobId> {
    any::<u64>().prop_map(JobId)
}

pub(crate) fn lease_id() -> impl Strategy<Value = LeaseId> {
    any::<u64>().prop_map(LeaseId)
}

fn worker_id() -> impl Strategy<Value = WorkerId> {
    any::<u64>().prop_map(WorkerId)
}

fn key() -> impl Strategy<Value = SubmitKey> {
    any::<u128>().prop_map(SubmitKey)
}

fn role() -> impl Strategy<Value = Role> {
    select(&[Role::Admin, Role::User, Role::Worker][..])
}

fn encoding() -> impl Strategy<Value = ResultEncoding> {
    select(&[ResultEncoding::Json, ResultEncoding::Text, ResultEncoding::Bytes][..])
}

fn state() -> impl Strategy<Value = JobState> {
    select(&[JobState::Waiting, JobState::Running, JobState::Done, JobState::Cancelled, JobState::Failed][..])
}

fn secrets() -> impl Strategy<Value = Secrets> {
    vec((text(), vec(any::<u8>(), 0..6).prop_map(SecretValue::new)), 0..3)
}

fn secret_status() -> impl Strategy<Value = SecretStatus> {
    (text(), any::<(Option<u64>, Option<u64>)>()).prop_map(|(name, (given_ms, expires_ms))| SecretStatus {
        name,
        given_ms,
        expires_ms,
    })
}

fn stage() -> impl Strategy<Value = Stage> {
    select(&[Stage::Fetching, Stage::Compiling, Stage::Ready][..])
}

fn failure() -> impl Strategy<Value = Failure> {
    use FailureKind::{
        BadArguments, BadModule, BadOutput, Cancelled, InputFailed, MemoryLimit, NoSuchFunction, OutOfFuel,
        OutputTooLarge, Panic, ResultTooLarge, ReturnedError, Timeout, Trap, WorkerLost,
    };
    let kind = select(vec![
        Trap,
        ReturnedError,
        Panic,
        Timeout,
        OutOfFuel,
        MemoryLimit,
        ResultTooLarge,
        BadModule,
        NoSuchFunction,
        BadArguments,
        Cancelled,
        WorkerLost,
        InputFailed,
        OutputTooLarge,
        BadOutput,
    ]);
    let frame = (text(), option::of(text()), any::<Option<u32>>()).prop_map(|(function, file, line)| GuestFrame {
        function,
        file,
        line,
    });
    (kind, text(), vec(frame, 0..3)).prop_map(|(kind, message, backtrace)| Failure { kind, message, backtrace })
}

fn captured() -> impl Strategy<Value = Captured> {
    let file = (text(), digest(), any::<u64>()).prop_map(|(path, digest, size)| OutputFile { path, digest, size });
    (vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..6), text(), any::<bool>(), vec(file, 0..3))
        .prop_map(|(stdout, stderr, log, truncated, files)| Captured { stdout, stderr, log, truncated, files })
}

/// A batch whose offsets ascend and are in it.
pub(crate) fn batch() -> impl Strategy<Value = Batch> {
    let failures = prop::collection::btree_map(0..24u32, failure(), 0..4);
    let captured = prop::collection::btree_map(0..24u32, captured(), 0..4);
    (any::<u64>(), 24..4096u32, failures, captured, any::<[u64; 3]>()).prop_map(
        |(first, count, failures, captured, [run_ns, fetch_ns, compile_ns])| Batch {
            first,
            count,
            failures: failures.into_iter().collect(),
            captured: captured.into_iter().collect(),
            run_ns,
            fetch_ns,
            compile_ns,
        },
    )
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    vec(any::<(u64, u64)>(), 0..4)
}

fn args() -> impl Strategy<Value = Args> {
    let subset = (whole_args(), ranges()).prop_map(|(of, tasks)| Args::Subset { of: Box::new(of), tasks });
    prop_oneof![whole_args(), subset]
}

fn whole_args() -> impl Strategy<Value = Args> {
    let chunk = (digest(), any::<(u32, u64)>()).prop_map(|(digest, (count, size))| ArgChunk { digest, count, size });
    prop_oneof![
        any::<(i64, i64)>().prop_map(|(start, end)| Args::Range { start, end }),
        any::<u64>().prop_map(|count| Args::Inline { count }),
        vec(chunk, 0..4).prop_map(Args::Chunks),
        (job_id(), any::<(u64, Option<u32>, bool)>())
            .prop_map(|(job, (count, group, raw))| Args::Results(ResultArgs { job, count, group, raw })),
    ]
}

fn spec() -> impl Strategy<Value = JobSpec> {
    let kind = select(&[ModuleKind::Sdk, ModuleKind::Component, ModuleKind::Core, ModuleKind::Command][..]);
    let module = (digest(), any::<u64>(), kind, encoding()).prop_map(|(digest, size, kind, result)| ModuleRef {
        digest,
        size,
        kind,
        result,
    });
    let limits = any::<(u64, Option<u64>, Option<u64>, u64, u64)>()
        .prop_map(|(memory, timeout_ms, fuel, result, output)| Limits { memory, timeout_ms, fuel, result, output });
    let input = (text(), digest(), any::<u64>()).prop_map(|(path, digest, size)| Input { path, digest, size });
    let stdout = select(&[StdoutMode::Text, StdoutMode::Json, StdoutMode::Base64][..]);
    let command = (stdout, vec(any::<i32>(), 0..3)).prop_map(|(stdout, ok_exit)| CommandOptions { stdout, ok_exit });
    let whole = (option::of(text()), module, text(), args(), limits, select(&[Profile::Fast, Profile::Metered][..]));
    let outputs =
        any::<Option<(u64, u32)>>().prop_map(|limits| limits.map(|(bytes, files)| OutputLimits { bytes, files }));
    let mounts = (vec(text(), 0..3), outputs, vec(text(), 0..3)).prop_map(|(folders, outputs, secrets)| Mounts {
        folders,
        outputs,
        secrets,
    });
    let rest = (vec((text(), text()), 0..3), vec(input, 0..3), mounts, command, vec(job_id(), 0..3));
    (whole, rest, any::<(u32, Option<u64>, i32, bool)>()).prop_map(|(whole, rest, numbers)| {
        let (name, module, function, args, limits, profile) = whole;
        let (env, inputs, mounts, command, after) = rest;
        let (retries, max_failures, priority, fold) = numbers;
        JobSpec {
            cluster: None,
            time_request_ms: None,
            name,
            module,
            function,
            args,
            limits,
            profile,
            env,
            inputs,
            mounts,
            command,
            retries,
            max_failures,
            priority,
            after,
            fold,
        }
    })
}

fn hello() -> impl Strategy<Value = WorkerHello> {
    (text(), text(), text(), any::<(u32, u32, u64)>()).prop_map(|(name, host, version, (pid, slots, incarnation))| {
        WorkerHello { name, host, pid, slots, version, ends_in_ms: None, incarnation }
    })
}

fn resume() -> impl Strategy<Value = Resume> {
    let claim = (lease_id(), job_id(), ranges()).prop_map(|(lease, job, tasks)| Claim { lease, job, tasks });
    (vec((job_id(), any::<u64>()), 0..4), vec(claim, 0..4)).prop_map(|(jobs, claims)| Resume { jobs, claims })
}

fn ticket_id() -> impl Strategy<Value = TicketId> {
    any::<u32>().prop_map(TicketId)
}

fn new_ticket() -> impl Strategy<Value = NewTicket> {
    (role(), text(), option::of(text()), any::<(u64, Option<u32>)>())
        .prop_map(|(role, name, cluster, (valid_s, uses))| NewTicket { role, name, cluster, valid_s, uses })
}

fn ticket_status() -> impl Strategy<Value = TicketStatus> {
    let numbers = any::<(u64, u64, Option<u32>, Option<u64>, u32)>();
    (ticket_id(), role(), text(), option::of(text()), text(), numbers).prop_map(
        |(ticket, role, name, cluster, created_by, numbers)| {
            let (created_ms, expires_s, uses_left, revoked_ms, connections) = numbers;
            TicketStatus {
                ticket,
                role,
                name,
                cluster,
                created_by,
                created_ms,
                expires_s,
                uses_left,
                revoked_ms,
                connections,
            }
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        4 => (key(), spec(), any::<bool>())
            .prop_map(|(key, spec, watch)| Request::Submit { key, spec: Box::new(spec), watch }),
        1 => (key(), job_id(), any::<bool>()).prop_map(|(key, job, failed)| Request::Retry { key, job, failed }),
        1 => job_id().prop_map(|job| Request::Delete { job }),
        1 => (job_id(), any::<Option<u64>>()).prop_map(|(job, task)| Request::Why { job, task }),
        1 => text().prop_map(|worker| Request::Drain { worker }),
        1 => digests().prop_map(|digests| Request::Missing { digests }),
        1 => (digest(), any::<(u64, bool)>()).prop_map(|(digest, (size, ask))| Request::PutBlob { digest, size, ask }),
        1 => digest().prop_map(|digest| Request::GetBlob { digest }),
        1 => (job_id(), any::<(u64, bool)>()).prop_map(|(job, (from, follow))| Request::Watch { job, from, follow }),
        1 => select(&[Request::Jobs, Request::Farm, Request::Shutdown][..]),
        1 => job_id().prop_map(|job| Request::Cancel { job }),
        1 => new_ticket().prop_map(Request::Ticket),
        1 => Just(Request::Tickets),
        1 => ticket_id().prop_map(|ticket| Request::Revoke { ticket }),
        1 => vec(any::<u8>(), 0..40).prop_map(|csr| Request::Renew { csr }),
        1 => (job_id(), secrets()).prop_map(|(job, secrets)| Request::Secrets { job, secrets }),
    ]
}

pub(crate) fn open() -> impl Strategy<Value = Open> {
    prop_oneof![
        6 => request().prop_map(Open::Request),
        2 => (hello(), resume()).prop_map(|(hello, resume)| Open::Control { hello, resume }),
        1 => Just(Open::Work),
    ]
}

fn counts() -> impl Strategy<Value = Counts> {
    any::<[u64; 5]>().prop_map(|[waiting, leased, succeeded, failed, cancelled]| Counts {
        waiting,
        leased,
        succeeded,
        failed,
        cancelled,
    })
}

fn status() -> impl Strategy<Value = JobStatus> {
    let words = (option::of(text()), text(), text(), option::of(text()));
    let what = (job_id(), digest(), encoding(), state(), counts(), vec(job_id(), 0..3));
    let numbers = (any::<(i32, u64, Option<u64>, u64)>(), vec(any::<(u64, u64, u64)>(), 0..3));
    (words, what, numbers).prop_map(|(words, what, (numbers, progress))| {
        let (name, owner, function, reason) = words;
        let (job, module, result, state, counts, needs) = what;
        let (priority, submitted_ms, ended_ms, retried) = numbers;
        JobStatus {
            cluster: "default".to_owned(),
            job,
            name,
            owner,
            function,
            module,
            result,
            state,
            counts,
            priority,
            submitted_ms,
            ended_ms,
            retried,
            reason,
            progress,
            needs,
        }
    })
}

fn farm() -> impl Strategy<Value = FarmStatus> {
    let worker = (worker_id(), hello(), any::<(u64, u64, bool, u64)>()).prop_map(
        |(worker, hello, (leased, finished, draining, connected_s))| WorkerStatus {
            worker,
            hello,
            leased,
            finished,
            draining,
            connected_s,
        },
    );
    (text(), any::<(u32, u64, u64, u64)>(), counts(), vec(worker, 0..3)).prop_map(
        |(version, (pid, uptime_s, memory, live_jobs), counts, workers)| FarmStatus {
            version,
            pid,
            uptime_s,
            memory,
            counts,
            live_jobs,
            workers,
        },
    )
}

fn why() -> impl Strategy<Value = Why> {
    let account =
        any::<[u64; 6]>().prop_map(|[queued_ns, leased_ns, fetching_ns, compiling_ns, running_ns, storing_ns]| {
            Account { queued_ns, leased_ns, fetching_ns, compiling_ns, running_ns, storing_ns }
        });
    let cause = prop_oneof![
        select(&[Cause::Storing, Cause::GivenUp][..]),
        job_id().prop_map(|job| Cause::After { job }),
        vec(text(), 0..3).prop_map(|names| Cause::Secrets { names }),
        (job_id(), any::<(u64, u64)>()).prop_map(|(job, (first, end))| Cause::Input { job, first, end }),
        any::<[u64; 3]>().prop_map(|[tasks, jobs, slots]| Cause::Slot { tasks, jobs, slots }),
        any::<(u32, u64)>().prop_map(|(attempt, wait_ms)| Cause::Backoff { attempt, wait_ms }),
        (worker_id(), text()).prop_map(|(worker, name)| Cause::Fetching { worker, name }),
        (worker_id(), text()).prop_map(|(worker, name)| Cause::Compiling { worker, name }),
        (worker_id(), text(), any::<u64>()).prop_map(|(worker, name, tasks)| Cause::Queued { worker, name, tasks }),
        (worker_id(), text(), any::<u64>()).prop_map(|(worker, name, leased_ms)| Cause::Running {
            worker,
            name,
            leased_ms
        }),
        (any::<bool>(), option::of(account)).prop_map(|(failed, account)| Cause::Ended { failed, account }),
    ];
    let group = (any::<(u64, u64)>(), cause).prop_map(|((task, count), cause)| WhyGroup { task, count, cause });
    let checkpoint = any::<(u64, u64)>().prop_map(|(bytes, kept_ms)| Checkpoint { bytes, kept_ms });
    (job_id(), state(), vec(group, 0..4), option::of(text()), option::of(checkpoint))
        .prop_map(|(job, state, groups, reason, checkpoint)| Why { job, state, groups, reason, checkpoint })
}

fn request_error() -> impl Strategy<Value = RequestError> {
    prop_oneof![
        job_id().prop_map(RequestError::NoSuchJob),
        (job_id(), any::<(u64, u64)>()).prop_map(|(job, (task, tasks))| RequestError::NoSuchTask { job, task, tasks }),
        text().prop_map(RequestError::NoSuchWorker),
        ticket_id().prop_map(RequestError::NoSuchTicket),
        (text(), any::<[u64; 3]>()).prop_map(|(user, [used, more, limit])| RequestError::OverLimit {
            user,
            used,
            more,
            limit
        }),
        (job_id(), job_id()).prop_map(|(job, by)| RequestError::Needed { job, by }),
        digest().prop_map(RequestError::NoSuchBlob),
        role().prop_map(RequestError::Forbidden),
        text().prop_map(RequestError::Storage),
        select(&[RequestError::WrongDigest, RequestError::ShuttingDown][..]),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        1 => job_id().prop_map(|job| Response::Accepted { job }),
        1 => digests().prop_map(|digests| Response::Missing { digests }),
        1 => any::<u64>().prop_map(|size| Response::Blob { size }),
        3 => (any::<u64>(), batch()).prop_map(|(seq, batch)| Response::Results { seq, batch }),
        2 => status().prop_map(|status| Response::Status(Box::new(status))),
        1 => vec(status(), 0..3).prop_map(Response::Jobs),
        2 => farm().prop_map(Response::Farm),
        1 => (text(), ticket_status())
            .prop_map(|(text, status)| Response::Ticket { text, status: Box::new(status) }),
        1 => vec(ticket_status(), 0..3).prop_map(Response::Tickets),
        1 => ticket_status().prop_map(|status| Response::Revoked(Box::new(status))),
        1 => vec(vec(any::<u8>(), 0..40), 0..3).prop_map(|chain| Response::Certificate { chain }),
        1 => select(&[Response::Stored, Response::Stopping, Response::Deleted][..]),
        1 => any::<u64>().prop_map(|from| Response::Send { from }),
        1 => vec(secret_status(), 0..3).prop_map(Response::Secrets),
        3 => why().prop_map(|why| Response::Why(Box::new(why))),
        1 => vec(worker_id(), 0..3).prop_map(|workers| Response::Draining { workers }),
        2 => request_error().prop_map(Response::Error),
    ]
}

pub(crate) fn worker_control() -> impl Strategy<Value = WorkerControl> {
    prop_oneof![
        (job_id(), failure()).prop_map(|(job, failure)| WorkerControl::JobFailed { job, failure }),
        (job_id(), any::<[u64; 3]>()).prop_map(|(job, [task, done, total])| WorkerControl::Progress {
            job,
            task,
            done,
            total
        }),
        (job_id(), stage()).prop_map(|(job, stage)| WorkerControl::Preparing { job, stage }),
        Just(WorkerControl::Draining),
    ]
}

pub(crate) fn scheduler_control() -> impl Strategy<Value = SchedulerControl> {
    prop_oneof![
        worker_id().prop_map(|worker| SchedulerControl::Welcome { worker }),
        job_id().prop_map(|job| SchedulerControl::CancelJob { job }),
        job_id().prop_map(|job| SchedulerControl::ForgetJob { job }),
        (lease_id(), any::<u32>()).prop_map(|(lease, keep)| SchedulerControl::Recall { lease, keep }),
        any::<u64>().prop_map(|messages| SchedulerControl::Stored { messages }),
        select(&[SchedulerControl::Drain, SchedulerControl::Exit][..]),
    ]
}

pub(crate) fn worker_work() -> impl Strategy<Value = WorkerWork> {
    prop_oneof![
        3 => (lease_id(), batch()).prop_map(|(lease, batch)| WorkerWork::Results { lease, batch }),
        1 => (lease_id(), any::<u64>(), text())
            .prop_map(|(lease, task, message)| WorkerWork::Lost { lease, task, message }),
        1 => (lease_id(), any::<(u64, u32)>())
            .prop_map(|(lease, (first, count))| WorkerWork::Returned { lease, first, count }),
        1 => (lease_id(), any::<u64>()).prop_map(|(lease, task)| WorkerWork::Checkpoint { lease, task }),
    ]
}

pub(crate) fn scheduler_work() -> impl Strategy<Value = SchedulerWork> {
    let lease = (lease_id(), job_id(), any::<(u64, u32)>(), vec(any::<(u32, u32)>(), 0..4))
        .prop_map(|(lease, job, (first, count), attempts)| Lease { lease, job, first, count, attempts });
    prop_oneof![
        (job_id(), any::<u64>(), spec()).prop_map(|(job, stamp, spec)| SchedulerWork::Job {
            job,
            stamp,
            spec: Box::new(spec)
        }),
        lease.prop_map(SchedulerWork::Lease),
        (lease_id(), any::<u64>()).prop_map(|(lease, task)| SchedulerWork::Restored { lease, task }),
    ]
}
