//! What the core costs: nanoseconds a task, bytes a task that waits, and the time of a replay.
//!
//! ```text
//! cargo run --release -p farm-core --example cost
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "the clock and the memory of the process are read here, not in the core"
)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use farm_core::{Command, Config, Core, Event, Fact, NewJob, Refused, Time};
use farm_proto::ids::{ClusterId, JobId, WorkerId};
use farm_proto::message::{Batch, Lease, Resume};
use farm_proto::outcome::{Failure, FailureKind};

/// What a task takes on a slot, in nanoseconds: a fresh instance of a small function.
const TASK_NS: u64 = 4_000;
const SLOTS: u32 = 2;

fn main() -> Result<(), Refused> {
    // First of all, and without freeing anything: what has been freed is used again.
    let mut kept = Vec::new();
    println!("memory of jobs that wait, by the resident pages of 1 000 of them");
    println!("{:>10} {:>12} {:>12}", "tasks", "bytes/job", "bytes/task");
    waiting_bytes(1, 1_000, &mut kept)?;
    for tasks in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let bytes = waiting_bytes(tasks, 1_000, &mut kept)?;
        println!("{tasks:>10} {bytes:>12.0} {:>12.6}", bytes / tasks as f64);
    }
    println!("and of jobs that have ended: {:.0} bytes each", ended_bytes(10_000)?);

    println!();
    println!("time of the core alone, 2 slots a worker, each batch stored at once");
    println!("{:>8} {:>7} {:>9} {:>9} {:>9}", "workers", "batch", "failures", "ns/task", "ns/batch");
    for (workers, batch, fail_every) in
        [(1, 1, 0), (1, 256, 0), (1, 1024, 0), (8, 256, 0), (8, 1024, 0), (64, 1024, 0), (8, 1024, 100)]
    {
        let tasks = if batch == 1 { 300_000 } else { 10_000_000 };
        let spent = run(tasks, workers, batch, fail_every)?;
        let ns = spent.as_nanos() as f64 / tasks as f64;
        let failures = if fail_every == 0 { "none".to_owned() } else { format!("1 in {fail_every}") };
        println!("{workers:>8} {batch:>7} {failures:>9} {ns:>9.2} {:>9.0}", ns * f64::from(batch));
    }

    println!();
    println!("replay of a job of 10 million finished tasks and one of a million that wait");
    println!("{:>10} {:>9} {:>9}", "batches", "order", "ms");
    for batches in [10_000, 100_000] {
        for mixed in [false, true] {
            let order = if mixed { "mixed" } else { "ascending" };
            println!("{batches:>10} {order:>9} {:>9.1}", replay(batches, mixed).as_secs_f64() * 1_000.0);
        }
    }
    Ok(())
}

