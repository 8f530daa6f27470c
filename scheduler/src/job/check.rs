//! Whether a job makes sense, before anything is looked up.

use std::collections::BTreeSet;

use farm_proto::frame::MAX_PAYLOAD;
use farm_proto::job::{Args, JobSpec, Limits, MOST_INPUTS, ModuleKind, Profile, is_below};
use farm_proto::message::RequestError;
use farm_proto::secret::{MOST_SECRETS, is_name};

/// The longest name of a job, a function or an environment variable, in bytes.
const MAX_NAME: usize = 1024;
/// The smallest memory limit: one page.
const MIN_MEMORY: u64 = 64 << 10;
/// The largest limit for a result, in bytes: it travels in one payload, and something stands around it.
const MAX_RESULT: u64 = MAX_PAYLOAD as u64 / 4 * 3;
/// The largest limit for each kind of output, in bytes: all three of a task travel in one message.
const MAX_OUTPUT: u64 = 4 << 20;
/// The most files that a task may leave: their listing travels in a message.
const MAX_OUTPUT_FILES: u32 = 10_000;
/// The most jobs that one may wait for.
const MAX_AFTER: usize = 1_000;
/// The most retries.
const MAX_RETRIES: u32 = 1_000;

/// Checks everything about a job but its arguments and blobs.
///
/// # Errors
///
/// Something makes no sense; the error says what, for the one who asked.
pub(crate) fn check(spec: &JobSpec) -> Result<(), RequestError> {
    names(spec)
        .and_then(|()| limits(&spec.limits, spec.profile))
        .and_then(|()| environment(&spec.env))
        .and_then(|()| inputs(spec))
        .and_then(|()| outputs(spec))
        .and_then(|()| secrets(spec))
        .map_err(RequestError::Invalid)
}

fn names(spec: &JobSpec) -> Result<(), String> {
    if spec.function.is_empty() && spec.module.kind != ModuleKind::Command {
        return Err("no function is named".to_owned());
    }
    for (what, name) in [("job", spec.name.as_deref().unwrap_or_default()), ("function", &spec.function)] {
        if name.len() > MAX_NAME {
            return Err(format!("the {what}'s name has more than {MAX_NAME} bytes"));
        }
    }
    if spec.after.len() > MAX_AFTER {
        return Err(format!("{} jobs to wait for; the most is {MAX_AFTER}", spec.after.len()));
    }
    if matches!(spec.args, Args::Subset { .. }) {
        return Err("only a retry takes some of a table's arguments".to_owned());
    }
    if spec.fold && spec.module.kind == ModuleKind::Command {
        return Err("a command takes no two arguments".to_owned());
    }
    if spec.retries > MAX_RETRIES {
        return Err(format!("{} retries; the most is {MAX_RETRIES}", spec.retries));
    }
    Ok(())
}

fn limits(limits: &Limits, profile: Profile) -> Result<(), String> {
    if limits.memory < MIN_MEMORY {
        return Err(format!(
            "a memory limit of {} bytes; a function needs one page of {MIN_MEMORY} at least",
            limits.memory
        ));
    }
    if limits.timeout_ms == Some(0) {
        return Err("a time-out of 0 leaves no time at all".to_owned());
    }
    match limits.fuel {
        Some(0) => return Err("a fuel limit of 0 runs nothing".to_owned()),
        Some(_) if profile != Profile::Metered => {
            return Err("a fuel limit needs the metered profile".to_owned());
        }
        _ => {}
    }
    if limits.result > MAX_RESULT {
        return Err(format!("a result limit of {} bytes; the most is {MAX_RESULT}", limits.result));
    }
    if limits.output > MAX_OUTPUT {
        return Err(format!("an output limit of {} bytes; the most is {MAX_OUTPUT}", limits.output));
    }
    Ok(())
}

fn environment(env: &[(String, String)]) -> Result<(), String> {
    for (name, value) in env {
        if name.is_empty() || name.len() > MAX_NAME || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(format!("{name:?} cannot be set in an environment"));
        }
    }
    Ok(())
}

fn secrets(spec: &JobSpec) -> Result<(), String> {
    let names = &spec.mounts.secrets;
    if names.len() > MOST_SECRETS {
        return Err(format!("{} secrets; the most is {MOST_SECRETS}", names.len()));
    }
    let mut seen: BTreeSet<&str> = spec.env.iter().map(|(name, _)| name.as_str()).collect();
    for name in names {
        if !is_name(name) {
            return Err(format!(
                "{name:?} is no name for a secret: it is one for a variable, of letters, digits and _"
            ));
        }
        if !seen.insert(name) {
            return Err(format!("{name} is given twice, as a secret or a variable"));
        }
    }
    Ok(())
}

fn outputs(spec: &JobSpec) -> Result<(), String> {
    match &spec.mounts.outputs {
        Some(_) if spec.fold => Err("a reduction by pairs has no /out".to_owned()),
        Some(outputs) if outputs.files > MAX_OUTPUT_FILES => {
            Err(format!("a limit of {} files in /out; the most is {MAX_OUTPUT_FILES}", outputs.files))
        }
        _ => Ok(()),
    }
}

