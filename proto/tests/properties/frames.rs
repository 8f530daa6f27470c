//! Frames: every message comes back as it went, and nothing else is taken for one.

use std::fmt::Debug;

use bytes::Bytes;
use farm_proto::columns::{Columns, ColumnsBuilder};
use farm_proto::frame::{FrameError, HEADER_LEN, Header, MAX_MESSAGE, MAX_PAYLOAD, decode, encode};
use farm_proto::message::{
    Batch, Enrol, Enrolled, Open, Request, Response, SchedulerControl, SchedulerWork, WorkerControl, WorkerWork,
};
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{examples, messages};

/// Header and message of a frame.
fn split(frame: &[u8]) -> (Header, &[u8]) {
    let (header, message) = frame.split_at(HEADER_LEN);
    (Header::decode(header.try_into().expect("eight bytes")).expect("lengths within the limits"), message)
}

/// The message comes back from its frame, and from nothing less or more than that.
fn check<M: Serialize + DeserializeOwned + PartialEq + Debug>(sent: &M, payload: usize, cut: &Index, more: u8) {
    let frame = encode(sent, payload).expect("a message within the limits");
    let (header, message) = split(&frame);
    assert_eq!((header.message as usize, header.payload as usize), (message.len(), payload));
    assert_eq!(&decode::<M>(message).expect("a message that was just written"), sent);
    if !message.is_empty() {
        let cut = cut.index(message.len());
        assert!(matches!(decode::<M>(&message[..cut]), Err(FrameError::Malformed(_))), "cut off at {cut}");
    }
    let longer = [message, &[more]].concat();
    assert!(matches!(decode::<M>(&longer), Err(FrameError::Trailing(1))), "with a byte behind it");
}

/// Whatever is taken for a message is the same message when it is sent on.
fn check_bytes<M: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = decode::<M>(bytes) else { return };
    let frame = encode(&read, 0).expect("no longer than what it was read from");
    assert_eq!(decode::<M>(split(&frame).1).expect("a message that was just written"), read);
}

fn check_all(bytes: &[u8]) {
    check_bytes::<Open>(bytes);
    check_bytes::<Response>(bytes);
    check_bytes::<WorkerControl>(bytes);
    check_bytes::<SchedulerControl>(bytes);
    check_bytes::<WorkerWork>(bytes);
    check_bytes::<SchedulerWork>(bytes);
    check_bytes::<Enrol>(bytes);
    check_bytes::<Enrolled>(bytes);
}

/// A batch with a result for each of its tasks.
fn batch_with_results() -> impl Strategy<Value = (Batch, Vec<Vec<u8>>)> {
    let results = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..24);
    (messages::batch(), results).prop_map(|(batch, mut results)| {
        let batch = Batch { count: results.len() as u32, ..batch };
        for (offset, _) in &batch.failures {
            if let Some(result) = results.get_mut(*offset as usize) {
                result.clear();
            }
        }
        (batch, results)
    })
}

proptest! {
    #![proptest_config(examples(1024))]

    #[test]
    fn what_is_opened_comes_back(sent in messages::open(), payload in 0..=MAX_PAYLOAD, cut: Index, more: u8) {
        check(&sent, payload as usize, &cut, more);
    }

    #[test]
    fn answers_come_back(sent in messages::response(), payload in 0..=MAX_PAYLOAD, cut: Index, more: u8) {
        check(&sent, payload as usize, &cut, more);
    }

    #[test]
    fn what_workers_say_comes_back(
        work in messages::worker_work(),
        control in messages::worker_control(),
        cut: Index,
        more: u8,
    ) {
        check(&work, 0, &cut, more);
        check(&control, 0, &cut, more);
    }

    #[test]
    fn what_workers_are_told_comes_back(
        work in messages::scheduler_work(),
        control in messages::scheduler_control(),
        cut: Index,
        more: u8,
    ) {
        check(&work, 0, &cut, more);
        check(&control, 0, &cut, more);
    }

    #[test]
    fn a_batch_comes_back_with_its_results((batch, results) in batch_with_results(), lease in messages::lease_id()) {
        let mut builder = ColumnsBuilder::new();
        results.iter().for_each(|result| builder.push(result));
        let payload = builder.finish().encode();
        let sent = WorkerWork::Results { lease, batch };
        let frame = [encode(&sent, payload.len()).expect("a small batch"), payload].concat();

        let (header, rest) = split(&frame);
        let (message, payload) = rest.split_at(header.message as usize);
        prop_assert_eq!(payload.len(), header.payload as usize);
        let read: WorkerWork = decode(message).expect("a batch that was just written");
        prop_assert_eq!(&read, &sent);
        let WorkerWork::Results { batch, .. } = read else { unreachable!("it is what was sent") };
        let columns = Columns::decode(u64::from(batch.count), Bytes::copy_from_slice(payload)).expect("its columns");
        prop_assert!(columns.iter().eq(&results));
    }

    #[test]
    fn any_bytes_are_a_message_or_are_refused(bytes: Vec<u8>) {
        check_all(&bytes);
    }

    #[test]
    fn a_damaged_message_is_a_message_or_is_refused(
        sent in messages::open(),
        edits in proptest::collection::vec(any::<(Index, u8)>(), 1..4),
    ) {
        let frame = encode(&sent, 0).expect("a message within the limits");
        let mut message = split(&frame).1.to_vec();
        for (at, byte) in &edits {
            let at = at.index(message.len());
            message[at] = *byte;
        }
        check_all(&message);
        check_bytes::<Request>(&message);
    }

    #[test]
    fn lengths_are_as_written_or_refused(bytes: [u8; HEADER_LEN]) {
        let [a, b, c, d, e, f, g, h] = bytes;
        let (message, payload) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        match Header::decode(bytes) {
            Ok(header) => prop_assert_eq!(header, Header { message, payload }),
            Err(FrameError::MessageTooLong(length)) => {
                prop_assert!(message > MAX_MESSAGE && length == u64::from(message));
            }
            Err(FrameError::PayloadTooLong(length)) => {
                prop_assert!(payload > MAX_PAYLOAD && length == u64::from(payload));
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn a_payload_over_the_limit_is_not_announced(beyond in 1..u64::MAX - u64::from(MAX_PAYLOAD)) {
        let payload = (u64::from(MAX_PAYLOAD) + beyond) as usize;
        prop_assert!(matches!(encode(&Open::Work, payload), Err(FrameError::PayloadTooLong(_))));
    }
}
