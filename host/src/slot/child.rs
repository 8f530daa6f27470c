//! One life of a slot process, seen from the agent: how it is started, fed, and listened to.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use farm_proto::columns::Columns;
use farm_proto::frame::{self, FrameError};
use farm_proto::ids::JobId;
use farm_proto::message::{Batch, MAX_CHECKPOINT};
use farm_proto::outcome::Failure;
use tokio::io::{AsyncReadExt, Interest, Ready};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr};
use tokio::time::Instant;

use super::batch::BatchBuilder;
use super::command::{Command, Details, JobSetup, Recent};
use super::outputs::{KeptFolder, KeptFolders, Over, folder_of};
use super::ring::{Corrupt, Kind, Reader};
use super::shared::{Shared, Word};
use super::span;

/// How slot processes are started.
#[derive(Debug, Clone)]
pub struct SlotCommand {
    /// A program that calls [`super::main`] if it is given `args`.
    pub exe: PathBuf,
    pub args: Vec<OsString>,
}

impl SlotCommand {
    /// `farm slot`, with the program that is running.
    ///
    /// # Errors
    ///
    /// The system cannot say which program is running.
    pub fn this_program() -> io::Result<Self> {
        Ok(Self { exe: std::env::current_exe()?, args: vec!["slot".into()] })
    }
}

/// Consecutive tasks for a slot.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Name of the chunk in events; the giver's choice.
    pub(crate) tag: u64,
    pub(crate) setup: Arc<JobSetup>,
    pub(crate) first: u64,
    /// At most [`span::MAX_CHUNK`].
    pub(crate) count: u32,
    pub(crate) attempts: Vec<(u32, u32)>,
    /// As many as there are tasks, unless the job's arguments are a range.
    pub(crate) arguments: Columns,
    /// What earlier attempts have kept, by offset from `first`.
    pub(crate) restored: Vec<(u32, Bytes)>,
}

/// A chunk that the process has been given.
#[derive(Debug)]
pub(super) struct Given {
    /// Number of the chunk in the process's life.
    number: u64,
    pub(super) chunk: Chunk,
    /// Outcomes that have arrived. `chunk.count` is lowered when tasks are taken back.
    pub(super) received: u32,
}

impl Given {
    /// The task whose outcome is to come next.
    pub(super) fn expected(&self) -> u64 {
        self.chunk.first + u64::from(self.received)
    }

    pub(super) fn job(&self) -> JobId {
        self.chunk.setup.job
    }
}

/// What [`Process::happen`] has waited for.
#[derive(Debug)]
pub(super) enum Happened {
    /// Whether it asks to be listened to.
    Rang(bool),
    Ended(Option<ExitStatus>),
}

/// What a slot process has said.
#[derive(Debug)]
pub(super) enum Said {
    Outcomes {
        tag: u64,
        batch: Batch,
        results: Columns,
        kept: KeptFolders,
    },
    /// Everything of the chunk has been answered, except for `unstarted` tasks at its end.
    Ended {
        tag: u64,
        unstarted: Option<(u64, u32)>,
    },
    OpenFailed {
        job: JobId,
        failure: Failure,
    },
    Progress {
        job: JobId,
        task: u64,
        done: u64,
        total: u64,
    },
    Checkpoint {
        tag: u64,
        task: u64,
        state: Bytes,
    },
    /// The task has given itself back, after a checkpoint.
    Suspended {
        tag: u64,
        task: u64,
    },
}

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    socket: UnixStream,
    shared: Arc<Shared>,
    reader: Reader,
    builder: BatchBuilder,
    /// As much of a checkpoint as has come.
    state: Vec<u8>,
    /// Mirrors what the process has open.
    open: Recent<()>,
    /// Jobs whose sandbox cannot be opened.
    refused: Vec<JobId>,
    unsent: VecDeque<Bytes>,
    given: VecDeque<Given>,
    next_number: u64,
    is_cut_off: bool,
    /// Where its tasks write, if one has.
    out: Option<PathBuf>,
    pub(super) born: Instant,
}

