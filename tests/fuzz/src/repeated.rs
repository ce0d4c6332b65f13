//! Heads that connections repeat. The limits, then three request lines and three field sections, each with its length
//! before it (one byte of a line, two of a section). Each pair of further bytes is one request.
//!
//! Every head has to come to the same as on a new connection, and as in the reference, whatever was known before it.

use _rmeinheld::http::error::RequestError;
use _rmeinheld::http::head::known::{KnownHeads, LastSection};
use _rmeinheld::http::head::{Head, Parsed};
use _rmeinheld::http::limits::HeadLimits;

use crate::head::content;
use crate::input::Input;
use crate::{reference, shown};

const CHOICES: usize = 3;
/// Bytes that may follow a head in the buffer.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\n";

/// A connection. Its head is reused, as the server does.
#[derive(Default)]
struct Connection {
    head: Head,
    last: LastSection,
}

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let limits = input.limits();
    let lines = [(); CHOICES].map(|()| {
        let length = input.byte().into();
        input.take(length)
    });
    let sections = [(); CHOICES].map(|()| {
        let length = input.short().into();
        input.take(length)
    });
    let mut known = KnownHeads::default();
    let mut connections: [Connection; CHOICES] = Default::default();
    while !input.0.is_empty() {
        let (choice, detail) = (usize::from(input.byte()), input.byte());
        // The bytes of the choice: connection, line, section, and how the request comes.
        let connection = &mut connections[choice % CHOICES];
        let mut message = lines[choice / 3 % CHOICES].to_vec();
        if detail & 0x80 != 0 {
            // Enough different sections to make some lose their places.
            message.extend(format!("X-Client: {}\r\n", detail & 0x7f).bytes());
        }
        message.extend(sections[choice / 9 % CHOICES]);
        let beginning = match choice / 27 {
            1 => {
                message.extend(NEXT);
                None
            }
            2 => {
                *connection = Connection::default();
                None
            }
            3.. => message.get(..message.len() * usize::from(detail & 0x7f) / 0x80),
            _ => None,
        };
        let arrived = beginning.map(|bytes| show(bytes, &limits, connection, &mut known));
        if matches!(arrived, None | Some(Ok(Parsed::Partial))) {
            let parsed = show(&message, &limits, connection, &mut known);
            if arrived.is_none() {
                assert_eq!(parsed, Head::new().parse(&message, &limits), "{}", shown(&message));
            }
        }
        // As after an answer, and after an error.
        connection.head.reset();
    }
}

/// Shows a connection the beginning of a request, or all of it.
fn show(
    message: &[u8],
    limits: &HeadLimits,
    connection: &mut Connection,
    known: &mut KnownHeads,
) -> Result<Parsed, RequestError> {
    let parsed = connection.head.parse_repeated(message, limits, known, &mut connection.last);
    let seen = (parsed == Ok(Parsed::Complete)).then(|| content(&connection.head, message));
    assert_eq!(seen, reference::head(message, limits), "{parsed:?}: {}", shown(message));
    parsed
}
