//! The opening handshake (RFC 6455 4.2): the checks of a request, and the head of the answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::http::error::RequestError;
use crate::http::head::Head;
use crate::http::response::{write_field, write_status_line};
use crate::http::{is_token, list_members};
use crate::websocket::extension::{Agreement, Offer};

/// Appended to the client's key (RFC 6455 4.2.2, item 5.4).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The only version of the protocol (RFC 6455 4.1, item 9).
const VERSION: &[u8] = b"13";

/// Bytes of a client's key before base64 (RFC 6455 4.1, item 7).
const KEY_BYTES: usize = 16;

const BAD_BODY: RequestError = RequestError::BadRequest("a WebSocket handshake with a body (RFC 6455 4.1)");
const BAD_KEY: RequestError =
    RequestError::BadRequest("Sec-WebSocket-Key is not one value of 16 bytes in base64 (RFC 6455 4.2.1)");
const NO_VERSION: RequestError =
    RequestError::BadRequest("a WebSocket handshake without one Sec-WebSocket-Version (RFC 6455 4.2.1)");
const BAD_SUBPROTOCOL: RequestError =
    RequestError::BadRequest("Sec-WebSocket-Protocol has a subprotocol that is not a token (RFC 6455 4.1, 11.3.4)");
const BAD_EXTENSIONS: RequestError =
    RequestError::BadRequest("Sec-WebSocket-Extensions is not a list of extensions (RFC 6455 9.1)");
const BAD_VERSION: RequestError = RequestError::UpgradeRequired("a WebSocket version other than 13 (RFC 6455 4.4)");

/// A valid handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The value of Sec-WebSocket-Accept.
    accept: String,
    /// The subprotocols that the client offers, in its order.
    pub subprotocols: Vec<String>,
    /// The first offer of compression that the server can keep.
    pub deflate: Option<Offer>,
}

impl Handshake {
    /// Reads a handshake. `None` means that the request is ordinary HTTP, since an Upgrade may be ignored (RFC 9110
    /// 7.8). Only a GET with `Connection: Upgrade` asks for a WebSocket. A faulty handshake is HTTP if the client
    /// offers other protocols too.
    ///
    /// # Errors
    /// [`RequestError::BadRequest`] for a handshake that breaks a rule, [`RequestError::UpgradeRequired`] for another
    /// version.
    pub fn of(head: &Head, bytes: &[u8]) -> Result<Option<Handshake>, RequestError> {
        if !head.has_upgrade || head.method.of(bytes) != b"GET" {
            return Ok(None);
        }
        let (mut protocols, mut is_asked_for) = (0, false);
        for member in values(head, bytes, b"upgrade").flat_map(list_members) {
            protocols += 1;
            is_asked_for |= member.eq_ignore_ascii_case(b"websocket");
        }
        let mut options = values(head, bytes, b"connection").flat_map(list_members);
        if !is_asked_for || !options.any(|option| option.eq_ignore_ascii_case(b"upgrade")) {
            return Ok(None);
        }
        match Handshake::checked(head, bytes) {
            Ok(handshake) => Ok(Some(handshake)),
            Err(_) if protocols > 1 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// RFC 6455 4.2.1, in its order.
    fn checked(head: &Head, bytes: &[u8]) -> Result<Handshake, RequestError> {
        let key = only(values(head, bytes, b"sec-websocket-key")).ok_or(BAD_KEY)?;
        if STANDARD.decode(key).map_or(true, |decoded| decoded.len() != KEY_BYTES) {
            return Err(BAD_KEY);
        }
        if only(values(head, bytes, b"sec-websocket-version")).ok_or(NO_VERSION)? != VERSION {
            return Err(BAD_VERSION);
        }
        if head.body.has_content() {
            return Err(BAD_BODY);
        }
        let mut subprotocols: Vec<String> = Vec::new();
        // The client must not repeat one (RFC 6455 4.1, item 10), but repetition does no harm.
        for member in values(head, bytes, b"sec-websocket-protocol").flat_map(list_members) {
            let name = str::from_utf8(member).ok().filter(|_| is_token(member)).ok_or(BAD_SUBPROTOCOL)?;
            if !subprotocols.iter().any(|other| other == name) {
                subprotocols.push(name.to_owned());
            }
        }
        let deflate = Offer::of(values(head, bytes, b"sec-websocket-extensions")).map_err(|_| BAD_EXTENSIONS)?;
        Ok(Handshake { accept: accept(key), subprotocols, deflate })
    }

    /// Writes the beginning of the answer: the status line and the fields of RFC 6455 4.2.2. The caller may add fields,
    /// and ends the head.
    pub fn write_answer(&self, subprotocol: Option<&str>, agreement: Option<&Agreement>, out: &mut Vec<u8>) {
        write_status_line(out, b"101 Switching Protocols");
        write_field(out, b"Upgrade", b"websocket");
        write_field(out, b"Connection", b"Upgrade");
        write_field(out, b"Sec-WebSocket-Accept", self.accept.as_bytes());
        if let Some(subprotocol) = subprotocol {
            write_field(out, b"Sec-WebSocket-Protocol", subprotocol.as_bytes());
        }
        if let Some(agreement) = agreement {
            write_field(out, b"Sec-WebSocket-Extensions", &agreement.answer());
        }
    }
}

/// The values of all fields with this name.
pub(super) fn values<'a>(head: &'a Head, bytes: &'a [u8], name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
    let fields = head.fields.iter().filter(move |field| field.name.of(bytes).eq_ignore_ascii_case(name));
    fields.map(move |field| field.value.of(bytes))
}

/// The value, if there is exactly one.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    values.next().filter(|_| values.next().is_none())
}