impl Process {
    /// Starts a process. Its stderr goes to the log, under the number of the slot.
    pub(super) fn start(command: &SlotCommand, slot: usize) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (shared, memory) = Shared::create()?;
        let shared = Arc::new(shared);
        let mut child = tokio::process::Command::new(&command.exe)
            .args(&command.args)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(memory))
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the agent, which then ends its slots.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(log(stderr, slot));
        }
        Ok(Self {
            child,
            socket: UnixStream::from_std(ours)?,
            reader: Reader::new(Arc::clone(&shared)),
            shared,
            builder: BatchBuilder::default(),
            state: Vec::new(),
            open: Recent::new(),
            refused: Vec::new(),
            unsent: VecDeque::new(),
            given: VecDeque::new(),
            next_number: 0,
            is_cut_off: false,
            out: None,
            born: Instant::now(),
        })
    }

    /// Its process id, as long as it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The chunk that it is at, as far as is known.
    pub(super) fn current(&self) -> Option<&Given> {
        self.given.front()
    }

    /// Whether it had begun with the task that it was to answer next, or was opening that one's job: then it may have
    /// died of it.
    pub(super) fn has_begun(&self) -> bool {
        let Some(given) = self.given.iter().find(|given| given.received < given.chunk.count) else {
            return false;
        };
        let opening = self.shared.word(Word::Opening).load(Ordering::Acquire);
        opening != 0 || span::started(&self.shared, given.number) > given.received
    }

    /// What there was too much of in `/out`, if it has ended itself because of that.
    pub(super) fn over(&self) -> Option<Over> {
        Over::told(&self.shared)
    }

    /// Removes what its last task has written, once it is dead.
    pub(super) fn clear_out(&mut self) {
        if let Some(out) = self.out.take() {
            // It may be much, and nobody waits for it.
            tokio::task::spawn_blocking(move || drop(std::fs::remove_dir_all(out)));
        }
    }

    /// Everything that it was given and has not answered, for whoever buries it.
    pub(super) fn into_given(self) -> VecDeque<Given> {
        self.given
    }

    pub(super) fn given(&self) -> impl Iterator<Item = &Given> {
        self.given.iter()
    }

    /// When the running task began, as the process says; `None` while none runs.
    pub(super) fn task_started_ns(&self) -> Option<u64> {
        let started = self.shared.word(Word::Started).load(Ordering::Acquire);
        (started != 0).then_some(started)
    }

    /// Gives it a chunk; there may be one more at a time than it is at.
    ///
    /// # Errors
    ///
    /// The job or the chunk are too large to be told.
    pub(super) fn give(&mut self, chunk: Chunk) -> Result<(), FrameError> {
        debug_assert!(self.given.len() < 2, "two chunks share one span");
        let job = chunk.setup.job;
        if let (Some(outputs), Some(pid)) = (&chunk.setup.outputs, self.child.id()) {
            self.out = Some(folder_of(outputs, pid));
        }
        if self.open.touch(job).is_none() {
            let open = Command::Open(Box::new(JobSetup::clone(&chunk.setup)));
            self.unsent.push_back(frame::encode(&open, 0)?);
            self.open.insert(job, ());
        }
        for (offset, state) in &chunk.restored {
            let restore = Command::Restore { task: chunk.first + u64::from(*offset) };
            self.unsent.push_back(frame::encode(&restore, state.len())?);
            if !state.is_empty() {
                self.unsent.push_back(state.clone());
            }
        }
        let number = self.next_number;
        let run = Command::Run {
            chunk: number,
            job,
            first: chunk.first,
            count: chunk.count,
            attempts: chunk.attempts.clone(),
        };
        let payload = chunk.arguments.encode();
        self.unsent.push_back(frame::encode(&run, payload.len())?);
        if !payload.is_empty() {
            self.unsent.push_back(payload);
        }
        self.next_number += 1;
        span::set(&self.shared, number, chunk.count);
        self.given.push_back(Given { number, chunk, received: 0 });
        Ok(())
    }

    /// Takes back what is not started of a chunk: first task and count.
    pub(super) fn take_back(&mut self, tag: u64) -> Result<Option<(u64, u32)>, Corrupt> {
        let Some(given) = self.given.iter_mut().find(|given| given.chunk.tag == tag) else {
            return Ok(None);
        };
        let chunk = &mut given.chunk;
        let end = span::take_back(&self.shared, given.number, chunk.count)
            .ok_or(Corrupt("a span that it cannot have come to"))?;
        let taken = chunk.count - end;
        chunk.count = end;
        Ok((taken > 0).then_some((chunk.first + u64::from(end), taken)))
    }

    /// Closes a job's sandbox.
    pub(super) fn forget(&mut self, job: JobId) {
        self.refused.retain(|other| *other != job);
        if self.open.touch(job).is_some() {
            self.open.remove(job);
            match frame::encode(&Command::Forget(job), 0) {
                Ok(frame) => self.unsent.push_back(frame),
                Err(error) => tracing::error!(%error, "a slot keeps a job's sandbox open"),
            }
        }
    }

    /// Lets its tasks know that the worker is about to go.
    pub(super) fn leave(&self) {
        self.shared.word(Word::Leaving).store(1, Ordering::Relaxed);
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) {
        // It fails only if there is nothing to wait for.
        let _ = self.child.wait().await;
    }

    /// Kills it; [`Self::happen`] tells when it is dead.
    pub(super) fn kill(&mut self) {
        // Fails only if it is dead already.
        let _ = self.child.start_kill();
    }

    /// Waits until it has something to say, takes more of what it is told, or is dead. Cancel-safe.
    pub(super) async fn happen(&mut self) -> Happened {
        if self.is_cut_off {
            return Happened::Ended(self.child.wait().await.ok());
        }
        let interest =
            if self.unsent.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = tokio::select! {
            biased;
            status = self.child.wait() => return Happened::Ended(status.ok()),
            ready = self.socket.ready(interest) => ready,
        };
        match ready.and_then(|ready| self.exchange(ready)) {
            Ok(rang) => Happened::Rang(rang),
            Err(error) => {
                tracing::debug!(%error, pid = self.pid(), "a slot process has closed its socket");
                self.cut_off();
                Happened::Rang(false)
            }
        }
    }

    fn exchange(&mut self, ready: Ready) -> io::Result<bool> {
        if ready.is_writable() {
            self.send()?;
        }
        if !ready.is_readable() {
            return Ok(false);
        }
        let mut bells = [0; 256];
        match self.socket.try_read(&mut bells) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// It cannot be talked to any more: most likely it is dead, and it is made sure that it is.
    pub(super) fn cut_off(&mut self) {
        self.is_cut_off = true;
        self.kill();
    }

    /// Tells it as much as it takes without waiting.
    ///
    /// # Errors
    ///
    /// It has closed its end, which no slot does as long as it lives.
    pub(super) fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let parts: Vec<_> = self.unsent.iter().take(16).map(|part| IoSlice::new(part)).collect();
            let mut sent = match self.socket.try_write_vectored(&parts) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            while let Some(front) = self.unsent.front_mut() {
                let step = sent.min(front.len());
                front.advance(step);
                sent -= step;
                if !front.is_empty() {
                    break;
                }
                self.unsent.pop_front();
            }
        }
        Ok(())
    }

    /// Takes everything out of the ring that is there.
    ///
    /// # Errors
    ///
    /// It is not what an honest slot says. Everything before that has been added to `said` and is good.
    pub(super) fn listen(&mut self, said: &mut VecDeque<Said>) -> Result<(), Corrupt> {
        let result = self.take_records(said);
        self.reader.release();
        if let Some(given) = self.given.front()
            && (!self.reader.is_within_record() || result.is_err())
        {
            flush(&mut self.builder, given, said);
        }
        result
    }

    fn take_records(&mut self, said: &mut VecDeque<Said>) -> Result<(), Corrupt> {
        self.reader.look()?;
        while let Some(header) = self.reader.header()? {
            match header.kind {
                Kind::Outcome => {
                    let given = self.given.front_mut().ok_or(Corrupt("an outcome of no chunk"))?;
                    if header.a != given.expected() || given.received >= given.chunk.count {
                        return Err(Corrupt("an outcome of another task than was due"));
                    }
                    let size = header.details as usize;
                    if self.builder.is_full_for(header.result as usize, size) {
                        flush(&mut self.builder, given, said);
                    }
                    let Some(details) = self.reader.body(self.builder.result()) else {
                        break;
                    };
                    let details = if size == 0 {
                        None
                    } else {
                        let details: Details =
                            postcard::from_bytes(details).map_err(|_| Corrupt("details that cannot be read"))?;
                        Some((details, size))
                    };
                    let name = details.as_ref().and_then(|(details, _)| details.kept.as_deref());
                    let setup = given.chunk.setup.outputs.as_ref();
                    let kept = setup.zip(name).and_then(|(setup, name)| KeptFolder::named(setup, name));
                    self.builder.end(header.a, header.b, details, kept);
                    given.received += 1;
                }
                Kind::ChunkEnd => {
                    if self.reader.body(&mut Vec::new()).is_none() {
                        break;
                    }
                    self.chunk_ended(header.a, said)?;
                }
                Kind::OpenFailed => {
                    let Some(details) = self.reader.body(&mut Vec::new()) else {
                        break;
                    };
                    let failure =
                        postcard::from_bytes(details).map_err(|_| Corrupt("a failure that cannot be read"))?;
                    let job = JobId(header.a);
                    self.refused.push(job);
                    said.push_back(Said::OpenFailed { job, failure });
                }
                Kind::Progress => {
                    let mut total = Vec::new();
                    if header.result != 8 {
                        return Err(Corrupt("progress of the wrong size"));
                    }
                    if self.reader.body(&mut total).is_none() {
                        // Eight bytes are never written in pieces.
                        return Err(Corrupt("half a progress"));
                    }
                    let total = total.try_into().map_or(0, u64::from_le_bytes);
                    let given = self.given.front().ok_or(Corrupt("progress of no chunk"))?;
                    if header.a != given.expected() {
                        return Err(Corrupt("progress of another task than runs"));
                    }
                    said.push_back(Said::Progress { job: given.job(), task: header.a, done: header.b, total });
                }
                Kind::Checkpoint => {
                    let given = running(&self.given, header.a)?;
                    if header.result > MAX_CHECKPOINT as u64 {
                        return Err(Corrupt("a checkpoint that is too large"));
                    }
                    if self.reader.body(&mut self.state).is_none() {
                        break;
                    }
                    let (tag, task) = (given.chunk.tag, header.a);
                    let state = Bytes::from(std::mem::take(&mut self.state));
                    match said.back_mut() {
                        // Only the last one counts.
                        Some(Said::Checkpoint { task: same, state: last, .. }) if *same == task => *last = state,
                        _ => said.push_back(Said::Checkpoint { tag, task, state }),
                    }
                }
                Kind::Suspended => {
                    running(&self.given, header.a)?;
                    if self.reader.body(&mut Vec::new()).is_none() {
                        break;
                    }
                    if let Some(given) = self.given.front_mut() {
                        flush(&mut self.builder, given, said);
                        given.received += 1;
                        said.push_back(Said::Suspended { tag: given.chunk.tag, task: header.a });
                    }
                }
            }
        }
        Ok(())
    }

    fn chunk_ended(&mut self, number: u64, said: &mut VecDeque<Said>) -> Result<(), Corrupt> {
        let given = self.given.pop_front().ok_or(Corrupt("the end of no chunk"))?;
        if given.number != number {
            return Err(Corrupt("the end of another chunk than was due"));
        }
        flush(&mut self.builder, &given, said);
        let left = given.chunk.count - given.received;
        if left > 0 && !self.refused.contains(&given.job()) {
            self.given.push_front(given);
            return Err(Corrupt("the end of a chunk with tasks unanswered"));
        }
        said.push_back(Said::Ended { tag: given.chunk.tag, unstarted: (left > 0).then_some((given.expected(), left)) });
        Ok(())
    }

    /// The last words of a dead process: complete outcomes; half of one is none.
    pub(super) fn listen_to_the_dead(&mut self, said: &mut VecDeque<Said>) -> Result<(), Corrupt> {
        let result = self.listen(said);
        if let Some(given) = self.given.front() {
            flush(&mut self.builder, given, said);
        }
        result
    }
}

/// The chunk of the task that runs, which has to be this one.
fn running(given: &VecDeque<Given>, task: u64) -> Result<&Given, Corrupt> {
    let given = given.front().ok_or(Corrupt("a checkpoint of no chunk"))?;
    if task != given.expected() || given.received >= given.chunk.count {
        return Err(Corrupt("a checkpoint of another task than runs"));
    }
    Ok(given)
}

fn flush(builder: &mut BatchBuilder, given: &Given, said: &mut VecDeque<Said>) {
    if let Some((batch, results, kept)) = builder.finish() {
        said.push_back(Said::Outcomes { tag: given.chunk.tag, batch, results, kept });
    }
}

/// What a slot writes to stderr is for the worker's log: it is the host's own words, since guests' are captured.
async fn log(mut stderr: ChildStderr, slot: usize) {
    let mut piece = [0; 4096];
    while let Ok(len @ 1..) = stderr.read(&mut piece).await {
        let text = String::from_utf8_lossy(&piece[..len]);
        text.lines().for_each(|line| tracing::warn!(slot, "{line}"));
    }
}
