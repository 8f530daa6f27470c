//! `farm why`: what a task waits for, or where its time went.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use farm_client::exit_codes;
use farm_proto::ids::{JobId, WorkerId};
use farm_proto::job::JobState;
use farm_proto::why::{Account, Cause, Checkpoint, Why, WhyGroup};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::{Value, json};

use super::{connect, print, print_json};
use crate::cli::{FarmArgs, Output, WhyTarget};
use crate::report::Report;

pub(crate) async fn why(target: WhyTarget, farm: FarmArgs, output: Output) -> Result<u8, Report> {
    let client = connect(&farm).await?;
    let why = client.why(target.job, target.task).await?;
    client.close().await;
    match output {
        Output::Json => print_json(&in_json(&why))?,
        Output::Text => print(&describe(&why, now_ms()))?,
    }
    Ok(exit_codes::OK)
}

/// For programs. The names are a promise.
fn in_json(why: &Why) -> Value {
    let groups = why.groups.iter().map(|group| {
        let mut value = cause_in_json(&group.cause);
        value["task"] = group.task.into();
        value["count"] = group.count.into();
        value
    });
    let checkpoint = why.checkpoint.map(|kept| json!({"bytes": kept.bytes, "kept_ms": kept.kept_ms}));
    json!({
        "job": why.job.0,
        "state": why.state,
        "reason": why.reason,
        "groups": groups.collect::<Vec<_>>(),
        "checkpoint": checkpoint,
    })
}

fn cause_in_json(cause: &Cause) -> Value {
    match cause {
        Cause::Storing => json!({"cause": "storing"}),
        Cause::After { job } => json!({"cause": "after", "job": job.0}),
        Cause::Input { job, first, end } => json!({"cause": "input", "job": job.0, "first": first, "end": end}),
        Cause::Secrets { names } => json!({"cause": "secrets", "names": names}),
        Cause::NoWorker { cluster, coming, short } => {
            json!({"cause": "no-worker", "cluster": cluster, "coming": coming, "short": short})
        }
        Cause::NoTime { cluster, needed_ms } => {
            json!({"cause": "no-time", "cluster": cluster, "needed_ms": needed_ms})
        }
        Cause::Slot { tasks, jobs, slots } => {
            json!({"cause": "slot", "tasks_first": tasks, "jobs_first": jobs, "slots": slots})
        }
        Cause::Backoff { attempt, wait_ms } => json!({"cause": "backoff", "attempt": attempt, "wait_ms": wait_ms}),
        Cause::Fetching { worker, name } => json!({"cause": "fetching", "worker": worker.0, "worker_name": name}),
        Cause::Compiling { worker, name } => json!({"cause": "compiling", "worker": worker.0, "worker_name": name}),
        Cause::Queued { worker, name, tasks } => {
            json!({"cause": "queued", "worker": worker.0, "worker_name": name, "tasks_first": tasks})
        }
        Cause::Running { worker, name, leased_ms } => {
            json!({"cause": "running", "worker": worker.0, "worker_name": name, "leased_ms": leased_ms})
        }
        Cause::Ended { failed, account } => {
            json!({"cause": "ended", "failed": failed, "account": account.as_ref().map(account_in_json)})
        }
        Cause::GivenUp => json!({"cause": "given-up"}),
    }
}

fn account_in_json(account: &Account) -> Value {
    let mut value: serde_json::Map<_, _> =
        parts(account).into_iter().map(|(name, time)| (format!("{name}_ns"), time.into())).collect();
    value.insert("whole_ns".to_owned(), account.whole_ns().into());
    value.into()
}

const fn parts(account: &Account) -> [(&'static str, u64); 6] {
    [
        ("queued", account.queued_ns),
        ("leased", account.leased_ns),
        ("fetching", account.fetching_ns),
        ("compiling", account.compiling_ns),
        ("running", account.running_ns),
        ("storing", account.storing_ns),
    ]
}

fn now_ms() -> u64 {
    // Before the epoch, everything is of the future.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// For people.
fn describe(why: &Why, now_ms: u64) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if why.state.is_final() && !why.groups.iter().any(|group| matches!(group.cause, Cause::Ended { .. })) {
        let reason = why.reason.as_deref().map_or_else(String::new, |reason| format!(": {reason}"));
        let _ = writeln!(text, "job {} {}{reason}", why.job, ended(why.state));
    } else if why.groups.is_empty() {
        let _ = writeln!(text, "no task of job {} waits for anything: its end is being stored", why.job);
    }
    for group in &why.groups {
        let _ = writeln!(text, "{} {}", subject(why, group), predicate(why, group));
        if let Cause::Ended { account: Some(account), .. } = &group.cause {
            text.push_str(&table(account));
        }
    }
    if let Some(Checkpoint { bytes, kept_ms }) = why.checkpoint {
        let ago = HumanDuration(Duration::from_millis(now_ms.saturating_sub(kept_ms)));
        let _ = writeln!(text, "its next attempt goes on from a checkpoint of {}, kept {ago} ago", HumanBytes(bytes));
    }
    text
}

const fn ended(state: JobState) -> &'static str {
    match state {
        JobState::Done => "is done: every task has an outcome",
        JobState::Cancelled => "was cancelled",
        _ => "failed",
    }
}

