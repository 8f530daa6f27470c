//! What the queue says.
//!
//! One `squeue` for everything, in a format of its own: the tabular ones cut fields, JSON is another in every version,
//! and asking for single jobs fails as soon as one is gone.

use std::time::{Duration, SystemTime};

use farm_proto::cluster::is_name;

use super::super::{Member, QueueState, lease};

/// Id, array's id, array's index, state, name, comment, nodes, start, end, time left; then the reason, which can hold
/// anything.
const FORMAT: &str = "%i|%F|%K|%T|%j|%k|%N|%S|%e|%L|%r";
const FIELDS: usize = 11;

/// States after which nothing comes. A word that is not among them is of a job that lives: new versions have new words.
const TERMINAL: [&str; 10] = [
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "REVOKED",
];
/// States of jobs that have no node, or none any more.
const WAITING: [&str; 6] = ["PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"];

/// The command that asks. Whose jobs are asked for is to be filled in where it runs: see [`USER`].
pub(super) fn words() -> Vec<String> {
    ["squeue", "--noheader", "--array", "--states=all", &format!("--format={FORMAT}")].map(str::to_owned).to_vec()
}

/// The user whose jobs are asked for, as a shell reads it: on another host, ours has another number.
pub(super) const USER: &str = r#"--user="$(id -u)""#;

/// The comment that a submission is known by.
pub(super) fn comment(farm: &str, cluster: &str, base: &str) -> String {
    format!("farm:{farm}:{cluster}:{base}")
}

/// The jobs of a farm in the queue's answer. Lines that are something else are passed over.
pub(super) fn members(farm: &str, answer: &str) -> Vec<Member> {
    answer.lines().filter_map(|line| member(farm, line)).collect()
}

