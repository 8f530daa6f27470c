//! The slot's side: a process that runs one task at a time.
//!
//! Three threads: one runs tasks, on a stack of its own size; one does nothing but wait for the agent to go away, and
//! then ends the process whatever the guest is at; the main one waits for the first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::{Bytes, BytesMut};
use farm_proto::columns::{Columns, ColumnsError};
use farm_proto::frame::{self, FrameError, HEADER_LEN};
use farm_proto::ids::JobId;
use farm_proto::job::ResultEncoding;
use farm_proto::outcome::{Captured, Failure, FailureKind};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Resource, Rlimit, Signal};

use super::carried::{Restored, SlotCarrier};
use super::command::{Command, Details, JobSetup, Recent};
use super::fold;
use super::outputs::{Guard, Outputs};
use super::ring::{Header, Kind, MAX_DETAILS, MAX_RESULT, Writer};
use super::shared::{Shared, Word, now_ns};
use super::span;
use crate::sandbox::{self, Ended, Sandbox, SandboxSpec, Task};

/// Stack of the thread that runs guests: what the sandbox wants, and this module's own frames. It is address space, not
/// memory, until it is used.
const STACK: usize = sandbox::THREAD_STACK_SIZE + (256 << 10);
/// A task's progress is passed on at most this often.
const PROGRESS_EVERY_NS: u64 = 100_000_000;
/// A result buffer that has grown larger than this is given back.
const KEEP_BUFFER: usize = 4 << 20;
/// How much is read from the socket at once.
const READ: usize = 256 << 10;

