//! The two streams of a worker: control and work, each read and written by a task of its own.

use bytes::Bytes;
use farm_link::LinkError;
use farm_link::stream::{FrameReader, FrameWriter};
use farm_proto::message::{SchedulerControl, SchedulerWork, WorkerControl, WorkerWork};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Frames from the scheduler that wait for the agent.
const UNREAD: usize = 8;
/// Work frames that wait for the link. More are not taken out of the slots; each is a megabyte or one large result.
const UNSENT: usize = 4;
/// Payload that is handed to the transport at once, unless a single frame is larger.
const AT_ONCE: usize = 1 << 20;

/// What the agent's loop reads and writes.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) control: mpsc::Receiver<Result<SchedulerControl, LinkError>>,
    pub(super) work: mpsc::Receiver<Result<(SchedulerWork, Bytes), LinkError>>,
    /// Unbounded, because slots say something worth telling ten times a second at most.
    pub(super) to_control: mpsc::UnboundedSender<WorkerControl>,
    pub(super) to_work: mpsc::Sender<(WorkerWork, Bytes)>,
    tasks: JoinSet<()>,
}

/// The two ends of a stream.
pub(super) type Ends = (FrameWriter, FrameReader);

impl Streams {
    /// Starts reading and writing.
    pub(super) fn start(control: Ends, work: Ends) -> Self {
        let mut tasks = JoinSet::new();
        let (control_read, control_in) = mpsc::channel(UNREAD);
        let (work_read, work_in) = mpsc::channel(UNREAD);
        let (to_control, mut control_out) = mpsc::unbounded_channel();
        let (to_work, work_out) = mpsc::channel(UNSENT);
        tasks.spawn(read(control.1, control_read, |message, _| message));
        tasks.spawn(read(work.1, work_read, |message, payload| (message, payload)));
        let mut control_writer = control.0;
        tasks.spawn(async move {
            while let Some(message) = control_out.recv().await {
                if let Err(error) = control_writer.send(&message, Bytes::new()).await {
                    tracing::debug!(%error, "the control stream cannot be written any more");
                    return;
                }
            }
            finish(control_writer).await;
        });
        tasks.spawn(write_work(work.0, work_out));
        Self { control: control_in, work: work_in, to_control, to_work, tasks }
    }

    /// Writes what is queued, and waits until the scheduler has it.
    pub(super) async fn finish(self) {
        let Self { to_control, to_work, control, work, mut tasks } = self;
        drop((to_control, to_work));
        // The two writers; the readers go on until the connection is closed.
        for _ in 0..2 {
            tasks.join_next().await;
        }
        drop((control, work));
    }
}

/// Reads until the stream's end, which is an error: schedulers close connections, not streams.
async fn read<M: DeserializeOwned, T>(
    mut reader: FrameReader,
    sink: mpsc::Sender<Result<T, LinkError>>,
    pair: impl Fn(M, Bytes) -> T,
) {
    loop {
        let result = reader.expect().await.map(|(message, payload)| pair(message, payload));
        let is_end = result.is_err();
        if sink.send(result).await.is_err() || is_end {
            // Stays, so that who waits for the writers counts nothing but them.
            return std::future::pending().await;
        }
    }
}

/// Writes everything that is there whenever the transport takes more: no lingering, and no small writes under load.
async fn write_work(mut writer: FrameWriter, mut queue: mpsc::Receiver<(WorkerWork, Bytes)>) {
    let result = async {
        while let Some((message, payload)) = queue.recv().await {
            let mut queued = queue_frame(&mut writer, &message, payload)?;
            while queued < AT_ONCE
                && let Ok((message, payload)) = queue.try_recv()
            {
                queued += queue_frame(&mut writer, &message, payload)?;
            }
            writer.flush().await?;
        }
        Ok::<_, LinkError>(())
    };
    match result.await {
        Ok(()) => finish(writer).await,
        // The readers learn the reason from the connection, and tell.
        Err(error) => tracing::debug!(%error, "the work stream cannot be written any more"),
    }
}

fn queue_frame(writer: &mut FrameWriter, message: &impl Serialize, payload: Bytes) -> Result<usize, LinkError> {
    let len = payload.len();
    writer.queue(message, payload)?;
    Ok(len)
}

async fn finish(mut writer: FrameWriter) {
    writer.finish();
    if let Err(error) = writer.delivered().await {
        tracing::debug!(%error, "the scheduler may not have everything");
    }
}