fn inputs(spec: &JobSpec) -> Result<(), String> {
    let count = spec.inputs.len().saturating_add(spec.mounts.folders.len());
    if count > MOST_INPUTS {
        return Err(format!("{count} input files and empty folders; the most is {MOST_INPUTS}"));
    }
    let mut files = BTreeSet::new();
    let mut folders = BTreeSet::new();
    let outside = |path: &str| format!("the input path {path:?} is not relative, or has empty, `.` or `..` parts");
    for path in &spec.mounts.folders {
        if !is_below(path) {
            return Err(outside(path));
        }
        folders.extend(path.match_indices('/').map(|(at, _)| &path[..at]).chain([path.as_str()]));
    }
    for input in &spec.inputs {
        let path = input.path.as_str();
        if !is_below(path) {
            return Err(outside(path));
        }
        if !files.insert(path) {
            return Err(format!("two input files are called {path:?}"));
        }
        folders.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
    }
    match files.intersection(&folders).next() {
        Some(path) => Err(format!("{path:?} is both an input file and a folder of one")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use farm_proto::ids::Digest;
    use farm_proto::job::{CommandOptions, Input, ModuleRef, Mounts, OutputLimits, ResultEncoding};

    use super::*;

    fn spec(change: impl FnOnce(&mut JobSpec)) -> Result<(), RequestError> {
        let mut spec = JobSpec {
            cluster: None,
            time_request_ms: None,
            name: None,
            module: ModuleRef {
                digest: Digest::of(b"module"),
                size: 6,
                kind: ModuleKind::Core,
                result: ResultEncoding::Json,
            },
            function: "square".to_owned(),
            args: Args::Range { start: 0, end: 1 },
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
        change(&mut spec);
        check(&spec)
    }

    fn mount(paths: &[&str]) -> Result<(), RequestError> {
        spec(|spec| {
            spec.inputs =
                paths.iter().map(|path| Input { path: (*path).to_owned(), digest: Digest::of(b""), size: 0 }).collect();
        })
    }

    #[test]
    fn jobs_that_make_sense_pass() {
        spec(|_| {}).unwrap();
        spec(|spec| {
            spec.function.clear();
            spec.module.kind = ModuleKind::Command;
        })
        .unwrap();
        spec(|spec| {
            spec.profile = Profile::Metered;
            spec.limits.fuel = Some(1);
        })
        .unwrap();
        mount(&["a", "b/c", "b/d", "..a", "b.c"]).unwrap();
        empty(&["a", "b/c"], &["b/d", "e"]).unwrap();
    }

    fn empty(files: &[&str], folders: &[&str]) -> Result<(), RequestError> {
        spec(|spec| {
            let input = |path: &&str| Input { path: (*path).to_owned(), digest: Digest::of(b""), size: 0 };
            spec.inputs = files.iter().map(input).collect();
            spec.mounts.folders = folders.iter().map(|path| (*path).to_owned()).collect();
        })
    }

    #[test]
    fn what_is_mounted_has_to_make_sense() {
        for (files, folders) in [(&["a"][..], &["a"][..]), (&["a"], &["a/b"]), (&[], &["../a"]), (&[], &[""])] {
            assert!(empty(files, folders).is_err(), "{files:?} {folders:?}");
        }
        let secrets = |names: &[&str], env: &str| {
            spec(|spec| {
                spec.mounts.secrets = names.iter().map(|name| (*name).to_owned()).collect();
                spec.env = vec![(env.to_owned(), String::new())];
            })
        };
        secrets(&["A", "B_1"], "C").unwrap();
        for (names, env) in [(&["A", "A"][..], "C"), (&["A"], "A"), (&["a/b"], "C"), (&[".."], "C"), (&[""], "C")] {
            assert!(secrets(names, env).is_err(), "{names:?} {env}");
        }
        let outputs = |files| spec(|spec| spec.mounts.outputs = Some(OutputLimits { bytes: 1, files }));
        outputs(10_000).unwrap();
        assert!(outputs(10_001).is_err());
    }

    #[test]
    fn jobs_that_make_none_do_not() {
        let wrong: [fn(&mut JobSpec); 9] = [
            |spec| spec.function.clear(),
            |spec| spec.name = Some("x".repeat(2000)),
            |spec| spec.limits.memory = 1,
            |spec| spec.limits.timeout_ms = Some(0),
            |spec| spec.limits.fuel = Some(1),
            |spec| spec.limits.result = 1 << 40,
            |spec| spec.limits.output = 1 << 40,
            |spec| spec.env = vec![("a=b".into(), String::new())],
            |spec| spec.retries = u32::MAX,
        ];
        for (index, change) in wrong.into_iter().enumerate() {
            assert!(matches!(spec(change), Err(RequestError::Invalid(_))), "{index}");
        }
        for paths in [
            &["/a"][..],
            &["a/../b"],
            &[".."],
            &["a//b"],
            &["a/"],
            &[""],
            &["./a"],
            &["a", "a"],
            &["a", "a/b"],
            &["a/b/c", "a/b"],
            &["a\0"],
        ] {
            assert!(matches!(mount(paths), Err(RequestError::Invalid(_))), "{paths:?}");
        }
    }
}