fn member(farm: &str, line: &str) -> Option<Member> {
    let fields: Vec<_> = line.trim_start().splitn(FIELDS, '|').map(str::trim).collect();
    let &[id, _, index, state, _, comment, nodes, _, end, left, reason] = fields.as_slice() else {
        return None;
    };
    let mut parts = comment.strip_prefix("farm:")?.split(':');
    let (Some(theirs), Some(cluster), Some(base), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    if theirs != farm || !is_name(cluster) || base.is_empty() || id.is_empty() {
        return None;
    }
    // Not a number for what is no array: a submission of one.
    let index = index.parse().unwrap_or(0);
    let node = said(nodes).map(str::to_owned);
    // `CANCELLED by 1000`, `COMPLETING+`
    let word = state.split([' ', '+']).next().unwrap_or_default();
    let state = if TERMINAL.contains(&word) {
        QueueState::Ended(word.to_owned())
    } else if WAITING.contains(&word) || node.is_none() {
        QueueState::Queued
    } else {
        QueueState::Running
    };
    let ends = match state {
        QueueState::Running if !left.contains("UNLIMITED") => epoch(end),
        _ => None,
    };
    Some(Member {
        id: id.to_owned(),
        cluster: cluster.to_owned(),
        lease: lease(base, index),
        state,
        reason: said(reason).map(str::to_owned),
        node,
        ends,
    })
}

/// What a field says, if anything.
fn said(field: &str) -> Option<&str> {
    let is_nothing =
        ["", "None", "NONE", "N/A", "n/a", "(null)"].contains(&field) || field.trim_matches(['(', ')']) == "None";
    (!is_nothing).then_some(field)
}

/// Seconds since 1970, as `SLURM_TIME_FORMAT=%s` has them.
fn epoch(field: &str) -> Option<SystemTime> {
    let seconds = field.parse().ok().filter(|seconds| *seconds > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The job's number in what `sbatch --parsable` prints: `ID` or `ID;CLUSTER`, after whatever a site's plugin has to say.
pub(super) fn submitted(answer: &str) -> Option<&str> {
    let number = |line: &'_ str| -> bool {
        let id = line.split(';').next().unwrap_or_default();
        !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())
    };
    answer.lines().map(str::trim).rfind(|line| number(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: u64 = 1_790_000_000;

    fn one(line: &str) -> Member {
        let members = members("0123456789", line);
        assert_eq!(members.len(), 1, "{line}");
        members.into_iter().next().unwrap()
    }

    #[test]
    fn jobs_are_read_as_squeue_prints_them() {
        let running =
            one("17|17|N/A|RUNNING|farm-cms-abc|farm:0123456789:cms:abc|n1|1789996400|1790000000|58:02|None\n");
        assert_eq!(running.state, QueueState::Running);
        assert_eq!((running.id.as_str(), running.cluster.as_str(), running.lease.as_str()), ("17", "cms", "abc-0"));
        assert_eq!((running.node.as_deref(), running.reason.as_deref()), (Some("n1"), None));
        assert_eq!(running.ends, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(ENDS)));
        let queued = one("17_4|17|4|PENDING|farm-cms-abc|farm:0123456789:cms:abc||N/A|NONE|1:00:00|Priority");
        assert_eq!((queued.state, queued.lease.as_str(), queued.ends), (QueueState::Queued, "abc-4", None));
        assert_eq!((queued.id.as_str(), queued.reason.as_deref(), queued.node), ("17_4", Some("Priority"), None));
    }

    #[test]
    fn a_reason_may_hold_anything() {
        let reason = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions";
        let odd = format!("({reason}|and a bar)");
        for reason in [reason, &odd, "ReqNodeNotAvail, UnavailableNodes:n[1-3]", "RaisedSignal:11(Segmentation fault)"]
        {
            let line = format!("3|3|N/A|PENDING|farm-a-b|farm:0123456789:a:b||N/A|N/A|1:00|{reason}");
            assert_eq!(one(&line).reason.as_deref(), Some(reason));
        }
    }

    #[test]
    fn every_state_of_a_job_is_queued_running_or_over() {
        let state = |word: &str, node: &str| {
            one(&format!("3|3|N/A|{word}|farm-a-b|farm:0123456789:a:b|{node}|1|{ENDS}|1:00|None")).state
        };
        for word in TERMINAL {
            assert_eq!(state(word, "n1"), QueueState::Ended(word.to_owned()));
        }
        assert_eq!(state("CANCELLED by 1000", "n1"), QueueState::Ended("CANCELLED".to_owned()));
        for word in WAITING {
            assert_eq!(state(word, ""), QueueState::Queued);
        }
        for word in ["RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "A_NEW_WORD"] {
            assert_eq!(state(word, "n1"), QueueState::Running, "{word}");
        }
        // Preempted, and requeued by whoever.
        assert_eq!(state("PENDING", "n1"), QueueState::Queued);
        assert_eq!(state("A_NEW_WORD", ""), QueueState::Queued);
    }

    #[test]
    fn a_job_without_an_end_has_none() {
        let ends = |end: &str, left: &str| {
            one(&format!("3|3|N/A|RUNNING|farm-a-b|farm:0123456789:a:b|n1|1|{end}|{left}|None")).ends
        };
        assert_eq!(ends("NONE", "UNLIMITED"), None);
        assert_eq!(ends("1821536000", "UNLIMITED"), None, "a year ahead is not an end");
        assert_eq!(ends("2026-08-01T00:00:00", "1:00"), None, "not in the asked format");
    }

    #[test]
    fn jobs_of_others_are_passed_over() {
        for line in [
            "",
            "slurm_load_jobs error: Unable to contact slurm controller",
            "3|3|N/A|RUNNING|farm-a-b|(null)|n1|1|2|3|None",
            "3|3|N/A|RUNNING|farm-a-b|farm:ffffffffff:a:b|n1|1|2|3|None",
            "3|3|N/A|RUNNING|farm-a-b|farm:0123456789:a|n1|1|2|3|None",
            "3|3|N/A|RUNNING|farm-a-b|farm:0123456789:a:b:c|n1|1|2|3|None",
            "3|3|N/A|RUNNING|farm-a-b|farm:0123456789:A B:c|n1|1|2|3|None",
            "3|3|N/A|RUNNING|farm-a-b|farm:0123456789:a:b|n1|1",
        ] {
            assert_eq!(members("0123456789", line), [], "{line}");
        }
    }

    #[test]
    fn the_number_of_a_submission_is_found() {
        assert_eq!(submitted("17\n"), Some("17"));
        assert_eq!(submitted("17;cluster\n"), Some("17;cluster"));
        assert_eq!(submitted("lua: your account has 3 hours left\n17\n"), Some("17"));
        assert_eq!(submitted("Submitted batch job 17\n"), None);
        assert_eq!(submitted(""), None);
    }
}
