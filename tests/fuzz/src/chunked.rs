//! A chunked body: the limits, the cuts, and one byte that chooses. If the byte is even, the bytes of the peer follow.
//! If it is odd, data follows that is sent in chunks and has to come back.

use _rmeinheld::http::chunked::{ChunkLimits, ChunkedDecoder};

use crate::input::{Cuts, Input};
use crate::reference::{Chunks, chunks, is_text};
use crate::shown;

/// Bytes after the body on the connection.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n";

/// Extensions, with quoted ones in between.
const EXTENSIONS: [&[u8]; 7] = [b"", b"", b";a", b";a=b", b" \t; \ta \t= \tb", b";a;b=\"\"", b";a=\"\\\"\\\\ \t\""];
const TRAILERS: [&[u8]; 4] = [b"", b"X:\r\n", b"Te-: a\r\nX-Y: \t\xff \r\n", b"content-lengths: 5\r\n"];

/// The data, and the bytes consumed, or the status that refused, or neither while the body is unfinished.
type Outcome = (Vec<u8>, Result<Option<usize>, u16>);

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (limits, cuts) = (input.chunk_limits(), input.cuts());
    match input.byte() {
        choice if choice % 2 == 0 => compare(input.0, limits, &cuts),
        choice => there_and_back(input, choice, &cuts),
    }
}

fn compare(message: &[u8], limits: ChunkLimits, cuts: &Cuts) {
    let (data, expected) = chunks(message, &limits);
    let whole = feed(limits, [message]);
    let outcomes = [&whole, &feed(limits, cuts.pieces(message)), &feed(limits, message.chunks(1))];
    for (seen, end) in outcomes {
        assert_eq!(*end, whole.1, "{cuts:?} {}", shown(message));
        // Data that precedes an error is not handed out when both come in one piece.
        let is_right = if end.is_ok() { *seen == data } else { data.starts_with(seen) };
        assert!(is_right, "{}, not {}: {cuts:?} {}", shown(seen), shown(&data), shown(message));
    }
    let is_right = match expected {
        Chunks::Complete(length) => whole.1 == Ok(Some(length)),
        Chunks::Refused => matches!(whole.1, Err(400 | 431)),
        Chunks::Unfinished => matches!(whole.1, Ok(None) | Err(400 | 431)),
    };
    assert!(is_right, "{:?}, not {expected:?}: {}", whole.1, shown(message));
}

/// Two bytes are the sizes of chunks, in turn, and one more chooses how they are written.
fn there_and_back(mut input: Input, choice: u8, cuts: &Cuts) {
    let sizes = [input.byte(), input.byte()].map(|size| usize::from(size) + 1);
    let style = usize::from(input.byte());
    let data = input.0;
    let mut body = Vec::new();
    let mut rest = data;
    for (index, size) in sizes.into_iter().cycle().enumerate() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let zeros = "0".repeat((style + index) % 5);
        body.extend(match (style + index) % 2 {
            _ if chunk.is_empty() => format!("0{zeros}").into_bytes(),
            0 => format!("{zeros}{:x}", chunk.len()).into_bytes(),
            _ => format!("{zeros}{:X}", chunk.len()).into_bytes(),
        });
        body.extend(extension(style + index, chunk));
        body.extend(b"\r\n");
        if chunk.is_empty() {
            break;
        }
        body.extend([chunk, b"\r\n"].concat());
    }
    body.extend(TRAILERS[usize::from(choice / 2) % TRAILERS.len()]);
    body.extend(b"\r\n");

    let expected: Outcome = (data.to_vec(), Ok(Some(body.len())));
    body.extend(NEXT);
    let limits = ChunkLimits::default();
    assert_eq!(feed(limits, [&body[..]]), expected, "{}", shown(&body));
    assert_eq!(feed(limits, cuts.pieces(&body)), expected, "{cuts:?} {}", shown(&body));
}

fn extension(choice: usize, chunk: &[u8]) -> Vec<u8> {
    if let Some(extension) = EXTENSIONS.get(choice % (EXTENSIONS.len() + 1)) {
        return extension.to_vec();
    }
    let text = chunk.iter().copied().take(32).filter(|&byte| is_text(byte));
    let escaped = text.flat_map(|byte| if b"\"\\".contains(&byte) { vec![b'\\', byte] } else { vec![byte] });
    [&b"; q = \""[..], &escaped.collect::<Vec<u8>>(), b"\""].concat()
}

/// Feeds the pieces to a new decoder.
fn feed<'a>(limits: ChunkLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = ChunkedDecoder::new(limits);
    let (mut data, mut total) = (Vec::new(), 0);
    for mut piece in pieces {
        while !piece.is_empty() {
            let decoded = match decoder.decode(piece) {
                Ok(decoded) => decoded,
                Err(error) => {
                    assert!(decoder.decode(piece).is_err() && decoder.decode(b"0\r\n\r\n").is_err(), "goes on");
                    return (data, Err(error.status()));
                }
            };
            assert!(decoded.consumed > 0, "no progress");
            assert!(decoded.data.start <= decoded.data.end && decoded.data.end <= decoded.consumed);
            data.extend_from_slice(&piece[decoded.data]);
            total += decoded.consumed;
            piece = &piece[decoded.consumed..];
            assert_eq!(decoded.finished, decoder.is_finished());
            if decoded.finished {
                assert_eq!(decoder.decode(piece).map(|decoded| decoded.consumed), Ok(0), "goes on");
                return (data, Ok(Some(total)));
            }
        }
    }
    (data, Ok(None))
}