/// Why a slot ends by itself.
#[derive(Debug, thiserror::Error)]
enum SlotError {
    #[error("this command is for workers, which start it with its channels as stdin and stdout")]
    ByHand(#[source] io::Error),
    #[error("cannot talk to the worker")]
    Io(#[from] io::Error),
    #[error("a command that cannot be read")]
    Frame(#[from] FrameError),
    #[error("arguments that cannot be read")]
    Columns(#[from] ColumnsError),
}

/// The whole life of a slot process.
///
/// The agent starts it with one end of a Unix socket pair as stdin, the shared memory as stdout, and stderr for
/// anything that should be in the worker's log. It ends, at the latest, when the other end of the socket is closed.
pub fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What else could be done if stderr is gone, too?
            let _ = writeln!(io::stderr(), "farm slot: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), SlotError> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let memory = io::stdout().as_fd().try_clone_to_owned()?;
    let shared = Arc::new(Shared::open(memory).map_err(SlotError::ByHand)?);
    // Nobody is to write into the memory, or read commands, by the way of print! and the like.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).map_err(io::Error::from)?;
    rustix::stdio::dup2_stdout(&null).map_err(io::Error::from)?;
    harden();

    let socket = UnixStream::from(socket);
    let watched = socket.try_clone()?;
    let secrets = Arc::new(Mutex::new(Vec::new()));
    let to_remove = Arc::clone(&secrets);
    thread::Builder::new().name("watch".to_owned()).spawn(move || end_with_agent(&watched, &to_remove))?;
    let tasks = thread::Builder::new()
        .name("tasks".to_owned())
        .stack_size(STACK)
        .spawn(move || Slot::new(shared, socket, secrets)?.run())?;
    tasks.join().unwrap_or_else(|_| Err(io::Error::other("the thread that runs tasks panicked").into()))
}

/// Small things that make a dying slot a lesser evil. None of them is needed for safety, so none may fail the slot.
fn harden() {
    crate::signals::leave_to_agent();
    // A crash of a slot that holds gigabytes must not write them to somebody's disk.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    // If memory runs out, the kernel ends a slot rather than the agent.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

fn end_with_agent(socket: &UnixStream, secrets: &Mutex<Vec<PathBuf>>) {
    // Only a hang-up is waited for, so commands do not wake this thread.
    let mut watched = [PollFd::new(socket, PollFlags::RDHUP)];
    while rustix::event::poll(&mut watched, None).is_err() {}
    // An agent that was killed has not done so.
    for folder in secrets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = std::fs::remove_dir_all(folder);
    }
    // Not `exit`: that would wait for locks that a guest may hold.
    let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
}

/// A job that has been opened.
struct Job {
    sandbox: Sandbox,
    range_start: Option<i64>,
    /// Of a fold: how much of what it prints is kept.
    fold_output: Option<u64>,
    outputs: Option<Outputs>,
}

struct Slot {
    shared: Arc<Shared>,
    commands: Commands,
    /// Shared with what tells progress; both are in this thread, so nobody ever waits.
    writer: Arc<Mutex<Writer>>,
    /// `None` for a job that cannot be opened.
    jobs: Recent<Option<Job>>,
    argument: Vec<u8>,
    result: Vec<u8>,
    /// Folders of secrets that have been seen.
    secrets: Arc<Mutex<Vec<PathBuf>>>,
    /// From the first job on that has an `/out`.
    guard: Option<Arc<Guard>>,
    restored: Restored,
}

impl Slot {
    fn new(shared: Arc<Shared>, socket: UnixStream, secrets: Arc<Mutex<Vec<PathBuf>>>) -> io::Result<Self> {
        let bell = socket.try_clone()?;
        let ring = move || {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            // A full socket has bytes for the agent to wake up from; a closed one has no agent.
            let _ = rustix::net::send(&bell, &[1], flags);
        };
        let writer = Writer::new(Arc::clone(&shared), Box::new(ring));
        Ok(Self {
            shared,
            commands: Commands::new(socket),
            writer: Arc::new(Mutex::new(writer)),
            jobs: Recent::new(),
            argument: Vec::new(),
            result: Vec::new(),
            secrets,
            guard: None,
            restored: Restored::default(),
        })
    }

    fn run(mut self) -> Result<(), SlotError> {
        while let Some((command, payload)) = self.commands.next()? {
            match command {
                Command::Open(setup) => self.open(*setup),
                Command::Run { chunk, job, first, count, attempts } => {
                    self.run_chunk(chunk, job, first, count, &attempts, payload)?;
                    self.restored.clear();
                    let mut writer = lock(&self.writer);
                    let now = now_ns();
                    writer.write(header(Kind::ChunkEnd, chunk, 0), &[], &[], now);
                    writer.announce(now);
                }
                Command::Forget(job) => self.jobs.remove(job),
                Command::Restore { task } => self.restored.add(task, &payload),
            }
        }
        Ok(())
    }

    fn open(&mut self, setup: JobSetup) {
        let job = setup.job;
        if let Some(folder) = &setup.secrets {
            let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            secrets.retain(|folder| folder.exists());
            secrets.push(folder.clone());
        }
        let range_start = setup.range_start;
        let fold_output = setup.fold.then_some(setup.limits.output);
        // A module that kills the process right here is to be blamed for it.
        self.shared.word(Word::Opening).store(1, Ordering::Release);
        let opened = self.open_outputs(&setup).and_then(|outputs| {
            let mut sandbox = open_sandbox(setup, outputs.as_ref(), &self.writer)?;
            // In a fold, one task is many calls, and what one keeps is none of another's.
            if fold_output.is_none() {
                sandbox.set_carrier(Box::new(SlotCarrier {
                    shared: Arc::clone(&self.shared),
                    writer: Arc::clone(&self.writer),
                    restored: self.restored.clone(),
                }));
            }
            // Who cannot write to a folder need not have one.
            let outputs = outputs.filter(|_| sandbox.uses_wasi());
            Ok(Job { sandbox, range_start, fold_output, outputs })
        });
        self.shared.word(Word::Opening).store(0, Ordering::Release);
        match opened {
            Ok(opened) => self.jobs.insert(job, Some(opened)),
            Err(failure) => {
                self.jobs.insert(job, None);
                let details = postcard::to_stdvec(&fit_failure(failure)).unwrap_or_default();
                let mut header = header(Kind::OpenFailed, job.0, 0);
                header.details = details.len() as u32;
                let now = now_ns();
                lock(&self.writer).write(header, &[], &details, now);
            }
        }
    }

    fn open_outputs(&mut self, setup: &JobSetup) -> Result<Option<Outputs>, Failure> {
        let Some(outputs) = &setup.outputs else {
            return Ok(None);
        };
        let mut open = || {
            let guard = match &self.guard {
                Some(guard) => guard,
                None => self.guard.insert(Guard::start(Arc::clone(&self.shared))?),
            };
            Outputs::open(outputs.clone(), guard)
        };
        let of_host = |error| Failure::new(FailureKind::WorkerLost, format!("cannot make /out: {error}"));
        open().map(Some).map_err(of_host)
    }

    fn run_chunk(
        &mut self,
        chunk: u64,
        job: JobId,
        first: u64,
        count: u32,
        attempts: &[(u32, u32)],
        payload: Bytes,
    ) -> Result<(), SlotError> {
        let Some(Some(open)) = self.jobs.touch(job) else {
            return Ok(());
        };
        let columns = match open.range_start {
            Some(_) => Columns::default(),
            None => Columns::decode(count.into(), payload)?,
        };
        let started = self.shared.word(Word::Started);
        let mut attempts = attempts.iter().copied().peekable();
        let mut now = now_ns();
        while let Some(offset) = span::take(&self.shared, chunk) {
            started.store(now, Ordering::Release);
            let index = first + u64::from(offset);
            let argument = match open.range_start {
                Some(start) => {
                    self.argument.clear();
                    // Writing to a vector cannot fail.
                    let _ = write!(self.argument, "{}", start.wrapping_add_unsigned(index));
                    &self.argument
                }
                None => columns.get(offset as usize),
            };
            let attempt = attempts.next_if(|(at, _)| *at == offset).map_or(0, |(_, attempt)| attempt);
            self.result.clear();
            let task = Task { job, index, attempt, argument };
            let (ended, kept) = match (open.fold_output, &open.outputs) {
                (Some(output), _) => (fold::call(&mut open.sandbox, task, output, &mut self.result), None),
                (None, None) => (open.sandbox.call(task, &mut self.result), None),
                (None, Some(outputs)) => outputs.run(|result| open.sandbox.call(task, result), &mut self.result),
            };
            let done = now_ns();
            if ended.suspended {
                lock(&self.writer).write(header(Kind::Suspended, index, 0), &[], &[], done);
                now = done;
                continue;
            }
            let details = details_of(ended, kept, &mut self.result);
            let header = Header {
                kind: Kind::Outcome,
                details: details.len() as u32,
                result: self.result.len() as u64,
                a: index,
                b: done.saturating_sub(now),
            };
            lock(&self.writer).write(header, &self.result, &details, done);
            if self.result.capacity() > KEEP_BUFFER {
                self.result = Vec::new();
                // It took a while to hand over something that large.
                now = now_ns();
            } else {
                now = done;
            }
        }
        started.store(0, Ordering::Release);
        Ok(())
    }
}

fn lock(writer: &Mutex<Writer>) -> MutexGuard<'_, Writer> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

const fn header(kind: Kind, a: u64, b: u64) -> Header {
    Header { kind, details: 0, result: 0, a, b }
}

fn open_sandbox(setup: JobSetup, outputs: Option<&Outputs>, writer: &Arc<Mutex<Writer>>) -> Result<Sandbox, Failure> {
    if setup.fold && setup.result != ResultEncoding::Json {
        let message = "only a function whose results are JSON can be called over an array: its results are arguments";
        return Err(Failure::new(FailureKind::BadArguments, message));
    }
    let spec = SandboxSpec {
        kind: setup.kind,
        function: setup.function,
        limits: setup.limits,
        profile: setup.profile,
        env: setup.env,
        inputs: setup.inputs,
        outputs: outputs.map(|outputs| outputs.path().to_owned()),
        secrets: setup.secrets,
        command: setup.command,
        result: setup.result,
    };
    let mut sandbox = Sandbox::open(&setup.artefact, spec)?;
    let writer = Arc::clone(writer);
    let last = AtomicU64::new(0);
    sandbox.set_progress(Box::new(move |task, done, total| {
        let now = now_ns();
        let mut writer = lock(&writer);
        if now.saturating_sub(last.load(Ordering::Relaxed)) < PROGRESS_EVERY_NS || !writer.has_room(8) {
            return;
        }
        last.store(now, Ordering::Relaxed);
        let mut header = header(Kind::Progress, task, done);
        header.result = 8;
        writer.write(header, &total.to_le_bytes(), &[], now);
        writer.announce(now);
    }));
    Ok(sandbox)
}

/// The details of an outcome, encoded; empty for a plain value.
fn details_of(ended: Ended, kept: Option<String>, result: &mut Vec<u8>) -> Vec<u8> {
    let Ended { mut failure, captured, .. } = ended;
    if failure.is_none() && result.len() > MAX_RESULT {
        let message = format!("the result has {} bytes; {MAX_RESULT} is the most that can be sent", result.len());
        failure = Some(Failure::new(FailureKind::ResultTooLarge, message));
    }
    if failure.is_none() && captured.is_empty() && !captured.truncated {
        return Vec::new();
    }
    if failure.is_some() {
        result.clear();
    }
    let mut details = Details { failure: failure.map(fit_failure), captured, kept };
    let encoded = postcard::to_stdvec(&details).unwrap_or_default();
    if encoded.len() <= MAX_DETAILS {
        return encoded;
    }
    // Cannot happen while the sandbox keeps to the job's limits; then this is what remains.
    details.captured = Captured { truncated: true, ..Captured::default() };
    postcard::to_stdvec(&details).unwrap_or_default()
}

/// A guest decides on its messages; they are for people to read, so a page of them is enough.
fn fit_failure(mut failure: Failure) -> Failure {
    const MESSAGE: usize = 64 << 10;
    const FRAMES: usize = 256;
    if failure.message.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| failure.message.is_char_boundary(*at));
        failure.message.truncate(end.unwrap_or(0));
        failure.message.push('…');
    }
    failure.backtrace.truncate(FRAMES);
    failure
}

/// The agent's commands, as they come.
struct Commands {
    socket: UnixStream,
    buffer: BytesMut,
    piece: Vec<u8>,
}

impl Commands {
    fn new(socket: UnixStream) -> Self {
        Self { socket, buffer: BytesMut::new(), piece: vec![0; READ] }
    }

    /// Waits for the next command; `None` if there will be none.
    fn next(&mut self) -> Result<Option<(Command, Bytes)>, SlotError> {
        loop {
            if let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_LEN>() {
                let header = frame::Header::decode(*header)?;
                let (message, payload) = (header.message as usize, header.payload as usize);
                if rest.len() >= message + payload {
                    let head = self.buffer.split_to(HEADER_LEN + message);
                    let command = frame::decode(&head[HEADER_LEN..])?;
                    return Ok(Some((command, self.buffer.split_to(payload).freeze())));
                }
            }
            match self.socket.read(&mut self.piece) {
                Ok(0) => return Ok(None),
                Ok(len) => self.buffer.extend_from_slice(&self.piece[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
