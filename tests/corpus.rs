//! The corpus of requests in `tests/corpus` through the parser alone: whole, byte by byte, and split at every position.
//!
//! docs/development/testing.md describes a case; `tests/http/test_corpus.py` runs the same cases against a live server.
//! The environ and the decoded path belong to the layers above the parser, so they are not compared here.

use std::path::Path;
use std::{fs, iter};

use _rmeinheld::http::chunked::ChunkLimits;
use _rmeinheld::http::limits::HeadLimits;
use serde_json::Value;

use receiver::{Receiver, Seen, Stage, Terms};

mod receiver;

/// The defaults of the server (`rmeinheld.settings`).
const HEAD: HeadLimits =
    HeadLimits { request_line_bytes: 8208, field_count: 128, field_bytes: 8192, head_bytes: 80 * 1024 };
/// The server's default for the longest body.
const BODY_BYTES: u64 = 16 * 1024 * 1024;
/// Longer inputs are not split at every position, nor fed byte by byte.
const SPLIT_BYTES: usize = 200;
/// The size of the pieces of longer inputs.
const STEP_BYTES: usize = 97;

/// The request that shows whether another one would be served.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n";

/// The requests of a connection, the status of the error that ended it, and its state at the end.
type Outcome = (Vec<Seen>, Option<u16>, &'static str);

/// The state of the connection. One more request shows that the connection is open; the outcome does not contain it.
fn outcome(mut receiver: Receiver, is_open: bool) -> Outcome {
    if is_open {
        receiver.feed(NEXT);
        let next = receiver.seen.pop();
        let is_next = next.is_some_and(|next| next.target == "/next") && receiver.buffer.is_empty();
        return (receiver.seen, None, if is_next { "open" } else { "unusable" });
    }
    match receiver.stage {
        Stage::Over(error) => (receiver.seen, error.map(|error| error.status()), "closed"),
        Stage::Head if receiver.buffer.is_empty() => (receiver.seen, None, "open"),
        _ => (receiver.seen, None, "incomplete"),
    }
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
    let mut receiver = Receiver::new(Terms { head: HEAD, chunks: ChunkLimits::default(), body_bytes: BODY_BYTES });
    pieces.into_iter().for_each(|piece| receiver.feed(piece));
    let (seen, error, then) = outcome(receiver, case["then"] == "open");
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