/// Runs one job to its end and gives the time that the core took for it.
fn run(tasks: u64, workers: u64, batch: u32, fail_every: u64) -> Result<Duration, Refused> {
    let mut core = Core::new(Config::default());
    let mut queues: Vec<VecDeque<Lease>> = vec![VecDeque::new(); workers as usize];
    let mut spent = Duration::ZERO;
    let mut now = Time::ZERO;
    let mut tell = |core: &mut Core, queues: &mut [VecDeque<Lease>], now, event: Event<'_>| {
        let start = Instant::now();
        let mut ended = false;
        core.handle(now, event)?;
        while let Some(command) = core.poll_command() {
            match command {
                Command::Persist { seq, .. } => {
                    core.handle(now, Event::Persisted { seq })?;
                }
                Command::SendLease { worker, lease, .. } => queues[worker.0 as usize].push_back(lease),
                Command::JobEnded { .. } => ended = true,
                _ => {}
            }
        }
        spent += start.elapsed();
        Ok(ended)
    };
    let nothing = Resume::default();
    for worker in 0..workers {
        let event = Event::WorkerJoined {
            worker: WorkerId(worker),
            cluster: ClusterId::DEFAULT,
            slots: SLOTS,
            ends: None,
            resume: &nothing,
        };
        tell(&mut core, &mut queues, now, event)?;
    }
    let job = core.next_job();
    let mut ended = tell(&mut core, &mut queues, now, Event::JobSubmitted { job, spec: NewJob::new("ada", tasks) })?;
    while !ended {
        for worker in 0..workers {
            let Some(lease) = queues[worker as usize].front_mut() else { continue };
            let count = lease.count.min(batch);
            let first = lease.first;
            let id = lease.lease;
            lease.first += u64::from(count);
            lease.count -= count;
            if lease.count == 0 {
                queues[worker as usize].pop_front();
            }
            let fails = |offset: &u32| fail_every > 0 && (first + u64::from(*offset)).is_multiple_of(fail_every);
            let failures =
                (0..count).filter(fails).map(|offset| (offset, Failure::new(FailureKind::Trap, "trap"))).collect();
            let batch = Batch {
                first,
                count,
                failures,
                captured: Vec::new(),
                run_ns: u64::from(count) * TASK_NS,
                fetch_ns: 0,
                compile_ns: 0,
            };
            let event = Event::BatchArrived { worker: WorkerId(worker), lease: id, batch: &batch };
            now = now + Duration::from_nanos(u64::from(count) * TASK_NS / u64::from(SLOTS) / workers);
            ended = tell(&mut core, &mut queues, now, event)?;
            if ended {
                break;
            }
        }
    }
    Ok(spent)
}

/// How long it takes to make a core of the facts of a job whose tasks are finished, but for one, and one that waits.
fn replay(batches: u64, mixed: bool) -> Duration {
    let tasks = 10_000_000;
    let batch = tasks / batches;
    let outcomes = |index: u64| {
        // 7 919 has no factor in common with the number of batches.
        let start = if mixed { index * 7_919 % batches } else { index } * batch;
        Fact::Outcomes {
            job: JobId(1),
            accepted: std::iter::once(start..start + batch).collect(),
            failed: Vec::new(),
            leased: Duration::ZERO,
        }
    };
    let accepted = |job, tasks| Fact::JobAccepted { job: JobId(job), spec: NewJob::new("ada", tasks) };
    let mut facts = vec![accepted(1, tasks + 1), accepted(2, 1_000_000)];
    facts.extend((0..batches).map(outcomes));
    let start = Instant::now();
    let core = Core::replay(Config::default(), facts);
    let spent = start.elapsed();
    assert_eq!(core.map(|core| core.totals().waiting), Ok(1_000_001));
    spent
}

/// Bytes a job of `tasks` tasks takes while it waits.
fn waiting_bytes(tasks: u64, jobs: u64, kept: &mut Vec<Core>) -> Result<f64, Refused> {
    let mut core = Core::new(Config::default());
    let before = resident();
    for _ in 0..jobs {
        submit(&mut core, tasks)?;
    }
    let bytes = resident() - before;
    assert_eq!(core.totals().waiting, tasks * jobs);
    kept.push(core);
    Ok(bytes / jobs as f64)
}

/// Bytes a job takes once it has ended.
fn ended_bytes(jobs: u64) -> Result<f64, Refused> {
    let mut core = Core::new(Config::default());
    let before = resident();
    for _ in 0..jobs {
        submit(&mut core, 0)?;
    }
    let bytes = resident() - before;
    assert_eq!(core.live_jobs(), 0);
    Ok(bytes / jobs as f64)
}

fn submit(core: &mut Core, tasks: u64) -> Result<(), Refused> {
    let job = core.next_job();
    let spec = NewJob::new("ada", tasks);
    core.handle(Time::ZERO, Event::JobSubmitted { job, spec })?;
    while let Some(command) = core.poll_command() {
        if let Command::Persist { seq, .. } = command {
            core.handle(Time::ZERO, Event::Persisted { seq })?;
        }
    }
    Ok(())
}

/// Resident bytes of this process; 0 where the system does not tell.
fn resident() -> f64 {
    let statm = std::fs::read("/proc/self/statm").unwrap_or_default();
    let pages = String::from_utf8_lossy(&statm).split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0.0) * 4096.0
}
