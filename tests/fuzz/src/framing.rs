//! The framing fields: one byte for the version, then lines. A line that begins with an even byte, such as `l5`, is a
//! Content-Length; one with an odd byte, such as `cchunked`, a Transfer-Encoding.

use _rmeinheld::http::Version;
use _rmeinheld::http::framing::request_body;
use _rmeinheld::http::head::{Head, Parsed};
use _rmeinheld::http::limits::HeadLimits;

use crate::input::Input;
use crate::reference::{body_framing, is_text, ows_trimmed};
use crate::shown;

const NO_LIMITS: HeadLimits =
    HeadLimits { request_line_bytes: 0, field_count: 0, field_bytes: 0, head_bytes: u32::MAX as usize };

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let version = if input.byte() % 2 == 0 { Version::Http11 } else { Version::Http10 };
    let (mut lengths, mut codings) = (Vec::new(), Vec::new());
    let mut message = match version {
        Version::Http11 => b"POST / HTTP/1.1\r\nHost: a\r\n".to_vec(),
        Version::Http10 => b"POST / HTTP/1.0\r\n".to_vec(),
    };
    for line in input.0.split(|&byte| byte == b'\n') {
        let Some((kind, value)) = line.split_first() else { continue };
        let (name, values) = match kind % 2 {
            0 => ("Content-Length:", &mut lengths),
            _ => ("Transfer-Encoding:", &mut codings),
        };
        values.push(ows_trimmed(value));
        message.extend([name.as_bytes(), value, b"\r\n"].concat());
    }
    message.extend(b"\r\n");

    let body = request_body(version, lengths.iter().copied(), codings.iter().copied()).map_err(|error| error.status());
    assert_eq!(body, body_framing(version, &lengths, &codings), "{}", shown(&message));

    // A head says the same, unless a value may not stand in one.
    let mut head = Head::new();
    let parsed = head.parse(&message, &NO_LIMITS).map_err(|error| error.status());
    let expected = match lengths.iter().chain(&codings).all(|value| value.iter().all(|&byte| is_text(byte))) {
        true => body,
        false => Err(400),
    };
    assert_eq!(parsed, expected.map(|_| Parsed::Complete), "{}", shown(&message));
    if let Ok(body) = expected {
        assert_eq!(head.body, body, "{}", shown(&message));
    }
}
