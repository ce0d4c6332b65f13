//! The receiving side of a connection, as the server has it but for the socket: requests with their bodies, one after
//! another. The corpus of requests and the fuzz target `connection` drive it.

use _rmeinheld::http::chunked::{ChunkLimits, ChunkedDecoder};
use _rmeinheld::http::error::RequestError;
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::head::{Head, Parsed, Span};
use _rmeinheld::http::limits::HeadLimits;

/// Limits for one peer.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub head: HeadLimits,
    pub chunks: ChunkLimits,
    /// The longest body; more is 413.
    pub body_bytes: u64,
}

/// A request, as the server sees it. Text is latin-1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub query: String,
    pub body: String,
}

/// Where in the stream of requests a connection is.
pub enum Stage {
    Head,
    Length(u64),
    /// With the bytes of body that are still allowed.
    Chunked(ChunkedDecoder, u64),
    /// Further bytes are no request.
    Over(Option<RequestError>),
}

/// A connection.
pub struct Receiver {
    terms: Terms,
    /// Bytes that have arrived and are not consumed yet.
    pub buffer: Vec<u8>,
    head: Head,
    pub stage: Stage,
    keep_alive: bool,
    /// The request whose body is arriving.
    pub current: Seen,
    /// The requests that are complete.
    pub seen: Vec<Seen>,
}

impl Receiver {
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            buffer: Vec::new(),
            head: Head::new(),
            stage: Stage::Head,
            keep_alive: true,
            current: Seen::default(),
            seen: Vec::new(),
        }
    }

    pub fn feed(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        loop {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.stage = Stage::Over(Some(error)),
            }
        }
    }

    /// Takes one step. Is there something left to do?
    fn advance(&mut self) -> Result<bool, RequestError> {
        match &mut self.stage {
            Stage::Over(_) => return Ok(false),
            Stage::Head if self.buffer.is_empty() => return Ok(false),
            Stage::Head => {
                if self.head.parse(&self.buffer, &self.terms.head)? == Parsed::Partial {
                    return Ok(false);
                }
                self.take_head()?;
            }
            Stage::Length(0) => self.finish(),
            Stage::Length(left) => {
                let count = usize::try_from(*left).map_or(self.buffer.len(), |left| left.min(self.buffer.len()));
                *left -= count as u64;
                self.current.body.extend(self.buffer.drain(..count).map(char::from));
                return Ok(count > 0);
            }
            Stage::Chunked(decoder, allowance) => {
                let decoded = decoder.decode(&self.buffer)?;
                let left = allowance.checked_sub(decoded.data.len() as u64);
                *allowance = left.ok_or(RequestError::BodyTooLarge)?;
                self.current.body.push_str(&latin1(&self.buffer[decoded.data]));
                self.buffer.drain(..decoded.consumed);
                if decoded.finished {
                    self.finish();
                } else {
                    return Ok(decoded.consumed > 0);
                }
            }
        }
        Ok(true)
    }

    fn take_head(&mut self) -> Result<(), RequestError> {
        let text = |span: Span| latin1(span.of(&self.buffer));
        self.current = Seen {
            method: text(self.head.method),
            target: text(self.head.target),
            query: text(self.head.query),
            body: String::new(),
        };
        if self.current.method == "CONNECT" {
            return Err(RequestError::NotImplemented("CONNECT"));
        }
        self.keep_alive = self.head.keep_alive;
        self.stage = match self.head.body {
            BodyFraming::Length(length) if length > self.terms.body_bytes => return Err(RequestError::BodyTooLarge),
            BodyFraming::Length(length) => Stage::Length(length),
            BodyFraming::Chunked => Stage::Chunked(ChunkedDecoder::new(self.terms.chunks), self.terms.body_bytes),
            BodyFraming::None => Stage::Length(0),
        };
        self.buffer.drain(..self.head.length);
        Ok(())
    }

    fn finish(&mut self) {
        self.seen.push(std::mem::take(&mut self.current));
        self.stage = if self.keep_alive { Stage::Head } else { Stage::Over(None) };
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
