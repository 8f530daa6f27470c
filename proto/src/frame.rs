//! Frames: how a message and its payload stand on a stream.
//!
//! ```text
//! length of the message (u32, little endian)
//! length of the payload (u32, little endian)
//! the message, in postcard
//! the payload: raw bytes whose meaning the message tells
//! ```
//!
//! A payload is apart from its message so that columns and blobs are neither parsed nor copied on their way.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes in front of the message.
pub const HEADER_LEN: usize = 8;
/// The longest message, in bytes. The largest is a job with thousands of input files.
pub const MAX_MESSAGE: u32 = 16 << 20;
/// The longest payload, in bytes: one result or argument of 64 MiB, and what stands around it.
pub const MAX_PAYLOAD: u32 = 160 << 20;
/// The longest payload that senders should make of several small items, in bytes.
pub const TARGET_PAYLOAD: usize = 1 << 20;

/// The two lengths at the start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub message: u32,
    pub payload: u32,
}

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {0} bytes; the longest allowed is {MAX_MESSAGE}")]
    MessageTooLong(u64),
    #[error("a payload of {0} bytes; the longest allowed is {MAX_PAYLOAD}")]
    PayloadTooLong(u64),
    #[error("a frame of {length} bytes where none over {limit} is taken")]
    NotHere { length: usize, limit: usize },
    #[error("a message that cannot be read: {0}")]
    Malformed(#[source] postcard::Error),
    #[error("a message with {0} bytes behind it that are not part of it")]
    Trailing(usize),
    #[error("a message that cannot be written: {0}")]
    Unwritable(#[source] postcard::Error),
}

impl Header {
    /// Reads the lengths and refuses those beyond the limits, so that nobody allocates what a peer merely claims.
    ///
    /// # Errors
    ///
    /// A length is over its limit.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let header = Self { message: u32::from_le_bytes([a, b, c, d]), payload: u32::from_le_bytes([e, f, g, h]) };
        header.check()?;
        Ok(header)
    }

    fn check(self) -> Result<(), FrameError> {
        if self.message > MAX_MESSAGE {
            return Err(FrameError::MessageTooLong(self.message.into()));
        }
        if self.payload > MAX_PAYLOAD {
            return Err(FrameError::PayloadTooLong(self.payload.into()));
        }
        Ok(())
    }
}

/// Header and message of a frame whose payload, of `payload` bytes, is written behind it.
///
/// # Errors
///
/// Message or payload are over their limit.
pub fn encode(message: &impl Serialize, payload: usize) -> Result<Bytes, FrameError> {
    let mut frame = BytesMut::with_capacity(256);
    frame.put_bytes(0, HEADER_LEN);
    let frame = postcard::to_extend(message, frame).map_err(FrameError::Unwritable)?;
    let too_long = |length| FrameError::MessageTooLong(length as u64);
    let length = frame.len() - HEADER_LEN;
    let header = Header {
        message: u32::try_from(length).map_err(|_| too_long(length))?,
        payload: u32::try_from(payload).map_err(|_| FrameError::PayloadTooLong(payload as u64))?,
    };
    header.check()?;
    let mut frame = frame;
    frame[..4].copy_from_slice(&header.message.to_le_bytes());
    frame[4..HEADER_LEN].copy_from_slice(&header.payload.to_le_bytes());
    Ok(frame.freeze())
}

/// Reads the message of a frame, without its header.
///
/// # Errors
///
/// The bytes are no message of that type, or there are more of them than it has.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, FrameError> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(FrameError::Malformed)?;
    // As a rule, a longer message is one of another type.
    if rest.is_empty() { Ok(message) } else { Err(FrameError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Request;

    #[test]
    fn a_frame_is_read_back() {
        let frame = encode(&Request::Jobs, 3).expect("a small message");
        let (header, message) = frame.split_at(HEADER_LEN);
        let header = Header::decode(header.try_into().expect("eight bytes")).expect("small lengths");
        assert_eq!(header, Header { message: message.len() as u32, payload: 3 });
        assert_eq!(decode::<Request>(message).expect("just made"), Request::Jobs);
    }

    #[test]
    fn claims_beyond_the_limits_are_refused() {
        assert!(matches!(Header::decode([0xff; 8]), Err(FrameError::MessageTooLong(_))));
        assert!(matches!(Header::decode([1, 0, 0, 0, 255, 255, 255, 255]), Err(FrameError::PayloadTooLong(_))));
        assert!(matches!(decode::<Request>(&[255, 255]), Err(FrameError::Malformed(_))));
    }
}
