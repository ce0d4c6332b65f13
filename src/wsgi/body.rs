//! The body of a request, read from the connection as the application asks for it.
//!
//! Bytes that arrived with the head come first. Then the socket is read, never more than one buffer ahead, or as much
//! again as the application has asked for. A slow application slows its client down instead of filling the server's
//! memory.

use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use super::start_response::StartResponse;
use crate::http::chunked::{ChunkLimits, ChunkedDecoder};
use crate::http::error::RequestError;
use crate::http::framing::BodyFraming;
use crate::http::response::CONTINUE;
use crate::net::{Failure, Pace, Receives, Room, Stream};

/// Bytes read from the socket at a time.
pub const READ_BYTES: usize = 64 * 1024;

/// The reason why a body could not be read to its end.
#[derive(Debug)]
pub enum BodyFailure {
    /// The client broke a rule, which has a status code.
    Request(RequestError),
    /// The connection failed.
    Connection(Failure),
    /// The client closed the connection before the body was complete.
    Incomplete,
}

/// The limits of a request body.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Bytes; 0 for no limit.
    pub bytes: u64,
    /// Chunked bodies are accepted.
    pub accepts_chunked: bool,
    /// The limits of chunks in addition to their data.
    pub chunks: ChunkLimits,
    /// How long the client may send nothing; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Bytes a second that the client must send in the long run, beyond `timeout`; 0 for no such rule.
    pub bytes_per_second: u32,
}

/// How long the server may still wait for a client: each received byte buys time (Apache's RequestReadTimeout). Only
/// waiting counts, so an application that reads slowly does not harm its client.
struct BodyPatience {
    timeout: Option<Duration>,
    bytes_per_second: u32,
    received: u64,
    waited: Duration,
}

impl BodyPatience {
    /// How long the next wait may be.
    fn left(&self) -> Option<Duration> {
        let timeout = self.timeout?;
        if self.bytes_per_second == 0 {
            return Some(timeout);
        }
        let earned = Duration::from_secs(self.received / u64::from(self.bytes_per_second))
            + Duration::from_millis(
                self.received % u64::from(self.bytes_per_second) * 1000 / u64::from(self.bytes_per_second),
            );
        Some(timeout.saturating_add(earned).saturating_sub(self.waited).min(timeout))
    }

    /// Reads at least one byte into `buffer`, which has room, within this patience. Returns the number of bytes.
    ///
    /// # Parks
    fn read(&mut self, stream: &Stream, buffer: &mut impl Receives) -> Result<usize, BodyFailure> {
        let read = match stream.read_now(buffer) {
            Ok(Some(read)) => Ok(read),
            Ok(None) => {
                let since = Instant::now();
                let read = stream.read(buffer, self.left());
                self.waited += since.elapsed();
                read
            }
            Err(error) => Err(Failure::Gone(error)),
        };
        match read {
            Ok(0) => Err(BodyFailure::Incomplete),
            Ok(count) => {
                self.received += count as u64;
                Ok(count)
            }
            Err(Failure::TimedOut) => Err(BodyFailure::Request(RequestError::Timeout)),
            Err(failure) => Err(BodyFailure::Connection(failure)),
        }
    }
}

enum Framing {
    Finished,
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
}

/// The rest of a request's body.
pub struct RequestBody {
    framing: Framing,
    /// Received bytes that are still to be decoded; after the end of the body, the start of the next request.
    raw: Vec<u8>,
    raw_start: usize,
    /// Bytes that a chunked body may still have; `None` for no limit.
    allowance: Option<u64>,
    patience: BodyPatience,
    failed: bool,
}

