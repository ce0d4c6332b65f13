//! A handshake: one byte that chooses, then an origin after one byte for its length. If the first byte is even, the
//! bytes of the peer follow. If it is odd, sixteen bytes of a key follow, and fields to add to a valid handshake.

use _rmeinheld::http::error::RequestError;
use _rmeinheld::http::head::{Head, Parsed};
use _rmeinheld::http::limits::HeadLimits;
use _rmeinheld::websocket::handshake::Handshake;
use _rmeinheld::websocket::origins::Origins;

use crate::input::Input;
use crate::reference::websocket::{base64, handshake};
use crate::reference::{self, crlf_lines, field};
use crate::shown;

/// The setting for the origin of the requested host.
const SAME: &str = "same";

const LIMITS: HeadLimits = HeadLimits { request_line_bytes: 0, field_count: 0, field_bytes: 0, head_bytes: 80 * 1024 };

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let choice = input.byte();
    let origin_bytes = input.byte();
    let origin = String::from_utf8_lossy(input.take(origin_bytes.into())).into_owned();
    let request = if choice % 2 == 0 { input.0.to_vec() } else { completed(input) };

    let mut head = Head::new();
    if head.parse(&request, &LIMITS) != Ok(Parsed::Complete) {
        return;
    }
    let plain = reference::head(&request, &LIMITS).expect("a head that the reference does not accept");
    let without = judge(&head, &request, &plain, None);
    // The field that is sent may hold several origins: a list with all these origins refuses nothing.
    let sent = plain.fields.iter().filter(|field| field.0.eq_ignore_ascii_case(b"origin"));
    let sent: Option<Vec<String>> = sent.map(|field| String::from_utf8(field.1.to_vec()).ok()).collect();
    if let Some(sent) = sent.as_ref().filter(|sent| !sent.iter().any(|origin| origin == SAME)) {
        assert_eq!(judge(&head, &request, &plain, Some(sent)), without, "{}", shown(&request));
    }
    // In a list this word stands for the requested host.
    let listed = if origin == SAME { Vec::new() } else { vec![origin] };
    for origins in [&[][..], &listed[..]] {
        let with = judge(&head, &request, &plain, Some(origins));
        assert!(with == without || with == Err(403), "{with:?}, not {without:?}: {}", shown(&request));
    }
}

/// A request with all that a handshake needs, and more.
fn completed(mut input: Input) -> Vec<u8> {
    let mut key = input.take(16).to_vec();
    key.resize(16, 0);
    let mut request = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n".to_vec();
    request.extend(format!("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n", base64(&key)).into_bytes());
    request.extend([input.0, b"\r\n\r\n"].concat());
    request
}

/// The handshake, or the status that refuses it, once it is what the reference says.
fn judge(
    head: &Head,
    request: &[u8],
    plain: &reference::Head,
    origins: Option<&[String]>,
) -> Result<Option<Handshake>, u16> {
    let of = |bytes: &[u8]| read(head, bytes, origins);
    let seen = of(request);
    // Bytes after the head play no part.
    assert_eq!(of(&request[..head.length]), seen, "{}", shown(request));
    match (&seen, handshake(plain, origins)) {
        (Ok(None), None) => {}
        (Ok(Some(seen)), Some(expected)) if expected.faults.is_empty() => {
            assert!(seen.subprotocols.iter().map(String::as_bytes).eq(expected.subprotocols), "{}", shown(request));
            check_answer(seen, None, &expected.accept);
            for subprotocol in &seen.subprotocols {
                check_answer(seen, Some(subprotocol), &expected.accept);
            }
        }
        (Err(error), Some(expected)) if expected.faults.contains(&error.status()) => {}
        (_, expected) => panic!("{seen:?}, not {expected:?}: {origins:?} {}", shown(request)),
    }
    seen.map_err(|error| error.status())
}

/// A handshake whose origins are checked, as the server does it.
fn read(head: &Head, bytes: &[u8], origins: Option<&[String]>) -> Result<Option<Handshake>, RequestError> {
    let seen = Handshake::of(head, bytes)?;
    if let (Some(_), Some(origins)) = (&seen, origins) {
        Origins::new(origins).check(head, bytes, None)?;
    }
    Ok(seen)
}

/// The answer has the fields of RFC 6455 4.2.2 and nothing that a client could have put between them.
fn check_answer(handshake: &Handshake, subprotocol: Option<&str>, accept: &str) {
    let mut answer = Vec::new();
    handshake.write_answer(subprotocol, None, &mut answer);
    let lines = crlf_lines(&answer).expect("CR or LF within a line");
    assert_eq!(lines[0], b"HTTP/1.1 101 Switching Protocols");
    let seen: Vec<_> = lines[1..].iter().map(|line| field(line).expect("not a field line")).collect();
    let mut expected: Vec<(&[u8], &[u8])> =
        vec![(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accept.as_bytes())];
    expected.extend(subprotocol.map(|chosen| (&b"Sec-WebSocket-Protocol"[..], chosen.as_bytes())));
    assert_eq!(seen, expected, "{}", shown(&answer));
}
