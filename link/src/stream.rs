//! Frames on QUIC streams.

use bytes::{Bytes, BytesMut};
use farm_proto::frame::{self, FrameError, HEADER_LEN, Header};
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::LinkError;

/// How much is read from a stream at once, in bytes.
const READ_CHUNK: usize = 256 << 10;

/// Reads frames. Memory grows with what has arrived, never with what a header claims.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    /// The longest frame that is put up with, header included.
    limit: usize,
}

impl FrameReader {
    pub fn new(stream: RecvStream) -> Self {
        Self::with_limit(stream, usize::MAX)
    }

    /// A reader for a peer that has not proved who it is: longer frames than `limit` bytes are refused.
    pub fn with_limit(stream: RecvStream, limit: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), limit }
    }

    /// How many bytes of the next frame have arrived. What does not grow for long has stopped in the middle.
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The next message and its payload; `None` if the stream ended in between two frames.
    ///
    /// Cancel-safe: what has been read stays in the buffer.
    ///
    /// # Errors
    ///
    /// The peer or the connection ended in the middle of a frame, or sent something unreadable.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Bytes)>, LinkError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(LinkError::CutOff) };
            }
        }
    }

    /// A frame that has arrived already, without waiting.
    ///
    /// # Errors
    ///
    /// The peer sent something unreadable.
    pub fn buffered<M: DeserializeOwned>(&mut self) -> Result<Option<(M, Bytes)>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let header = Header::decode(*header)?;
        let (message, payload) = (header.message as usize, header.payload as usize);
        let length = HEADER_LEN + message + payload;
        if length > self.limit {
            let limit = self.limit;
            return Err(FrameError::NotHere { length, limit });
        }
        if rest.len() < message + payload {
            return Ok(None);
        }
        let message_bytes = self.buffer.split_to(HEADER_LEN + message);
        let decoded = frame::decode(&message_bytes[HEADER_LEN..])?;
        Ok(Some((decoded, self.buffer.split_to(payload).freeze())))
    }

    /// The next frame, which has to be there.
    ///
    /// # Errors
    ///
    /// As [`Self::next`]; also if the stream ended.
    pub async fn expect<M: DeserializeOwned>(&mut self) -> Result<(M, Bytes), LinkError> {
        self.next().await?.ok_or(LinkError::CutOff)
    }

    /// Raw bytes behind the last frame, as they come; `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// The peer or the connection ended.
    pub async fn raw(&mut self) -> Result<Option<Bytes>, LinkError> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        Ok(self.stream.read_chunk(READ_CHUNK, true).await?.map(|chunk| chunk.bytes))
    }

    async fn fill(&mut self) -> Result<bool, LinkError> {
        let Some(chunk) = self.stream.read_chunk(READ_CHUNK, true).await? else {
            return Ok(false);
        };
        self.buffer.extend_from_slice(&chunk.bytes);
        Ok(true)
    }

    /// Tells the peer that nothing more is read.
    pub fn stop(&mut self, code: u32) {
        // Fails only if the stream has ended already.
        let _ = self.stream.stop(code.into());
    }
}

/// Writes frames, as many as are ready at a time: small writes are what costs.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    queued: Vec<Bytes>,
}

impl FrameWriter {
    pub fn new(stream: SendStream) -> Self {
        Self { stream, queued: Vec::new() }
    }

    /// Queues a frame; nothing is sent before [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The message or the payload is over its limit.
    pub fn queue(&mut self, message: &impl Serialize, payload: Bytes) -> Result<(), FrameError> {
        self.queued.push(frame::encode(message, payload.len())?);
        if !payload.is_empty() {
            self.queued.push(payload);
        }
        Ok(())
    }

    /// Hands everything queued to the transport. Returns before the peer has it. Not cancel-safe: a frame may be cut.
    ///
    /// # Errors
    ///
    /// The peer or the connection ended.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        if self.queued.is_empty() {
            return Ok(());
        }
        if self.queued.iter().map(Bytes::len).sum::<usize>() <= SMALL {
            // One write instead of several: each small write lengthens the list that quinn walks for every packet.
            let mut joined = BytesMut::new();
            self.queued.drain(..).for_each(|part| joined.extend_from_slice(&part));
            self.stream.write_chunk(joined.freeze()).await?;
        } else {
            self.stream.write_all_chunks(&mut self.queued).await?;
            self.queued.clear();
        }
        Ok(())
    }

    /// Queues one frame and flushes.
    ///
    /// # Errors
    ///
    /// As [`Self::queue`] and [`Self::flush`].
    pub async fn send(&mut self, message: &impl Serialize, payload: Bytes) -> Result<(), LinkError> {
        self.queue(message, payload)?;
        self.flush().await
    }

    /// Sends raw bytes behind the last frame.
    ///
    /// # Errors
    ///
    /// The peer or the connection ended.
    pub async fn raw(&mut self, bytes: Bytes) -> Result<(), LinkError> {
        Ok(self.stream.write_chunk(bytes).await?)
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        // Fails only if the stream was finished or reset already.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has everything, or has stopped reading.
    ///
    /// # Errors
    ///
    /// The connection was lost before.
    pub async fn delivered(&mut self) -> Result<(), LinkError> {
        match self.stream.stopped().await {
            Ok(_) => Ok(()),
            Err(quinn::StoppedError::ConnectionLost(source)) => Err(source.into()),
            Err(quinn::StoppedError::ZeroRttRejected) => Err(LinkError::Unexpected("0-RTT, which is never used")),
        }
    }

    /// Breaks the stream off.
    pub fn reset(&mut self, code: u32) {
        // Fails only if the stream was finished or reset already.
        let _ = self.stream.reset(code.into());
    }
}

/// Frames up to this many bytes together are joined into one write.
const SMALL: usize = 16 << 10;