impl RequestBody {
    /// A body with this framing, of which `raw` has arrived. A body that its head shows to be too long is refused at
    /// once.
    ///
    /// # Errors
    /// [`RequestError::BodyTooLarge`], [`RequestError::LengthRequired`].
    pub fn new(framing: BodyFraming, raw: Vec<u8>, limits: &BodyLimits) -> Result<RequestBody, RequestError> {
        let allowance = (limits.bytes > 0).then_some(limits.bytes);
        let framing = match framing {
            BodyFraming::None | BodyFraming::Length(0) => Framing::Finished,
            BodyFraming::Length(length) if allowance.is_some_and(|limit| length > limit) => {
                return Err(RequestError::BodyTooLarge);
            }
            BodyFraming::Length(length) => Framing::Length(length),
            BodyFraming::Chunked if !limits.accepts_chunked => return Err(RequestError::LengthRequired),
            BodyFraming::Chunked => Framing::Chunked(Box::new(ChunkedDecoder::new(limits.chunks))),
        };
        let patience = BodyPatience {
            timeout: limits.timeout,
            bytes_per_second: limits.bytes_per_second,
            received: 0,
            waited: Duration::ZERO,
        };
        Ok(RequestBody { framing, raw, raw_start: 0, allowance, patience, failed: false })
    }

    /// Has the whole body been read?
    pub fn is_finished(&self) -> bool {
        matches!(self.framing, Framing::Finished)
    }

