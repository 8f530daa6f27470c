//! Reading arguments: from a file, standard input, the command line or a range, checked as they stream.
//!
//! Nothing is uploaded before every argument has been read and found right, and a table of any size takes bounded
//! memory: beyond [`INLINE_MAX`] it goes, in chunks named by their digests, into an unnamed temporary file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::ids::Digest;
use farm_proto::job::{ArgChunk, Args, ResultArgs};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Tables up to this size travel with the submit message itself, in bytes.
pub const INLINE_MAX: usize = 256 << 10;
/// Chunks of a larger table are about this long, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// And hold at most this many arguments.
const CHUNK_COUNT: usize = 1 << 16;

/// Where arguments come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgSource {
    /// The integers `start..end`.
    Range {
        start: i64,
        end: i64,
    },
    Stdin {
        ndjson: bool,
    },
    File {
        path: PathBuf,
        ndjson: bool,
    },
    /// JSON on the command line.
    Literal(String),
}

impl ArgSource {
    /// What `--args TEXT` means: `-` is standard input, a text that begins like a JSON array or object is that, all else
    /// names a file. Files named `.ndjson` or `.jsonl` hold one argument a line, and so does whatever `ndjson` says it of.
    pub fn parse(text: &str, ndjson: bool) -> Self {
        if text == "-" {
            return Self::Stdin { ndjson };
        }
        if text.trim_start().starts_with(['[', '{']) {
            return Self::Literal(text.to_owned());
        }
        let path = PathBuf::from(text);
        let by_name = path.extension().is_some_and(|extension| extension == "ndjson" || extension == "jsonl");
        Self::File { path, ndjson: ndjson || by_name }
    }

    /// How messages call it.
    fn name(&self) -> String {
        match self {
            Self::Range { start, end } => format!("--range {start}..{end}"),
            Self::Stdin { .. } => "standard input".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
            Self::Literal(_) => "--args".to_owned(),
        }
    }
}

/// A half-open range of integers, written `A..B`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IntRange {
    pub start: i64,
    pub end: i64,
}

impl FromStr for IntRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "a range is written A..B, as in 0..1000: from A up to but not including B";
        let (start, end) = text.split_once("..").ok_or(HELP)?;
        let number = |text: &str| text.replace('_', "").parse().map_err(|_| HELP);
        let (start, end) = (number(start)?, number(end)?);
        if end < start { Err("the range's end lies before its start") } else { Ok(Self { start, end }) }
    }
}

/// Arguments that were read and found right.
#[derive(Debug)]
pub struct Arguments {
    table: Table,
}

#[derive(Debug)]
enum Table {
    Range { start: i64, end: i64 },
    Inline(Columns),
    Spooled { file: File, chunks: Vec<ArgChunk> },
    Results(ResultArgs),
}