fn accept(key: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Parsed;
    use crate::http::limits::HeadLimits;
    use crate::websocket::extension::Compression;

    const LIMITS: HeadLimits = HeadLimits { request_line_bytes: 0, field_count: 0, field_bytes: 0, head_bytes: 65536 };

    const FIELDS: &[&str] = &[
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];

    fn examine(line: &str, fields: &[&str]) -> Result<Option<Handshake>, RequestError> {
        examine_bytes(format!("{line}\r\nHost: a\r\n{}\r\n\r\n", fields.join("\r\n")).as_bytes())
    }

    fn examine_bytes(bytes: &[u8]) -> Result<Option<Handshake>, RequestError> {
        let mut head = Head::new();
        assert_eq!(head.parse(bytes, &LIMITS), Ok(Parsed::Complete));
        Handshake::of(&head, bytes)
    }

    fn with(replaced: usize, field: &str) -> Result<Option<Handshake>, RequestError> {
        let mut fields = FIELDS.to_vec();
        fields[replaced] = field;
        examine("GET / HTTP/1.1", &fields)
    }

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        let handshake = examine("GET /chat HTTP/1.1", FIELDS).unwrap().unwrap();
        let mut answer = Vec::new();
        handshake.write_answer(Some("chat"), None, &mut answer);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n";
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    }

    #[test]
    fn requests_that_do_not_ask_for_a_websocket_are_http() {
        assert_eq!(with(0, "Upgrade: h2c"), Ok(None));
        assert_eq!(with(0, "X: y"), Ok(None));
        assert_eq!(examine("GET / HTTP/1.0", FIELDS), Ok(None));
        // RFC 9110 7.8: Upgrade counts only with the connection option, and any Upgrade may be ignored.
        assert_eq!(with(1, "Connection: close"), Ok(None));
        assert_eq!(with(1, "X: y"), Ok(None));
        for line in ["POST / HTTP/1.1", "HEAD / HTTP/1.1", "OPTIONS * HTTP/1.1", "get / HTTP/1.1"] {
            assert_eq!(examine(line, FIELDS), Ok(None), "{line}");
        }
    }

    #[test]
    fn a_faulty_handshake_of_a_client_that_offers_other_protocols_is_http() {
        let faulty = |upgrade: &str, replaced: usize, field: &str| {
            let mut fields = FIELDS.to_vec();
            fields[0] = upgrade;
            fields[replaced] = field;
            examine("GET / HTTP/1.1", &fields)
        };
        for upgrade in
            ["Upgrade: h2c, websocket", "Upgrade: websocket\r\nUpgrade: h2c", "Upgrade: websocket/13, WebSocket"]
        {
            for (replaced, field) in [(2, "X: y"), (3, "X: y"), (3, "Sec-WebSocket-Version: 8")] {
                assert_eq!(faulty(upgrade, replaced, field), Ok(None), "{upgrade}, {field}");
            }
            assert_eq!(faulty(upgrade, 1, "Connection: Upgrade\r\nContent-Length: 3"), Ok(None), "{upgrade}");
        }
        // Empty members do not count (RFC 9110 5.6.1.2).
        assert_eq!(faulty("Upgrade: ,websocket,", 2, "X: y"), Err(BAD_KEY));
    }

    #[test]
    fn spellings_of_browsers_and_proxies_are_accepted() {
        assert!(with(0, "Upgrade: h2c, WebSocket").unwrap().is_some());
        assert!(with(1, "connection: keep-alive, upgrade").unwrap().is_some());
        assert!(with(1, "Connection: Upgrade\r\nContent-Length: 0").unwrap().is_some());
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        assert_eq!(with(1, "Connection: Upgrade\r\nContent-Length: 3"), Err(BAD_BODY));
        for key in ["", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZQ==", "!!!!IHNhbXBsZSBub25jZQ=="] {
            assert_eq!(with(2, &format!("Sec-WebSocket-Key: {key}")), Err(BAD_KEY), "{key}");
        }
        assert_eq!(with(2, "X: y"), Err(BAD_KEY));
        assert_eq!(with(3, "Sec-WebSocket-Version: 8"), Err(BAD_VERSION));
        assert_eq!(with(3, "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 8"), Err(NO_VERSION));
        assert_eq!(with(3, "X: y"), Err(NO_VERSION));
    }

    #[test]
    fn subprotocols_keep_the_clients_order() {
        let handshake = with(0, "Upgrade: websocket\r\nSec-WebSocket-Protocol: b, a\r\nSec-WebSocket-Protocol: c,a");
        assert_eq!(handshake.unwrap().unwrap().subprotocols, ["b", "a", "c"]);
    }

    #[test]
    fn the_first_offer_of_compression_is_answered_and_a_broken_field_refused() {
        let with = |extensions: &str| with(0, &format!("Upgrade: websocket\r\nSec-WebSocket-Extensions: {extensions}"));
        let handshake =
            with("x, permessage-deflate; a\r\nSec-WebSocket-Extensions: permessage-deflate").unwrap().unwrap();
        let agreement = handshake.deflate.and_then(|offer| offer.agree(Compression::Takeover));
        let mut answer = Vec::new();
        handshake.write_answer(None, agreement.as_ref(), &mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.ends_with("\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"), "{answer}");
        assert_eq!(with("x").unwrap().unwrap().deflate, None);
        assert_eq!(with("permessage-deflate;"), Err(BAD_EXTENSIONS));
    }

    #[test]
    fn empty_members_are_no_subprotocols() {
        let handshake = with(0, "Upgrade: websocket\r\nSec-WebSocket-Protocol: ,a,, b ,\r\nSec-WebSocket-Protocol:");
        assert_eq!(handshake.unwrap().unwrap().subprotocols, ["a", "b"]);
    }

    #[test]
    fn a_subprotocol_that_is_no_token_is_refused() {
        for offered in [&b"a b"[..], b"a, b;c", b"\"a\"", b"a/b", b"a=b", b"a, \xff", "caf\u{e9}".as_bytes()] {
            let fields = FIELDS.join("\r\n");
            let before = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\nSec-WebSocket-Protocol: ");
            let bytes = [before.as_bytes(), offered, b"\r\n\r\n"].concat();
            assert_eq!(examine_bytes(&bytes), Err(BAD_SUBPROTOCOL), "{}", offered.escape_ascii());
        }
    }
}
