//! The body of a request, read from the connection as the application asks for it.
//!
//! Bytes that arrived with the head come first; then the socket is read, never further ahead than one buffer, so that a
//! slow application slows its client down and not the server's memory.

use std::time::Duration;

use crate::http::chunked::ChunkedDecoder;
use crate::http::error::RequestError;
use crate::http::framing::BodyFraming;
use crate::http::response::CONTINUE;
use crate::net::{Failure, Stream};

/// Bytes read from the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// Why a body could not be read to its end.
#[derive(Debug)]
pub enum BodyFailure {
    /// The client broke a rule: its status code is the answer.
    Request(RequestError),
    /// The connection is of no more use.
    Connection(Failure),
    /// The client closed it before the body was complete.
    Incomplete,
}

enum Framing {
    Finished,
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
}

/// What is left of a request's body.
pub struct RequestBody {
    framing: Framing,
    /// Received and not yet decoded; after the end of the body, the start of the next request.
    raw: Vec<u8>,
    raw_start: usize,
    /// The client waits for "100 Continue" before it sends (RFC 9110 10.1.1).
    owes_continue: bool,
    /// Bytes that a chunked body may still have; none for no limit.
    allowance: Option<u64>,
    timeout: Option<Duration>,
    failed: bool,
}

impl RequestBody {
    /// A body framed so, of which `raw` has arrived. A Content-Length over `limit` (0: none) is refused at once.
    ///
    /// # Errors
    /// [`RequestError::BodyTooLarge`].
    pub fn new(
        framing: BodyFraming,
        raw: Vec<u8>,
        owes_continue: bool,
        limit: u64,
        timeout: Option<Duration>,
    ) -> Result<RequestBody, RequestError> {
        let allowance = (limit > 0).then_some(limit);
        let framing = match framing {
            BodyFraming::None | BodyFraming::Length(0) => Framing::Finished,
            BodyFraming::Length(length) if allowance.is_some_and(|limit| length > limit) => {
                return Err(RequestError::BodyTooLarge);
            }
            BodyFraming::Length(length) => Framing::Length(length),
            BodyFraming::Chunked => Framing::Chunked(Box::default()),
        };
        let owes_continue = owes_continue && raw.is_empty();
        Ok(RequestBody { framing, raw, raw_start: 0, owes_continue, allowance, timeout, failed: false })
    }

    /// Whether all of it has been read.
    pub fn is_finished(&self) -> bool {
        matches!(self.framing, Framing::Finished)
    }

    /// Whether the client may still be waiting for "100 Continue", so that nobody knows whether the body will come.
    pub fn is_withheld(&self) -> bool {
        self.owes_continue && !self.is_finished()
    }

    /// Bytes still to come, where that is known.
    pub fn known_rest(&self) -> Option<u64> {
        match self.framing {
            Framing::Finished => Some(0),
            Framing::Length(rest) => Some(rest),
            Framing::Chunked(_) => None,
        }
    }

    /// The bytes that were received beyond the body: the next request's.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.raw.drain(..self.raw_start);
        self.raw
    }

    /// Appends some of the body to `out`, at least one byte; 0 at its end.
    ///
    /// # Errors
    /// See [`BodyFailure`]. After one, every further call reports [`BodyFailure::Incomplete`].
    ///
    /// # Parks
    pub fn read_some(&mut self, stream: &Stream, out: &mut Vec<u8>) -> Result<usize, BodyFailure> {
        if self.failed {
            return Err(BodyFailure::Incomplete);
        }
        let read = self.try_read_some(stream, out);
        self.failed = read.is_err();
        read
    }

    fn try_read_some(&mut self, stream: &Stream, out: &mut Vec<u8>) -> Result<usize, BodyFailure> {
        loop {
            if self.is_finished() {
                return Ok(0);
            }
            if self.raw_start == self.raw.len() {
                self.fill(stream)?;
            }
            let decoded = self.decode(out).map_err(BodyFailure::Request)?;
            if decoded > 0 {
                return Ok(decoded);
            }
        }
    }

    fn fill(&mut self, stream: &Stream) -> Result<(), BodyFailure> {
        if std::mem::take(&mut self.owes_continue) {
            stream.write_all(&[CONTINUE], self.timeout).map_err(BodyFailure::Connection)?;
        }
        self.raw.clear();
        self.raw_start = 0;
        self.raw.reserve_exact(READ_BYTES);
        match stream.read(&mut self.raw, self.timeout) {
            Ok(0) => Err(BodyFailure::Incomplete),
            Ok(_) => Ok(()),
            Err(Failure::TimedOut) => Err(BodyFailure::Request(RequestError::Timeout)),
            Err(failure) => Err(BodyFailure::Connection(failure)),
        }
    }

    /// Moves decoded bytes from `raw` to `out`.
    fn decode(&mut self, out: &mut Vec<u8>) -> Result<usize, RequestError> {
        let raw = self.raw.get(self.raw_start..).unwrap_or_default();
        let (consumed, data, finished) = match &mut self.framing {
            Framing::Finished => return Ok(0),
            Framing::Length(rest) => {
                let count = usize::try_from(*rest).map_or(raw.len(), |rest| rest.min(raw.len()));
                *rest -= count as u64;
                (count, raw.get(..count).unwrap_or_default(), *rest == 0)
            }
            Framing::Chunked(decoder) => {
                let decoded = decoder.decode(raw)?;
                let data = raw.get(decoded.data).unwrap_or_default();
                if let Some(allowance) = &mut self.allowance {
                    *allowance = allowance.checked_sub(data.len() as u64).ok_or(RequestError::BodyTooLarge)?;
                }
                (decoded.consumed, data, decoded.finished)
            }
        };
        out.extend_from_slice(data);
        let count = data.len();
        self.raw_start += consumed;
        if finished {
            self.framing = Framing::Finished;
        } else if self.raw_start == self.raw.len() && self.raw.capacity() > READ_BYTES {
            // A parked reader keeps no more than one buffer.
            self.raw = Vec::new();
            self.raw_start = 0;
        }
        Ok(count)
    }
}