    /// The bytes received behind the body, which belong to the next request.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.raw.drain(..self.raw_start);
        self.raw
    }

    /// Appends some of the body to `out` and notes it in the exchange of `response`. Returns the number of bytes, 0 at
    /// the end.
    ///
    /// # Errors
    /// See [`BodyFailure`]. After one, every further call reports [`BodyFailure::Incomplete`].
    ///
    /// # Parks
    pub fn read_some(
        &mut self,
        stream: &Stream,
        response: &StartResponse,
        out: &mut Vec<u8>,
    ) -> Result<usize, BodyFailure> {
        if self.failed {
            return Err(BodyFailure::Incomplete);
        }
        let read = self.try_read_some(stream, response, out);
        self.failed = read.is_err();
        read
    }

    fn try_read_some(
        &mut self,
        stream: &Stream,
        response: &StartResponse,
        out: &mut Vec<u8>,
    ) -> Result<usize, BodyFailure> {
        while !self.is_finished() {
            if self.raw_start == self.raw.len() {
                let received = self.receive(stream, response, |body| body.fill(stream, out))?;
                if received > 0 {
                    self.note_taken(response, received);
                    return Ok(received);
                }
            }
            let decoded = self.decode(out).map_err(BodyFailure::Request)?;
            self.note_taken(response, decoded);
            if decoded > 0 {
                return Ok(decoded);
            }
        }
        Ok(0)
    }

    /// The number of bytes that the body still has, if its head announced it.
    pub fn known_rest(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(rest) if !self.failed => Some(rest),
            _ => None,
        }
    }

    /// Like [`Self::read_some`], for a body whose [rest is known](Self::known_rest): reads at least one byte into `memory`,
    /// which must not be empty, and no byte beyond the body. Returns the bytes, which begin where `memory` does.
    ///
    /// # Errors
    /// As for [`Self::read_some`]; [`BodyFailure::Incomplete`] for a body whose rest is not known.
    ///
    /// # Parks
    pub fn read_into<'memory>(
        &mut self,
        stream: &Stream,
        response: &StartResponse,
        memory: &'memory mut [MaybeUninit<u8>],
    ) -> Result<&'memory mut [u8], BodyFailure> {
        let rest = self.known_rest().ok_or(BodyFailure::Incomplete)?;
        let mut room = Room::new(memory, usize::try_from(rest).unwrap_or(usize::MAX));
        let arrived = room.append(self.raw.get(self.raw_start..).unwrap_or_default());
        self.raw_start += arrived;
        let read = if arrived > 0 {
            Ok(arrived)
        } else {
            (self.raw, self.raw_start) = (Vec::new(), 0);
            self.receive(stream, response, |body| body.patience.read(stream, &mut room))
        };
        self.failed = read.is_err();
        let count = read?;
        self.shorten(count);
        self.note_taken(response, count);
        Ok(room.into_filled())
    }

    /// Lets `read` read from the socket, while the exchange of `response` waits for the client. Sends the interim response
    /// first that the client may wait for.
    ///
    /// # Parks
    fn receive(
        &mut self,
        stream: &Stream,
        response: &StartResponse,
        read: impl FnOnce(&mut Self) -> Result<usize, BodyFailure>,
    ) -> Result<usize, BodyFailure> {
        let sends_continue = response.answer().exchange.await_body();
        let sent = if sends_continue {
            let pace = Pace::new(self.patience.timeout, 0);
            stream.write_all(&[CONTINUE], &pace).map_err(BodyFailure::Connection)
        } else {
            Ok(())
        };
        let received = sent.and_then(|()| read(self));
        response.answer().exchange.stop_awaiting_body();
        received
    }

    /// Takes the next `count` bytes of the body, or its rest if that is shorter, and notes it in the exchange of
    /// `response`. `None` if they have not all arrived, or need decoding.
    pub fn take_received(&mut self, response: &StartResponse, count: usize) -> Option<&[u8]> {
        let Framing::Length(rest) = self.framing else { return None };
        let count = usize::try_from(rest).map_or(count, |rest| rest.min(count));
        let taken = self.raw_start..self.raw_start + count;
        if self.failed || count == 0 || taken.end > self.raw.len() {
            return None;
        }
        self.raw_start = taken.end;
        self.shorten(count);
        self.note_taken(response, count);
        self.raw.get(taken)
    }

    /// Notes that `count` bytes of a body with a length are taken.
    fn shorten(&mut self, count: usize) {
        if let Framing::Length(rest) = &mut self.framing {
            *rest -= count as u64;
            if *rest == 0 {
                self.framing = Framing::Finished;
            }
        }
    }

    fn note_taken(&self, response: &StartResponse, count: usize) {
        let mut answer = response.answer();
        // Illegal only after the request has ended, when nothing depends on its exchange any more.
        let _ = answer.exchange.take_body(count, self.is_finished());
        if self.is_finished() && self.raw_start < self.raw.len() {
            answer.exchange.note_more();
        }
    }

    /// Reads from the socket: into `raw`, or into `out` if the body needs no decoding. Returns the number of bytes that are
    /// added to `out`.
    fn fill(&mut self, stream: &Stream, out: &mut Vec<u8>) -> Result<usize, BodyFailure> {
        self.raw_start = 0;
        let Framing::Length(rest) = self.framing else {
            self.raw.clear();
            self.raw.reserve_exact(READ_BYTES);
            self.patience.read(stream, &mut self.raw)?;
            return Ok(0);
        };
        self.raw = Vec::new();
        let start = out.len();
        out.reserve(READ_BYTES);
        let mut count = self.patience.read(stream, out)?;
        if let Ok(rest) = usize::try_from(rest)
            && rest < count
        {
            // The rest is the start of the next request.
            self.raw = out.split_off(start + rest);
            count = rest;
        }
        self.shorten(count);
        Ok(count)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_buys_time_and_no_pause_is_longer_than_the_timeout() {
        let (timeout, second) = (Duration::from_secs(10), Duration::from_secs(1));
        let left = |received, waited| {
            BodyPatience { timeout: Some(timeout), bytes_per_second: 100, received, waited: waited * second }.left()
        };
        assert_eq!(left(0, 0), Some(timeout));
        assert_eq!(left(0, 4), Some(timeout - 4 * second));
        // 50 bytes in 10 s are a trickle.
        assert_eq!(left(50, 10), Some(second / 2));
        assert_eq!(left(50, 11), Some(Duration::ZERO));
        // 200 bytes a second are slow but enough.
        assert_eq!(left(200 * 3600, 3600), Some(timeout));
        // A burst buys no pause beyond the timeout.
        assert_eq!(left(u64::MAX / 2, 0), Some(timeout));
    }

    #[test]
    fn without_a_rate_or_a_timeout_there_is_no_more_to_it() {
        let patience = |timeout, bytes_per_second| BodyPatience {
            timeout,
            bytes_per_second,
            received: 0,
            waited: Duration::from_secs(1000),
        };
        assert_eq!(patience(Some(Duration::from_secs(1)), 0).left(), Some(Duration::from_secs(1)));
        assert_eq!(patience(None, 100).left(), None);
    }
}