fn subject(why: &Why, group: &WhyGroup) -> String {
    if group.count == 1 {
        format!("task {} of job {}", group.task, why.job)
    } else {
        format!("{} tasks of job {} (the first is {})", HumanCount(group.count), why.job, group.task)
    }
}

fn predicate(why: &Why, group: &WhyGroup) -> String {
    let is_one = group.count == 1;
    let waits = if is_one { "waits for" } else { "wait for" };
    let worker = |id: &WorkerId, name: &str| format!("worker {id} ({name})");
    match &group.cause {
        Cause::Storing => format!("{waits} the scheduler's disk: the job is being stored"),
        Cause::After { job } => format!("{waits} the end of job {job}"),
        Cause::Input { job, first, end } if end - first == 1 && is_one => {
            format!("{waits} its argument, the result of task {first} of job {job}")
        }
        Cause::Input { job, first, end } if is_one => {
            format!("{waits} its arguments, the results of tasks {first} to {} of job {job}", end.saturating_sub(1))
        }
        Cause::Input { job, first, .. } => {
            format!("{waits} results of job {job}; the first of them for that of its task {first}")
        }
        Cause::Secrets { names } => format!("{waits} {}", secrets(why.job, names)),
        Cause::NoWorker { cluster, coming, short } => {
            let mut text = format!("{waits} a worker: none of cluster {cluster} is connected that takes work");
            if *coming > 0 {
                text.push_str(&format!("; {coming} on the way"));
            }
            short.iter().for_each(|why| text.push_str(&format!("\n    {why}")));
            text
        }
        Cause::NoTime { cluster, needed_ms } => {
            let needed = Duration::from_millis(*needed_ms);
            format!(
                "{waits} a worker of cluster {cluster} that stays for {needed:?}: all that are connected end before"
            )
        }
        Cause::Slot { tasks, jobs, slots } => format!("{waits} a slot: {}", in_front(*tasks, *jobs, *slots)),
        Cause::Backoff { attempt, wait_ms } => {
            format!("{waits} attempt {}, which begins in {}", attempt + 1, time(wait_ms.saturating_mul(1_000_000)))
        }
        Cause::Fetching { worker: id, name } => {
            format!("{waits} {}, which fetches what the job needs", worker(id, name))
        }
        Cause::Compiling { worker: id, name } => format!("{waits} {}, which compiles the module", worker(id, name)),
        Cause::Queued { worker: id, name, tasks } => {
            let are = if is_one { "is" } else { "are" };
            format!("{are} leased to {}, behind {} other {}", worker(id, name), HumanCount(*tasks), task_word(*tasks))
        }
        Cause::Running { worker: id, name, leased_ms } => {
            let run = if is_one { "probably runs" } else { "probably run" };
            format!("{run} on {}, leased {} ago", worker(id, name), time(leased_ms.saturating_mul(1_000_000)))
        }
        Cause::Ended { failed, account } => {
            let outcome = if *failed { "failed for good" } else { "has a result" };
            let account = if account.is_some() { ", after" } else { "; where its time went is not known any more" };
            format!("{outcome}{account}")
        }
        Cause::GivenUp => {
            let have = if is_one { "has" } else { "have" };
            format!("{have} no outcome: the job ended before")
        }
    }
}

/// What is to be done about secrets that are not there.
pub(super) fn secrets(job: JobId, names: &[String]) -> String {
    let (word, are, them) = if names.len() == 1 { ("secret", "is", "it") } else { ("secrets", "are", "them") };
    let files = names.iter().map(|name| format!(" {name}=FILE")).collect::<String>();
    let names = names.join(", ");
    format!("{word} {names}, which {are} not there: give {them} again with `farm secret update {job}{files}`")
}

/// What goes first, and what it takes.
fn in_front(tasks: u64, jobs: u64, slots: u64) -> String {
    let mut first = Vec::new();
    if tasks > 0 {
        first.push(format!("{} {} of this job", HumanCount(tasks), task_word(tasks)));
    }
    if jobs > 0 {
        first.push(format!("{} other {}", HumanCount(jobs), if jobs == 1 { "job" } else { "jobs" }));
    }
    let busy = match slots {
        1 => "the only slot is busy".to_owned(),
        slots => format!("all {} slots are busy", HumanCount(slots)),
    };
    if first.is_empty() {
        return format!("it is the next; {busy}");
    }
    let go = if tasks + jobs == 1 { "goes" } else { "go" };
    format!("{} {go} first; {busy}", first.join(" and "))
}

const fn task_word(count: u64) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