/// Why arguments cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    #[error("cannot read {name}")]
    Read {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("{name} is not JSON: {source}")]
    NotJson {
        name: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{name} holds {found}, not a JSON array")]
    NotAnArray { name: String, found: &'static str },
    #[error("{name} goes on after the end of its array, in line {line}")]
    Trailing { name: String, line: usize },
    #[error("{name}: element {index}: {reason}")]
    Element { name: String, index: u64, reason: String },
    #[error("cannot spool the arguments to a temporary file")]
    Spool(#[source] io::Error),
}

/// Turns one element into the bytes that the function is given, or says what is wrong with it.
pub type Encode<'a> = dyn FnMut(&str, &mut Vec<u8>) -> Result<(), String> + 'a;

impl Arguments {
    /// Reads all arguments, giving each to `encode`. `count_seen` is told now and then how many there are so far.
    ///
    /// # Errors
    ///
    /// The source cannot be read, is not JSON, not an array, or `encode` refuses an element: then its number and reason.
    pub fn read(source: &ArgSource, encode: &mut Encode<'_>) -> Result<Self, ArgsError> {
        let name = source.name();
        if let ArgSource::Range { start, end } = *source {
            // Checked by its ends: whatever the function takes, an integer between two good ones is good as well.
            for (index, value) in [(0, start), (start.abs_diff(end).saturating_sub(1), end.saturating_sub(1))] {
                if start < end {
                    encode(&value.to_string(), &mut Vec::new()).map_err(|reason| ArgsError::Element {
                        name: name.clone(),
                        index,
                        reason,
                    })?;
                }
            }
            return Ok(Self { table: Table::Range { start, end } });
        }
        let read = |source| ArgsError::Read { name: name.clone(), source };
        let (input, ndjson): (Box<dyn Read>, _) = match source {
            ArgSource::Range { .. } => unreachable!("handled above"),
            ArgSource::Stdin { ndjson } => (Box::new(io::stdin()), *ndjson),
            ArgSource::File { path, ndjson } => (Box::new(File::open(path).map_err(read)?), *ndjson),
            ArgSource::Literal(text) => (Box::new(io::Cursor::new(text.clone())), false),
        };
        let mut input = BufReader::with_capacity(1 << 20, input);
        let first = first_byte(&mut input).map_err(read)?;
        let mut sink = Sink::new(&name, encode);
        match first {
            Some(b'[') if !ndjson => sink.read_array(input)?,
            Some(_) if ndjson || matches!(source, ArgSource::Stdin { .. }) => sink.read_lines(input)?,
            None if ndjson => {}
            first => {
                // Tells bad JSON from good JSON that is no array.
                if first.is_some() {
                    serde_json::Deserializer::from_reader(input)
                        .into_iter::<serde::de::IgnoredAny>()
                        .next()
                        .transpose()
                        .map_err(|source| sink.json_error(source))?;
                }
                return Err(ArgsError::NotAnArray { name, found: kind_of(first) });
            }
        }
        Ok(Self { table: sink.finish()? })
    }

    /// Arguments that are at hand: already encoded, one item a task.
    pub fn from_columns(columns: Columns) -> Self {
        Self { table: Table::Inline(columns) }
    }

    /// Values that are at hand, each given to `encode` as JSON.
    ///
    /// # Errors
    ///
    /// A value is not JSON (a map whose keys are no strings, say), or `encode` refuses it.
    pub fn from_values<T: Serialize>(
        values: impl IntoIterator<Item = T>,
        encode: &mut Encode<'_>,
    ) -> Result<Self, ArgsError> {
        let mut sink = Sink::new("the arguments", encode);
        for value in values {
            let text = serde_json::to_string(&value).map_err(|source| sink.json_error(source))?;
            sink.push(&text)?;
        }
        Ok(Self { table: sink.finish()? })
    }

    /// The results of an earlier job. They are not here and need not exist yet.
    pub fn from_results(results: ResultArgs) -> Self {
        Self { table: Table::Results(results) }
    }

    /// How many tasks they make.
    pub fn count(&self) -> u64 {
        self.job_args().count()
    }

    /// What stands in the job, and the payload that goes with it.
    pub fn job_args(&self) -> Args {
        match &self.table {
            Table::Range { start, end } => Args::Range { start: *start, end: *end },
            Table::Inline(columns) => Args::Inline { count: columns.len() as u64 },
            Table::Spooled { chunks, .. } => Args::Chunks(chunks.clone()),
            Table::Results(results) => Args::Results(*results),
        }
    }

    /// The payload of the submit message.
    pub fn inline_payload(&self) -> Bytes {
        match &self.table {
            Table::Inline(columns) => columns.encode(),
            Table::Range { .. } | Table::Spooled { .. } | Table::Results(_) => Bytes::new(),
        }
    }

    /// The bytes of a chunk of this table, if `digest` names one.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be read.
    pub fn chunk(&self, digest: &Digest) -> io::Result<Option<Bytes>> {
        let Table::Spooled { file, chunks } = &self.table else {
            return Ok(None);
        };
        let mut offset = 0;
        for chunk in chunks {
            if chunk.digest == *digest {
                let mut bytes = vec![0; chunk.size as usize];
                let mut file = file;
                file.seek(SeekFrom::Start(offset))?;
                file.read_exact(&mut bytes)?;
                return Ok(Some(bytes.into()));
            }
            offset += chunk.size;
        }
        Ok(None)
    }

    /// Gives every argument in order; for running without a farm.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be read.
    pub fn columns(&self) -> ArgColumns<'_> {
        ArgColumns { arguments: self, next: 0 }
    }
}

/// Consecutive parts of a table. A range has none, as its arguments are numbers, nor have results of another job.
#[derive(Debug)]
pub struct ArgColumns<'a> {
    arguments: &'a Arguments,
    next: usize,
}

