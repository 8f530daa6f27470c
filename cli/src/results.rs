//! From batches in the order in which they come to results in the order that was asked for.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farm_proto::columns::Columns;
use farm_proto::job::ResultEncoding;
use farm_proto::message::Batch;
use farm_proto::outcome::{Captured, Failure, FailureKind, GuestFrame, OutputFile};
use serde::Serialize;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON array in the order of the arguments; `null` stands for a task that failed.
    #[default]
    Json,
    /// One JSON object a line and task, in the order in which they finish.
    Ndjson,
}

/// Writes results as batches come.
#[derive(Debug)]
pub struct ResultWriter<W> {
    out: W,
    format: Format,
    /// Whether there is one result, which stands for itself and not in an array.
    is_single: bool,
    encoding: ResultEncoding,
    /// Batches that cannot be written yet, by their first task.
    early: BTreeMap<u64, (Batch, Columns)>,
    /// The next task to be written in [`Format::Json`].
    next: u64,
    scratch: Vec<u8>,
}

/// One line of [`Format::Ndjson`]. The names are a promise.
#[derive(Debug, Serialize)]
struct FailureLine<'a> {
    index: u64,
    error: &'a Failure,
    #[serde(flatten)]
    printed: Option<Printed<'a>>,
}

/// What a task printed, where it did.
#[derive(Debug, Serialize)]
pub struct Printed<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    pub stdout: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub stderr: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub log: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What it left in `/out`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub files: &'a [OutputFile],
}

impl<'a> From<&'a Captured> for Printed<'a> {
    fn from(captured: &'a Captured) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&captured.stdout),
            stderr: String::from_utf8_lossy(&captured.stderr),
            log: &captured.log,
            truncated: captured.truncated,
            files: &captured.files,
        }
    }
}

impl<W: Write> ResultWriter<W> {
    pub fn new(out: W, format: Format, encoding: ResultEncoding) -> Self {
        Self { out, format, is_single: false, encoding, early: BTreeMap::new(), next: 0, scratch: Vec::new() }
    }

    /// For the only result of a job of one task: in [`Format::Json`] it is written without an array around it.
    #[must_use]
    pub fn single(mut self, is_single: bool) -> Self {
        self.is_single = is_single;
        self
    }