fn table(account: &Account) -> String {
    let whole = account.whole_ns();
    let mut text = String::new();
    let mut line = |name: &str, part: u64| {
        let percent = if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
        let _ = writeln!(text, "  {name:<10}{:>12}{percent:>7.1} %", time(part));
    };
    for (name, part) in parts(account) {
        line(name, part);
    }
    line("whole", whole);
    text
}

/// A time in the unit that fits it.
fn time(nanoseconds: u64) -> String {
    let ns = nanoseconds as f64;
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns / 1e6),
        1_000_000_000..600_000_000_000 => format!("{:.1} s", ns / 1e9),
        _ => format!("{:.0} min", ns / 6e10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(state: JobState, groups: &[(u64, u64, Cause)]) -> Why {
        let groups = groups.iter().cloned().map(|(task, count, cause)| WhyGroup { task, count, cause }).collect();
        Why { job: JobId(7), state, groups, reason: None, checkpoint: None }
    }

    fn text(task: u64, count: u64, cause: Cause) -> String {
        describe(&why(JobState::Running, &[(task, count, cause)]), 0)
    }

    #[test]
    fn each_group_is_one_sentence() {
        let slot = Cause::Slot { tasks: 1200, jobs: 0, slots: 8 };
        assert_eq!(
            text(5, 1, slot),
            "task 5 of job 7 waits for a slot: 1,200 tasks of this job go first; all 8 slots are busy\n"
        );
        let slot = Cause::Slot { tasks: 0, jobs: 1, slots: 1 };
        assert_eq!(
            text(5, 1, slot),
            "task 5 of job 7 waits for a slot: 1 other job goes first; the only slot is busy\n"
        );
        let queued = Cause::Queued { worker: WorkerId(3), name: "w3".into(), tasks: 1 };
        assert_eq!(
            text(9, 3, queued),
            "3 tasks of job 7 (the first is 9) are leased to worker 3 (w3), behind 1 other task\n"
        );
        let input = Cause::Input { job: JobId(6), first: 32, end: 48 };
        assert_eq!(
            text(2, 1, input),
            "task 2 of job 7 waits for its arguments, the results of tasks 32 to 47 of job 6\n"
        );
        let secrets = Cause::Secrets { names: vec!["A".into(), "B".into()] };
        assert_eq!(
            text(0, 5, secrets),
            "5 tasks of job 7 (the first is 0) wait for secrets A, B, which are not there: give them again with `farm \
             secret update 7 A=FILE B=FILE`\n"
        );
        assert_eq!(describe(&why(JobState::Done, &[]), 0), "job 7 is done: every task has an outcome\n");
    }

    #[test]
    fn a_checkpoint_is_told_with_its_age() {
        let running = Cause::Running { worker: WorkerId(3), name: "w3".into(), leased_ms: 1000 };
        let mut why = why(JobState::Running, &[(4, 1, running)]);
        why.checkpoint = Some(Checkpoint { bytes: 3 << 20, kept_ms: 1_000_000 });
        let told = describe(&why, 1_060_000);
        let told = told.lines().nth(1).expect("a second line");
        assert_eq!(told, "its next attempt goes on from a checkpoint of 3.00 MiB, kept 60 seconds ago");
        assert_eq!(in_json(&why)["checkpoint"], json!({"bytes": 3 << 20, "kept_ms": 1_000_000}));
    }

    #[test]
    fn an_account_sums_to_its_whole() {
        let account = Account {
            queued_ns: 1_000_000,
            leased_ns: 250_000,
            fetching_ns: 0,
            compiling_ns: 500,
            running_ns: 2_000_000_000,
            storing_ns: 3_000,
        };
        let cause = Cause::Ended { failed: false, account: Some(account) };
        let told = text(0, 1, cause.clone());
        assert!(told.starts_with("task 0 of job 7 has a result, after\n  queued          1.0 ms    0.0 %\n"), "{told}");
        assert!(told.contains("  running          2.0 s   99.9 %\n"), "{told}");
        let json = in_json(&why(JobState::Running, &[(0, 1, cause)]));
        let account = json["groups"][0]["account"].as_object().expect("an account");
        let sum: u64 = account.iter().filter(|(name, _)| *name != "whole_ns").filter_map(|(_, ns)| ns.as_u64()).sum();
        assert_eq!(account["whole_ns"], sum);
        assert_eq!(account.len(), 7);
    }

    #[test]
    fn programs_get_the_cause_by_name() {
        let json = in_json(&why(
            JobState::Waiting,
            &[(0, 10, Cause::NoWorker { cluster: "default".to_owned(), coming: 0, short: Vec::new() })],
        ));
        assert_eq!(
            json,
            json!({
                "job": 7,
                "state": "waiting",
                "reason": null,
                "groups": [
                    {"task": 0, "count": 10, "cause": "no-worker", "cluster": "default", "coming": 0, "short": []}
                ],
                "checkpoint": null,
            })
        );
    }
}
