//! A function of two, called over the elements of an array: for the first two, then for what that gave and the third,
//! and so on. Each call has an instance of its own, as every call has.

use farm_proto::outcome::{Captured, Failure, FailureKind};
use serde_json::value::RawValue;

use crate::module::compact_json;
use crate::sandbox::{Ended, Sandbox, Task};

/// Runs one task whose argument is an array, and appends what is left in the end to `result`. An array of one is its
/// own result, without a call. As [`Sandbox::call`] otherwise; what the calls print is put together, up to `output`
/// bytes of each kind.
pub(super) fn call(sandbox: &mut Sandbox, task: Task<'_>, output: u64, result: &mut Vec<u8>) -> Ended {
    let mut whole = Ended::default();
    let elements: Vec<&RawValue> = match serde_json::from_slice(task.argument) {
        Ok(elements) => elements,
        Err(error) => return refused(whole, format!("a fold takes an array: {error}")),
    };
    let Some((first, rest)) = elements.split_first() else {
        return refused(whole, "a fold takes an array of at least one element; this one is empty".to_owned());
    };
    let start = result.len();
    compact_json(first.get().as_bytes(), result);
    let mut pair = Vec::new();
    for element in rest {
        pair.clear();
        pair.push(b'[');
        pair.extend_from_slice(&result[start..]);
        pair.push(b',');
        pair.extend_from_slice(element.get().as_bytes());
        pair.push(b']');
        result.truncate(start);
        let ended = sandbox.call(Task { argument: &pair, ..task }, result);
        join(&mut whole.captured, ended.captured, output);
        if let Some(fuel) = ended.fuel_used {
            whole.fuel_used = Some(whole.fuel_used.unwrap_or(0).saturating_add(fuel));
        }
        if ended.failure.is_some() {
            whole.failure = ended.failure;
            break;
        }
    }
    whole
}

fn refused(mut ended: Ended, message: String) -> Ended {
    ended.failure = Some(Failure::new(FailureKind::BadArguments, message));
    ended
}

/// Appends what one call printed, as long as there is room for it.
fn join(all: &mut Captured, more: Captured, limit: u64) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    all.truncated |= more.truncated;
    for (bytes, more) in [(&mut all.stdout, more.stdout), (&mut all.stderr, more.stderr)] {
        let room = limit.saturating_sub(bytes.len()).min(more.len());
        all.truncated |= room < more.len();
        bytes.extend_from_slice(&more[..room]);
    }
    // Lines, and so in whole ones.
    for line in more.log.split_inclusive('\n') {
        if all.log.len() + line.len() > limit {
            all.truncated = true;
            break;
        }
        all.log.push_str(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_joined_up_to_the_limit() {
        let said = |text: &str| Captured {
            stdout: text.into(),
            stderr: text.into(),
            log: format!("{text}\n"),
            truncated: false,
            files: Vec::new(),
        };
        let mut all = Captured::default();
        join(&mut all, said("abc"), 8);
        join(&mut all, said("def"), 8);
        assert_eq!((&*all.stdout, &*all.stderr, &*all.log), (&b"abcdef"[..], &b"abcdef"[..], "abc\ndef\n"));
        assert!(!all.truncated);
        join(&mut all, said("ghi"), 8);
        assert_eq!((&*all.stdout, &*all.log), (&b"abcdefgh"[..], "abc\ndef\n"));
        assert!(all.truncated);
    }
}
