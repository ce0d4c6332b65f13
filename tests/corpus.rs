//! The corpus of requests in `tests/corpus` through the parser alone: whole, byte by byte, and split at every position.
//!
//! CONTRIBUTING.md tells what a case is; `tests/test_corpus.py` runs the same cases against a live server. What only
//! the layers above the parser know (the environ, and the path decoded) is not looked at here.

use std::path::Path;
use std::{fs, iter};

use _rmeinheld::http::chunked::ChunkedDecoder;
use _rmeinheld::http::error::RequestError;
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::head::{Head, Limits, Parsed, Span};
use serde_json::Value;

/// The defaults of the server (`rmeinheld.settings`).
const LIMITS: Limits = Limits { request_line_bytes: 8208, field_count: 128, field_bytes: 8192, head_bytes: 80 * 1024 };
/// The server's default for the longest body.
const BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Longer inputs are not split at every position, nor fed byte by byte.
const SPLIT_BYTES: usize = 200;
/// The size of the pieces of longer inputs.
const STEP_BYTES: usize = 97;

/// The request that shows whether another one would be served.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n";

/// What the server sees of a request. Text is latin-1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    query: String,
    body: String,
}

/// What a connection has seen, the status of the error that ended it, and how it stands.
type Outcome = (Vec<Seen>, Option<u16>, &'static str);

/// Where in the stream of requests a connection is.
enum Stage {
    Head,
    Length(u64),
    Chunked(ChunkedDecoder),
    /// Whatever comes is no request.
    Over(Option<RequestError>),
}

/// The receiving side of a connection, as the server has it but for the socket.
struct Receiver {
    buffer: Vec<u8>,
    head: Head,
    stage: Stage,
    keep_alive: bool,
    current: Seen,
    seen: Vec<Seen>,
}

impl Receiver {
    fn new() -> Self {
        Self {
            buffer: Vec::new(),
            head: Head::new(),
            stage: Stage::Head,
            keep_alive: true,
            current: Seen::default(),
            seen: Vec::new(),
        }
    }

    fn feed(&mut self, piece: &[u8]) {
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
                if self.head.parse(&self.buffer, &LIMITS)? == Parsed::Partial {
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
            Stage::Chunked(decoder) => {
                let decoded = decoder.decode(&self.buffer)?;
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
        // The server closes after its answer to CONNECT (RFC 9110 9.3.6).
        self.keep_alive = self.head.keep_alive && self.current.method != "CONNECT";
        self.stage = match self.head.body {
            BodyFraming::Length(length) if length > BODY_BYTES => return Err(RequestError::BodyTooLarge),
            BodyFraming::Length(length) => Stage::Length(length),
            BodyFraming::Chunked => Stage::Chunked(ChunkedDecoder::default()),
            BodyFraming::None => Stage::Length(0),
        };
        self.buffer.drain(..self.head.length);
        Ok(())
    }

    fn finish(&mut self) {
        self.seen.push(std::mem::take(&mut self.current));
        self.stage = if self.keep_alive { Stage::Head } else { Stage::Over(None) };
    }

    /// What has become of the connection. That it is open is shown by one more request, which is not in the outcome.
    fn outcome(mut self, is_open: bool) -> Outcome {
        if is_open {
            self.feed(NEXT);
            let next = self.seen.pop();
            let is_next = next.is_some_and(|next| next.target == "/next") && self.buffer.is_empty();
            return (self.seen, None, if is_next { "open" } else { "unusable" });
        }
        match self.stage {
            Stage::Over(error) => (self.seen, error.map(|error| error.status()), "closed"),
            Stage::Head if self.buffer.is_empty() => (self.seen, None, "open"),
            _ => (self.seen, None, "incomplete"),
        }
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A string, or the parts that a long one is made of: strings, and objects of a string to `repeat` and `times`.
fn text_of(value: &Value) -> String {
    let Some(parts) = value.as_array() else { return string(value) };
    let text = |part: &Value| match part.as_object() {
        Some(part) => string(&part["repeat"]).repeat(part["times"].as_u64().unwrap() as usize),
        None => string(part),
    };
    parts.iter().map(text).collect()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).to_owned()
}

/// The cases of all files.
fn corpus() -> Vec<Value> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let cases = |path| -> Vec<Value> { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).flat_map(cases).collect()
}

/// Feeds the pieces; what is wrong with the outcome, or none.
fn fault<'a>(case: &Value, pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let mut receiver = Receiver::new();
    pieces.into_iter().for_each(|piece| receiver.feed(piece));
    let (seen, error, then) = receiver.outcome(case["then"] == "open");
    let expected = case["expect"].as_array().unwrap();
    let requests: Vec<&Value> = expected.iter().filter(|item| item.get("error").is_none()).collect();
    let status = expected.iter().find_map(|item| item.get("error"));
    let is_alike = |(seen, expected): (&Seen, &&Value)| {
        seen.method == expected["method"]
            && seen.target == text_of(&expected["target"])
            && seen.body == text_of(&expected["body"])
            && expected.get("query").is_none_or(|query| seen.query == text_of(query))
    };
    let is_right = seen.len() == requests.len()
        && seen.iter().zip(&requests).all(is_alike)
        && error.map(u64::from) == status.and_then(Value::as_u64)
        && then == case["then"];
    (!is_right).then(|| format!("{}: {seen:?} {error:?} {then}", case["name"]))
}

#[track_caller]
fn assert_all_right(faults: impl Iterator<Item = String>) {
    let faults: Vec<String> = faults.take(20).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn bytes_of(case: &Value) -> Vec<u8> {
    text_of(&case["input"]).chars().map(|letter| u8::try_from(letter).unwrap()).collect()
}

#[test]
fn cases_that_arrive_whole() {
    assert_all_right(corpus().iter().filter_map(|case| fault(case, iter::once(&*bytes_of(case)))));
}

#[test]
fn cases_that_arrive_byte_by_byte() {
    assert_all_right(corpus().iter().filter_map(|case| {
        let bytes = bytes_of(case);
        fault(case, bytes.chunks(if bytes.len() <= SPLIT_BYTES { 1 } else { STEP_BYTES }))
    }));
}

#[test]
fn cases_that_are_split_at_every_position() {
    for case in corpus() {
        let bytes = bytes_of(&case);
        let most = if bytes.len() <= SPLIT_BYTES { bytes.len() } else { 0 };
        assert_all_right((1..most).filter_map(|at| fault(&case, [&bytes[..at], &bytes[at..]])));
    }
}