impl Iterator for ArgColumns<'_> {
    type Item = io::Result<Columns>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next += 1;
        match &self.arguments.table {
            Table::Inline(columns) if self.next == 1 => Some(Ok(columns.clone())),
            Table::Range { .. } | Table::Inline(_) | Table::Results(_) => None,
            Table::Spooled { chunks, .. } => {
                let chunk = chunks.get(self.next - 1)?;
                let read = || {
                    let bytes = self.arguments.chunk(&chunk.digest)?.ok_or(io::ErrorKind::NotFound)?;
                    Columns::decode(chunk.count.into(), bytes).map_err(io::Error::other)
                };
                Some(read())
            }
        }
    }
}

/// Collects encoded arguments.
struct Sink<'a, 'e> {
    name: &'a str,
    encode: &'a mut Encode<'e>,
    builder: ColumnsBuilder,
    spool: Option<File>,
    chunks: Vec<ArgChunk>,
    count: u64,
    /// Set where serde's error type cannot carry it.
    error: Option<ArgsError>,
}

impl<'a, 'e> Sink<'a, 'e> {
    fn new(name: &'a str, encode: &'a mut Encode<'e>) -> Self {
        Self { name, encode, builder: ColumnsBuilder::new(), spool: None, chunks: Vec::new(), count: 0, error: None }
    }

    fn json_error(&self, source: serde_json::Error) -> ArgsError {
        let name = self.name.to_owned();
        if source.is_io() {
            return ArgsError::Read { name, source: source.into() };
        }
        ArgsError::NotJson { name, source }
    }

    fn read_array(&mut self, input: impl Read) -> Result<(), ArgsError> {
        let mut json = serde_json::Deserializer::from_reader(input);
        let read = json.deserialize_seq(Elements(self));
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        read.map_err(|source| self.json_error(source))?;
        json.end().map_err(|source| {
            if source.is_syntax() {
                ArgsError::Trailing { name: self.name.to_owned(), line: source.line() }
            } else {
                self.json_error(source)
            }
        })
    }

    fn read_lines(&mut self, input: impl Read) -> Result<(), ArgsError> {
        for element in serde_json::Deserializer::from_reader(input).into_iter::<Box<RawValue>>() {
            let element = element.map_err(|source| self.json_error(source))?;
            self.push(element.get())?;
        }
        Ok(())
    }

    fn push(&mut self, element: &str) -> Result<(), ArgsError> {
        let index = self.count;
        (self.encode)(element, self.builder.item()).map_err(|reason| ArgsError::Element {
            name: self.name.to_owned(),
            index,
            reason,
        })?;
        self.builder.end_item();
        self.count += 1;
        if self.builder.bytes_len() >= CHUNK_BYTES || self.builder.len() >= CHUNK_COUNT {
            self.spool_chunk()?;
        }
        Ok(())
    }

    fn spool_chunk(&mut self) -> Result<(), ArgsError> {
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => self.spool.insert(tempfile::tempfile().map_err(ArgsError::Spool)?),
        };
        let columns = self.builder.finish();
        let bytes = columns.encode();
        spool.write_all(&bytes).map_err(ArgsError::Spool)?;
        self.chunks.push(ArgChunk {
            digest: Digest::of(&bytes),
            // At most `CHUNK_COUNT`.
            count: columns.len() as u32,
            size: bytes.len() as u64,
        });
        Ok(())
    }

    fn finish(mut self) -> Result<Table, ArgsError> {
        if self.chunks.is_empty() && self.builder.bytes_len() + 4 * self.builder.len() <= INLINE_MAX {
            return Ok(Table::Inline(self.builder.finish()));
        }
        if !self.builder.is_empty() {
            self.spool_chunk()?;
        }
        match self.spool {
            Some(file) => Ok(Table::Spooled { file, chunks: self.chunks }),
            None => Ok(Table::Inline(Columns::default())),
        }
    }
}

/// Hands the elements of an array to a sink one by one, so that the array is never in memory as a whole.
struct Elements<'s, 'a, 'e>(&'s mut Sink<'a, 'e>);

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(taken) = sequence.next_element_seed(Element(&mut *self.0))? {
            if let Err(error) = taken {
                self.0.error = Some(error);
                return Err(serde::de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

struct Element<'s, 'a, 'e>(&'s mut Sink<'a, 'e>);

impl<'de> DeserializeSeed<'de> for Element<'_, '_, '_> {
    type Value = Result<(), ArgsError>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        let element: Box<RawValue> = serde::Deserialize::deserialize(deserializer)?;
        Ok(self.0.push(element.get()))
    }
}

