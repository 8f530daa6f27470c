//! Any bytes for a frame.

use std::fmt::Debug;

use bytes::Bytes;
use farm_proto::columns::Columns;
use farm_proto::frame::{HEADER_LEN, Header, MAX_MESSAGE, MAX_PAYLOAD, decode, encode};
use farm_proto::job::JobSpec;
use farm_proto::message::{
    Batch, Enrol, Enrolled, Open, Request, Response, SchedulerControl, SchedulerWork, WorkerControl, WorkerWork,
};
use farm_proto::why::Cause;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads bytes as a frame on one of the streams. The first byte says on which one; then come header, message and
/// payload, of which there may be less than the header says.
///
/// What is taken for a message or for columns has to be the same when it is sent on, and all that can be asked of it has
/// to be answered.
pub fn frames(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let Some((header, rest)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(header) = Header::decode(*header) else { return };
    assert!(header.message <= MAX_MESSAGE && header.payload <= MAX_PAYLOAD, "{header:?}");
    let (message, payload) = rest.split_at(rest.len().min(header.message as usize));
    match kind % 8 {
        0 => {
            if let Some(open) = message_of::<Open>(message) {
                ask_open(&open, payload);
            }
        }
        1 => {
            if let Some(response) = message_of::<Response>(message) {
                ask_response(&response, payload);
            }
        }
        2 => drop(message_of::<WorkerControl>(message)),
        3 => drop(message_of::<SchedulerControl>(message)),
        4 => {
            if let Some(WorkerWork::Results { batch, .. }) = message_of::<WorkerWork>(message) {
                ask_batch(&batch, payload);
            }
        }
        5 => match message_of::<SchedulerWork>(message) {
            Some(SchedulerWork::Job { spec, .. }) => ask_spec(&spec, payload),
            Some(SchedulerWork::Lease(lease)) => columns(lease.count.into(), payload),
            Some(SchedulerWork::Secrets { .. }) => drop(decode::<farm_proto::secret::Secrets>(payload)),
            Some(SchedulerWork::Restored { .. }) | None => {}
        },
        6 => drop(message_of::<Enrol>(message)),
        _ => drop(message_of::<Enrolled>(message)),
    }
}

/// The message, if it is one.
fn message_of<M: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let read: M = decode(bytes).ok()?;
    let frame = encode(&read, 7).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    let Some((header, message)) = frame.split_first_chunk::<HEADER_LEN>() else { panic!("a frame of {frame:?}") };
    let header = Header::decode(*header).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    assert_eq!((header.message as usize, header.payload), (message.len(), 7));
    let again: M = decode(message).unwrap_or_else(|error| panic!("{error}: {read:?}"));
    assert_eq!(again, read);
    Some(read)
}

fn ask_open(open: &Open, payload: &[u8]) {
    if let Open::Request(Request::Submit { spec, .. }) = open {
        ask_spec(spec, payload);
    }
}

fn ask_spec(spec: &JobSpec, payload: &[u8]) {
    let count = spec.args.count();
    assert_eq!(spec.for_worker().args.count(), count, "the worker's number of tasks");
    columns(count, payload);
}

fn ask_response(response: &Response, payload: &[u8]) {
    match response {
        Response::Results { batch, .. } => ask_batch(batch, payload),
        Response::Status(status) => drop(status.counts.total()),
        Response::Farm(farm) => drop(farm.counts.total()),
        Response::Error(error) => drop(error.to_string()),
        Response::Why(why) => {
            for group in &why.groups {
                if let Cause::Ended { account: Some(account), .. } = &group.cause {
                    account.whole_ns();
                }
            }
        }
        _ => {}
    }
}

fn ask_batch(batch: &Batch, payload: &[u8]) {
    batch.failures.iter().for_each(|(_, failure)| drop(failure.to_string()));
    columns(batch.count.into(), payload);
}

/// Reads so many items, and cuts them up.
fn columns(count: u64, payload: &[u8]) {
    let Ok(columns) = Columns::decode(count, Bytes::copy_from_slice(payload)) else { return };
    assert_eq!(columns.encode(), payload);
    assert_eq!((columns.len() as u64, columns.encoded_len()), (count, payload.len()));
    assert_eq!(columns.iter().map(<[u8]>::len).sum::<usize>(), columns.bytes().len());
    let middle = columns.len() / 2;
    let (front, back) = (columns.slice(0, middle), columns.slice(middle, columns.len()));
    assert!(front.iter().chain(back.iter()).eq(columns.iter()));
    for part in [front, back] {
        let read = Columns::decode(part.len() as u64, part.encode());
        assert_eq!(read.as_ref(), Ok(&part));
    }
}
