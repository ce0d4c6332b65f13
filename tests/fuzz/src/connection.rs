//! A connection: the limits of heads and of chunked bodies, two bytes for the longest body, the cuts, then the requests
//! as they come, one after another.

use _rmeinheld::http::chunked::ChunkLimits;
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::limits::HeadLimits;

use crate::input::{Cuts, Input};
use crate::receiver::{Receiver, Seen, Stage, Terms};
use crate::reference::{Chunks, chunks, head};
use crate::{HEAD_STATUSES, shown};

/// Bytes that would be served if they were read as a request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.0\r\n\r\n";

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let terms =
        Terms { head: input.limits(), chunks: input.chunk_limits(), body_bytes: u64::from(input.short()).max(1) };
    let cuts = input.cuts();
    let stream = input.0;

    let whole = receive(&terms, [stream]);
    let (expected, is_over) = requests(stream, &terms.head, &terms.chunks, terms.body_bytes);
    assert_eq!(whole.seen, expected, "{}", shown(stream));
    assert!(matches!(whole.stage, Stage::Over(None)) == is_over, "{}", shown(stream));

    assert_alike(&whole, &receive(&terms, cuts.pieces(stream)), &terms, stream, &cuts);
    assert_alike(&whole, &receive(&terms, stream.chunks(1)), &terms, stream, &Cuts::SINGLE);
    assert_is_over(whole);
}

fn receive<'a>(terms: &Terms, pieces: impl IntoIterator<Item = &'a [u8]>) -> Receiver {
    let mut receiver = Receiver::new(*terms);
    pieces.into_iter().for_each(|piece| receiver.feed(piece));
    receiver
}

/// Have the pieces led to the same requests, and to the same end? Of several faults, pieces may meet another one first.
/// One way may also still wait for the end of a head that the other has refused, but then it refuses it at the end.
fn assert_alike(whole: &Receiver, pieces: &Receiver, terms: &Terms, stream: &[u8], cuts: &Cuts) {
    assert_eq!(pieces.seen, whole.seen, "{cuts:?} {}", shown(stream));
    let is_alike = match (&pieces.stage, &whole.stage) {
        (Stage::Over(Some(_)), Stage::Over(Some(_))) => true,
        (Stage::Head, Stage::Over(Some(_))) | (Stage::Over(Some(_)), Stage::Head) => {
            let ended = [stream, b"\r\n\r\n"].concat();
            let later = receive(terms, cuts.pieces(stream).chain([&b"\r\n\r\n"[..]]));
            let at_once = receive(terms, [&ended[..]]);
            let is_refused = |receiver: &Receiver| {
                matches!(receiver.stage, Stage::Over(Some(_))) && receiver.seen.len() == whole.seen.len()
            };
            is_refused(&later) && is_refused(&at_once)
        }
        (Stage::Over(None), Stage::Over(None)) | (Stage::Head, Stage::Head) => pieces.buffer == whole.buffer,
        (Stage::Length(left), Stage::Length(expected)) => left == expected && pieces.current == whole.current,
        (Stage::Chunked(_, left), Stage::Chunked(_, expected)) => left == expected && pieces.current == whole.current,
        _ => false,
    };
    assert!(is_alike, "{cuts:?} {}", shown(stream));
}

/// After an error, and after the last request, nothing is read as a request.
fn assert_is_over(mut receiver: Receiver) {
    let Stage::Over(error) = receiver.stage else { return };
    if let Some(error) = error {
        assert!(HEAD_STATUSES.contains(&error.status()) || error.status() == 413, "{error:?}");
    }
    let count = receiver.seen.len();
    receiver.feed(SMUGGLED);
    assert!(receiver.seen.len() == count && matches!(receiver.stage, Stage::Over(_)));
}

/// The requests of a stream as the reference sees them. Has the last request ended the connection?
fn requests(stream: &[u8], limits: &HeadLimits, chunk_limits: &ChunkLimits, body_bytes: u64) -> (Vec<Seen>, bool) {
    let mut seen = Vec::new();
    let mut rest = stream;
    while let Some(head) = head(rest, limits) {
        // Not implemented unless a setting permits it.
        if head.method == b"CONNECT" {
            break;
        }
        rest = &rest[head.length..];
        let (body, length) = match head.body {
            BodyFraming::None => (Vec::new(), 0),
            BodyFraming::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= rest.len() => (rest[..length].to_vec(), length),
                _ => break,
            },
            BodyFraming::Chunked => match chunks(rest, chunk_limits) {
                (data, Chunks::Complete(length)) => (data, length),
                _ => break,
            },
        };
        if body.len() as u64 > body_bytes {
            break;
        }
        rest = &rest[length..];
        let text = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect();
        seen.push(Seen {
            method: text(head.method),
            target: text(head.target),
            query: text(head.query),
            body: text(&body),
        });
        if !head.keep_alive {
            return (seen, true);
        }
    }
    (seen, false)
}