/// The first byte that is no white space, which stays unread; what stands in front of it is gone.
fn first_byte(input: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => {
                let byte = buffer[at];
                input.consume(at);
                return Ok(Some(byte));
            }
            None => {
                let all = buffer.len();
                input.consume(all);
            }
        }
    }
}

fn kind_of(first: Option<u8>) -> &'static str {
    match first {
        None => "nothing",
        Some(b'{') => "an object",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Arguments, ArgsError> {
        read_from(&ArgSource::parse(text, false))
    }

    fn read_from(source: &ArgSource) -> Result<Arguments, ArgsError> {
        Arguments::read(source, &mut |element, out| {
            if element.contains("bad") {
                return Err("no".to_owned());
            }
            out.extend_from_slice(element.as_bytes());
            Ok(())
        })
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, ArgSource) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a small file");
        let source = ArgSource::parse(path.to_str().expect("a plain path"), false);
        (folder, source)
    }

    fn items(arguments: &Arguments) -> Vec<String> {
        let columns = arguments.columns().map(|columns| columns.expect("readable"));
        columns.flat_map(|columns| columns.iter().map(text).collect::<Vec<_>>()).collect()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn an_array_on_the_command_line_is_taken_apart() {
        let arguments = read(r#" [1, [2, 3], {"a": "]"}] "#).expect("good");
        assert_eq!(items(&arguments), ["1", "[2, 3]", r#"{"a": "]"}"#]);
        assert_eq!(read("[]").expect("good").count(), 0);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let message = |text: &str| read(text).expect_err("bad").to_string();
        assert_eq!(message(r#"[1, "bad"]"#), "--args: element 1: no");
        assert_eq!(message(r#"{"a": 1}"#), "--args holds an object, not a JSON array");
        assert_eq!(message("[1] [2]"), "--args goes on after the end of its array, in line 1");
        assert!(message("[1, 2").contains("--args is not JSON: EOF"), "{}", message("[1, 2"));
        assert!(message("[1, nul]").contains("is not JSON"), "{}", message("[1, nul]"));
        assert!(message("no/such/file").contains("cannot read no/such/file"));
        let (_folder, source) = file("args.json", "7");
        let error = read_from(&source).expect_err("no array").to_string();
        assert!(error.ends_with("args.json holds a number, not a JSON array"), "{error}");
        let (_folder, source) = file("args.json", "hello");
        let error = read_from(&source).expect_err("no JSON").to_string();
        assert!(error.contains("args.json is not JSON"), "{error}");
        let (_folder, source) = file("args.json", "");
        let error = read_from(&source).expect_err("empty").to_string();
        assert!(error.ends_with("holds nothing, not a JSON array"), "{error}");
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        let (_folder, source) = file("args.ndjson", "1\n[2]\n\n{\"a\":3}\n");
        assert_eq!(items(&read_from(&source).expect("good")), ["1", "[2]", "{\"a\":3}"]);
    }

    #[test]
    fn large_tables_are_spooled_in_chunks_and_come_back() {
        let numbers: Vec<String> = (0..200_000).map(|number| number.to_string()).collect();
        let (_folder, source) = file("args.json", &format!("[{}]", numbers.join(",")));
        let arguments = read_from(&source).expect("good");
        assert!(matches!(&arguments.table, Table::Spooled { chunks, .. } if chunks.len() > 3));
        assert_eq!(arguments.count(), 200_000);
        assert_eq!(items(&arguments), numbers);
    }

    #[test]
    fn values_become_arguments_or_are_refused_by_number() {
        let mut encode = |element: &str, out: &mut Vec<u8>| {
            out.extend_from_slice(element.as_bytes());
            if element == "3" { Err("three".to_owned()) } else { Ok(()) }
        };
        let arguments = Arguments::from_values([(1, "a"), (2, "b")], &mut encode).expect("good");
        assert_eq!(items(&arguments), [r#"[1,"a"]"#, r#"[2,"b"]"#]);
        let error = Arguments::from_values(1..5, &mut encode).expect_err("three is refused").to_string();
        assert_eq!(error, "the arguments: element 2: three");
    }

    #[test]
    fn a_range_is_never_materialised() {
        let range: IntRange = "-5..1_000_000_000".parse().expect("a range");
        let arguments = read_from(&ArgSource::Range { start: range.start, end: range.end }).expect("good");
        assert_eq!(arguments.count(), 1_000_000_005);
        assert!("5..1".parse::<IntRange>().is_err());
        assert!("5".parse::<IntRange>().is_err());
    }
}