    /// Takes a batch and writes what can be written.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn batch(&mut self, batch: Batch, results: Columns) -> io::Result<()> {
        match self.format {
            Format::Ndjson => self.write_lines(&batch, &results)?,
            Format::Json if batch.first == self.next => {
                self.write_values(&batch, &results)?;
                while let Some((batch, results)) = self.early.remove(&self.next) {
                    self.write_values(&batch, &results)?;
                }
            }
            Format::Json => {
                self.early.insert(batch.first, (batch, results));
            }
        }
        Ok(())
    }

    /// Writes the end. Tasks of a job of `tasks` tasks that have no outcome count as failed ones.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn finish(mut self, tasks: u64) -> io::Result<W> {
        if self.format == Format::Json {
            for (first, (batch, results)) in std::mem::take(&mut self.early) {
                self.write_nulls(first)?;
                self.write_values(&batch, &results)?;
            }
            self.write_nulls(tasks)?;
            self.out.write_all(match self.next {
                _ if self.is_single => b"\n".as_slice(),
                0 => b"[]\n",
                _ => b"\n]\n",
            })?;
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Hands on what has been written so far.
    ///
    /// # Errors
    ///
    /// The output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn separator(&self) -> &'static [u8] {
        match self.next {
            _ if self.is_single => b"",
            0 => b"[\n",
            _ => b",\n",
        }
    }

    fn write_nulls(&mut self, until: u64) -> io::Result<()> {
        while self.next < until {
            self.out.write_all(self.separator())?;
            self.out.write_all(b"null")?;
            self.next += 1;
        }
        Ok(())
    }

    fn write_values(&mut self, batch: &Batch, results: &Columns) -> io::Result<()> {
        let mut failures = batch.failures.iter().map(|(offset, _)| *offset as usize).peekable();
        for (offset, value) in results.iter().enumerate() {
            self.out.write_all(self.separator())?;
            if failures.next_if_eq(&offset).is_some() {
                self.out.write_all(b"null")?;
            } else {
                write_value(&mut self.out, self.encoding, value, &mut self.scratch)?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn write_lines(&mut self, batch: &Batch, results: &Columns) -> io::Result<()> {
        let mut failures = batch.failures.iter().peekable();
        let mut captured = batch.captured.iter().peekable();
        for (offset, value) in results.iter().enumerate() {
            let index = batch.first + offset as u64;
            let here = |of: &u32| *of as usize == offset;
            let printed = captured.next_if(|(of, _)| here(of)).map(|(_, captured)| Printed::from(captured));
            if let Some((_, error)) = failures.next_if(|(of, _)| here(of)) {
                serde_json::to_writer(&mut self.out, &FailureLine { index, error, printed })?;
            } else {
                write!(self.out, "{{\"index\":{index},\"value\":")?;
                write_value(&mut self.out, self.encoding, value, &mut self.scratch)?;
                if let Some(printed) = printed {
                    let object = serde_json::to_string(&printed)?;
                    // An object of its own, of which only what stands between the braces is taken.
                    let inner = &object[1..object.len() - 1];
                    if !inner.is_empty() {
                        write!(self.out, ",{inner}")?;
                    }
                }
                self.out.write_all(b"}")?;
            }
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// Writes one result as JSON.
///
/// # Errors
///
/// The output cannot be written.
pub fn write_value(
    out: &mut impl Write,
    encoding: ResultEncoding,
    value: &[u8],
    scratch: &mut Vec<u8>,
) -> io::Result<()> {
    match encoding {
        ResultEncoding::Json => out.write_all(value),
        ResultEncoding::Text => Ok(serde_json::to_writer(out, &String::from_utf8_lossy(value))?),
        ResultEncoding::Bytes => {
            scratch.resize(value.len().div_ceil(3) * 4, 0);
            let length = STANDARD.encode_slice(value, scratch).map_err(io::Error::other)?;
            out.write_all(b"{\"base64\":\"")?;
            out.write_all(&scratch[..length])?;
            out.write_all(b"\"}")
        }
    }
}

/// Failures of a job by what went wrong, for people.
#[derive(Debug, Default)]
pub struct FailureGroups {
    groups: BTreeMap<(FailureKind, String), Group>,
    count: u64,
}

#[derive(Debug, Default)]
struct Group {
    count: u64,
    /// The lowest few, ascending.
    indices: Vec<u64>,
    first: Option<(Failure, String)>,
}

/// Groups that are told; the rest is counted.
const GROUPS: usize = 5;
/// Tasks of a group that are named.
const INDICES: usize = 5;
/// Frames of a backtrace that are shown.
const FRAMES: usize = 8;
/// Distinct messages that are kept at all.
const MESSAGES: usize = 1000;

impl FailureGroups {
    pub fn add(&mut self, batch: &Batch) {
        for (offset, failure) in &batch.failures {
            self.count += 1;
            let key = (failure.kind, failure.message.clone());
            if self.groups.len() >= MESSAGES && !self.groups.contains_key(&key) {
                continue;
            }
            let group = self.groups.entry(key).or_default();
            group.count += 1;
            let index = batch.first + u64::from(*offset);
            let place = group.indices.partition_point(|known| *known < index);
            if place < INDICES {
                group.indices.insert(place, index);
                group.indices.truncate(INDICES);
            }
            if group.first.is_none() {
                let printed = batch.captured.iter().find(|(of, _)| of == offset);
                let stderr = printed.map(|(_, captured)| String::from_utf8_lossy(&captured.stderr).into_owned());
                group.first = Some((failure.clone(), stderr.unwrap_or_default()));
            }
        }
    }

    /// How many failures were added.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether a task failed that way.
    pub fn have(&self, kind: FailureKind) -> bool {
        self.groups.keys().any(|(known, _)| *known == kind)
    }

    /// A text of several lines: most frequent group first.
    pub fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
        let mut text = String::new();
        for ((kind, message), group) in groups.iter().take(GROUPS) {
            let indices: Vec<_> = group.indices.iter().map(u64::to_string).collect();
            let more = group.count - group.indices.len() as u64;
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let tasks = if group.count == 1 { "task" } else { "tasks" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {kind}: {message}\n    {tasks} {}{more}", indices.join(", "));
            if let Some((failure, stderr)) = &group.first {
                for frame in telling_frames(failure).iter().take(FRAMES) {
                    let place = match (&frame.file, frame.line) {
                        (Some(file), Some(line)) => format!(" ({file}:{line})"),
                        _ => String::new(),
                    };
                    let _ = writeln!(text, "      at {}{place}", frame.function);
                }
                let tail: Vec<_> = stderr.lines().rev().take(5).collect();
                for line in tail.iter().rev() {
                    let _ = writeln!(text, "      stderr: {line}");
                }
            }
        }
        if groups.len() > GROUPS {
            let _ = writeln!(text, "  … and {} other kinds of failure", groups.len() - GROUPS);
        }
        text
    }
}

/// The backtrace from where the function's author has to look: without what Rust does between a panic and its end.
fn telling_frames(failure: &Failure) -> &[GuestFrame] {
    const MACHINERY: [&str; 10] = [
        "abort",
        "__rustc::",
        "core::option::expect_failed",
        "core::option::unwrap_failed",
        "core::panicking::",
        "core::result::unwrap_failed",
        "rust_",
        "std::panicking::",
        "std::process::abort",
        "std::sys::",
    ];
    let all = failure.backtrace.as_slice();
    let is_machinery = |frame: &GuestFrame| MACHINERY.iter().any(|start| frame.function.starts_with(start));
    let start = all.iter().take_while(|frame| failure.kind == FailureKind::Panic && is_machinery(frame)).count();
    if start == all.len() { all } else { &all[start..] }
}

#[cfg(test)]
mod tests {
    use farm_proto::columns::ColumnsBuilder;

    use super::*;

    fn batch(first: u64, values: &[&str]) -> (Batch, Columns) {
        let mut builder = ColumnsBuilder::new();
        let mut failures = Vec::new();
        for (offset, value) in values.iter().enumerate() {
            if let Some(message) = value.strip_prefix('!') {
                failures.push((offset as u32, Failure::new(FailureKind::ReturnedError, message)));
                builder.push(b"");
            } else {
                builder.push(value.as_bytes());
            }
        }
        let batch = Batch {
            first,
            count: values.len() as u32,
            failures,
            captured: Vec::new(),
            run_ns: 0,
            fetch_ns: 0,
            compile_ns: 0,
        };
        (batch, builder.finish())
    }

    fn written(format: Format, encoding: ResultEncoding, batches: Vec<(Batch, Columns)>, tasks: u64) -> String {
        let mut writer = ResultWriter::new(Vec::new(), format, encoding);
        for (batch, results) in batches {
            writer.batch(batch, results).expect("memory");
        }
        String::from_utf8(writer.finish(tasks).expect("memory")).expect("text")
    }

    #[test]
    fn an_array_is_in_order_whatever_the_order_of_the_batches() {
        let batches = vec![batch(2, &["4", "9"]), batch(0, &["0", "!bad"])];
        let text = written(Format::Json, ResultEncoding::Json, batches, 4);
        assert_eq!(text, "[\n0,\nnull,\n4,\n9\n]\n");
        assert_eq!(written(Format::Json, ResultEncoding::Json, vec![], 0), "[]\n");
        let text = written(Format::Json, ResultEncoding::Json, vec![batch(1, &["1"])], 3);
        assert_eq!(text, "[\nnull,\n1,\nnull\n]\n");
    }

    #[test]
    fn a_single_result_stands_for_itself() {
        let single = |batches: Vec<(Batch, Columns)>| {
            let mut writer = ResultWriter::new(Vec::new(), Format::Json, ResultEncoding::Json).single(true);
            for (batch, results) in batches {
                writer.batch(batch, results).expect("memory");
            }
            String::from_utf8(writer.finish(1).expect("memory")).expect("text")
        };
        assert_eq!(single(vec![batch(0, &["499500"])]), "499500\n");
        assert_eq!(single(vec![batch(0, &["!bad"])]), "null\n");
        assert_eq!(single(vec![]), "null\n");
    }

    #[test]
    fn lines_carry_values_failures_and_what_was_printed() {
        let (mut first, results) = batch(5, &["1", "!bad"]);
        first.captured.push((0, Captured { log: "info: hi\n".into(), ..Captured::default() }));
        let text = written(Format::Ndjson, ResultEncoding::Json, vec![(first, results)], 2);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines[0], serde_json::json!({"index": 5, "value": 1, "log": "info: hi\n"}));
        assert_eq!(lines[1]["error"]["kind"], "returned-error");
    }

    #[test]
    fn text_and_bytes_become_json() {
        let value = |encoding, value: &str| written(Format::Json, encoding, vec![batch(0, &[value])], 1);
        assert_eq!(value(ResultEncoding::Text, "a\"b"), "[\n\"a\\\"b\"\n]\n");
        assert_eq!(value(ResultEncoding::Bytes, "abcd"), "[\n{\"base64\":\"YWJjZA==\"}\n]\n");
    }

    #[test]
    fn failures_are_grouped_by_message() {
        let mut groups = FailureGroups::default();
        let values = ["!overflow"; 9];
        groups.add(&batch(0, &values).0);
        groups.add(&batch(20, &["1", "!other"]).0);
        assert_eq!(groups.count(), 10);
        assert!(groups.have(FailureKind::ReturnedError) && !groups.have(FailureKind::InputFailed));
        let text = groups.describe();
        assert!(text.starts_with("  returned-error: overflow\n    tasks 0, 1, 2, 3, 4 and 4 more\n"), "{text}");
        assert!(text.contains("  returned-error: other\n    task 21\n"), "{text}");
    }

    #[test]
    fn the_lowest_indices_are_told_whatever_the_order_of_the_batches() {
        let mut groups = FailureGroups::default();
        for first in [30, 10, 0, 20] {
            groups.add(&batch(first, &["!x", "!x"]).0);
        }
        let text = groups.describe();
        assert!(text.contains("tasks 0, 1, 10, 11, 20 and 3 more\n"), "{text}");
    }

    #[test]
    fn the_backtrace_of_a_panic_begins_where_it_was_caused() {
        let frame = |function: &&str| GuestFrame { function: (*function).to_owned(), file: None, line: None };
        let told = |kind, functions: &[&str]| {
            let backtrace = functions.iter().map(frame).collect();
            let failure = Failure { backtrace, ..Failure::new(kind, "x") };
            telling_frames(&failure).iter().map(|frame| frame.function.clone()).collect::<Vec<_>>()
        };
        let functions = ["abort", "__rustc::rust_panic", "core::panicking::panic_fmt", "mine::f", "std::sys::run"];
        assert_eq!(told(FailureKind::Panic, &functions), ["mine::f", "std::sys::run"]);
        assert_eq!(told(FailureKind::Trap, &functions), functions);
        assert_eq!(told(FailureKind::Panic, &functions[..2]), functions[..2]);
    }
}
