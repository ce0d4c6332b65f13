//! The response of an application: checks of its status and fields, the framing of the body, and the bytes of the head.
//!
//! An application that passes a CR or LF on from its user would let that user write the rest of the response (response
//! splitting). Each status and each field is therefore checked against PEP 3333 and RFC 9110 5 before it is written.
//! Errors here are faults of the application, answered with 500 and a log line. An error names the broken rule and
//! never repeats the value.
//!
//! The status line says HTTP/1.1 to clients of either version (RFC 9110 6.2). [`exchange`](super::exchange) counts the
//! body and decides the value of the Connection field.

use std::fmt;

use super::framing::parse_content_length;
use super::{Version, is_text_byte, is_token, trim};

/// The chunk that ends a body, with an empty trailer section (RFC 9112 7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The bytes after the data of each chunk (RFC 9112 7.1).
pub const CHUNK_END: &[u8] = b"\r\n";
/// The interim answer to `Expect: 100-continue` (RFC 9110 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A fault of the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseError {
    /// The status is not three digits, optionally with a space and text. The string names the rule.
    BadStatus(&'static str),
    /// A field name is not a token.
    BadFieldName,
    /// A field value is not allowed. The string names the rule.
    BadFieldValue(&'static str),
}

impl fmt::Display for ResponseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BadStatus(rule) | Self::BadFieldValue(rule) => rule,
            Self::BadFieldName => "the name of a response header is not a token (PEP 3333, RFC 9110 5.1)",
        })
    }
}

impl std::error::Error for ResponseError {}

/// The meaning of an application's field for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// No meaning: the field is passed on.
    Other,
    /// The length that the application declares.
    ContentLength(u64),
    /// `Transfer-Encoding`, which the server decides.
    TransferEncoding,
    /// `Connection`, which the server decides.
    Connection,
    /// `Date`: the server then adds no Date of its own.
    Date,
    /// `Server`: the server then adds no Server of its own.
    Server,
    /// `Upgrade`, which is passed on in a 101 answer only.
    Upgrade,
    /// Another hop-by-hop field, which an application must not send (PEP 3333; RFC 9110 7.6.1).
    HopByHop,
}

/// The framing of a response's body on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// No byte of body, even if the application yields some.
    None,
    /// A body of this number of bytes.
    Length(u64),
    /// A body in chunks (RFC 9112 7.1).
    Chunked,
    /// A body that lasts until the connection is closed (RFC 9112 6.3, item 8).
    UntilClose,
    /// No body: a tunnel follows the head until the connection is closed (RFC 9112 6.3, item 2).
    Tunnel,
}

/// The methods of requests whose responses have a framing of their own (RFC 9112 6.3, items 1 and 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodKind {
    /// HEAD: the fields of the answer to GET, and no body.
    Head,
    /// CONNECT: a 2xx makes the connection a tunnel.
    Connect,
    /// All others.
    #[default]
    Other,
}

impl MethodKind {
    /// The kind of a method. Method names are case-sensitive (RFC 9110 9.1).
    pub fn of(method: &[u8]) -> Self {
        match method {
            b"HEAD" => Self::Head,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

/// The framing of one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePlan {
    /// The framing of the body.
    pub body: ResponseBody,
    /// The Content-Length of the head, which replaces the application's own field. `None` sends no such field.
    pub send_content_length: Option<u64>,
    /// Does the framing leave the connection usable for another request?
    pub allows_reuse: bool,
}

/// Checks the status that an application passes to `start_response`. Returns its code, 100 to 999.
///
/// # Errors
///
/// [`ResponseError::BadStatus`] unless the status is `[0-9]{3}( text)?` with text of HTAB, SP, VCHAR and obs-text
/// (PEP 3333, RFC 9112 4).
pub fn parse_status(status: &[u8]) -> Result<u16, ResponseError> {
    let [hundreds @ b'0'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] = status else {
        return Err(ResponseError::BadStatus("the status does not begin with three digits (PEP 3333)"));
    };
    if *hundreds == b'0' {
        return Err(ResponseError::BadStatus("the status code is below 100 (PEP 3333, RFC 9110 15)"));
    }
    match rest {
        [] => {}
        [b' ', reason @ ..] if reason.iter().all(|&byte| is_text_byte(byte)) => {}
        [b' ', ..] => {
            return Err(ResponseError::BadStatus("a control character in the status (PEP 3333, RFC 9112 4)"));
        }
        _ => return Err(ResponseError::BadStatus("no space after the status code (PEP 3333)")),
    }
    Ok([hundreds, tens, ones].iter().fold(0, |code, digit| code * 10 + u16::from(**digit - b'0')))
}

/// Checks a field of an application and returns its meaning for the server.
///
/// White space around the value is tolerated; [`write_field`] leaves it out.
///
/// # Errors
///
/// [`ResponseError::BadFieldName`] unless the name is a token. [`ResponseError::BadFieldValue`] when the value has a
/// control character other than HTAB, or a Content-Length is not a number (RFC 9110 5.1, 5.5, 8.6).
pub fn check_field(name: &[u8], value: &[u8]) -> Result<FieldKind, ResponseError> {
    if !is_token(name) {
        return Err(ResponseError::BadFieldName);
    }
    // A fold without an early exit is vectorised.
    if !value.iter().fold(true, |is_text, &byte| is_text & is_text_byte(byte)) {
        return Err(ResponseError::BadFieldValue(if value.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            "CR or LF in a response field value (PEP 3333, RFC 9110 5.5)"
        } else {
            "a control character in a response field value (PEP 3333, RFC 9110 5.5)"
        }));
    }
    let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
    Ok(match name.len() {
        2 if is(b"te") => FieldKind::HopByHop,
        4 if is(b"date") => FieldKind::Date,
        6 if is(b"server") => FieldKind::Server,
        7 if is(b"upgrade") => FieldKind::Upgrade,
        7 if is(b"trailer") => FieldKind::HopByHop,
        8 if is(b"trailers") => FieldKind::HopByHop,
        10 if is(b"connection") => FieldKind::Connection,
        10 if is(b"keep-alive") => FieldKind::HopByHop,
        14 if is(b"content-length") => FieldKind::ContentLength(
            parse_content_length(trim(value))
                .ok_or(ResponseError::BadFieldValue("the Content-Length is not a number (PEP 3333, RFC 9110 8.6)"))?,
        ),
        16 if is(b"proxy-connection") => FieldKind::HopByHop,
        17 if is(b"transfer-encoding") => FieldKind::TransferEncoding,
        18 if is(b"proxy-authenticate") => FieldKind::HopByHop,
        19 if is(b"proxy-authorization") => FieldKind::HopByHop,
        _ => FieldKind::Other,
    })
}

/// Decides how a response is framed (RFC 9112 6.3, RFC 9110 8.6).
///
/// * `declared_length`: the application's Content-Length, `None` without one.
/// * `known_length`: the size of a result whose size is known, such as a list of one item; `None` otherwise.
///
/// A declared length that is known to be wrong is kept, since the application's other fields may depend on it. The
/// connection is closed afterwards.
pub fn plan(
    request_version: Version,
    method: MethodKind,
    status: u16,
    declared_length: Option<u64>,
    known_length: Option<u64>,
) -> ResponsePlan {
    let without_body =
        |send_content_length| ResponsePlan { body: ResponseBody::None, send_content_length, allows_reuse: true };
    match (status, declared_length, known_length) {
        // RFC 9110 9.3.6: neither Content-Length nor Transfer-Encoding, even if the application declares a length.
        (200..=299, _, _) if method == MethodKind::Connect => {
            ResponsePlan { body: ResponseBody::Tunnel, send_content_length: None, allows_reuse: false }
        }
        // RFC 9110 8.6: no Content-Length in 1xx and 204.
        (100..=199 | 204, _, _) => without_body(None),
        // RFC 9110 15.3.6: a 205 has no content and says so.
        (205, _, _) => without_body(Some(0)),
        // RFC 9110 8.6: the length that a 200 would have had, which only the application knows.
        (304, declared, _) => without_body(declared),
        // RFC 9110 9.3.2: the fields of the answer to GET. An application that sends no body to HEAD says nothing
        // about the length of that answer.
        (_, declared, known) if method == MethodKind::Head => {
            without_body(declared.or(known.filter(|&length| length != 0)))
        }
        (_, Some(declared), known) => ResponsePlan {
            body: ResponseBody::Length(declared),
            send_content_length: Some(declared),
            allows_reuse: known.is_none_or(|known| known == declared),
        },
        (_, None, Some(known)) => {
            ResponsePlan { body: ResponseBody::Length(known), send_content_length: Some(known), allows_reuse: true }
        }
        (_, None, None) if request_version == Version::Http11 => {
            ResponsePlan { body: ResponseBody::Chunked, send_content_length: None, allows_reuse: true }
        }
        (_, None, None) => {
            ResponsePlan { body: ResponseBody::UntilClose, send_content_length: None, allows_reuse: false }
        }
    }
}

/// Writes the status line of a status that [`parse_status`] accepted.
pub fn write_status_line(out: &mut Vec<u8>, status: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status);
    // RFC 9112 4: the space is sent even when there is no reason phrase.
    out.extend_from_slice(if status.len() == 3 { b" \r\n" } else { b"\r\n" });
}

/// Writes a field line that [`check_field`] accepted.
pub fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let value = trim(value);
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the server's own fields: Server and Date unless the application sent its own, Content-Length or
/// Transfer-Encoding, and Connection. The empty line that ends the head is not written.
///
/// `connection_option` is [`Exchange::connection_option`](super::exchange::Exchange::connection_option). An empty
/// `server` sends no Server field.
pub fn write_common(
    out: &mut Vec<u8>,
    plan: &ResponsePlan,
    connection_option: Option<&[u8]>,
    has_server: bool,
    has_date: bool,
    date: &[u8; 29],
    server: &[u8],
) {
    if !has_server && !server.is_empty() {
        write_field(out, b"Server", server);
    }
    if !has_date {
        write_field(out, b"Date", date);
    }
    if let Some(length) = plan.send_content_length {
        out.extend_from_slice(b"Content-Length: ");
        write_decimal(out, length);
        out.extend_from_slice(b"\r\n");
    } else if plan.body == ResponseBody::Chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(option) = connection_option {
        write_field(out, b"Connection", option);
    }
}

/// The size line of a chunk, whose data and [`CHUNK_END`] follow.
pub struct ChunkHead {
    /// The line, at the end.
    bytes: [u8; ChunkHead::LONGEST],
    start: usize,
}

impl ChunkHead {
    const LONGEST: usize = size_of::<usize>() * 2 + CHUNK_END.len();

    /// The size line of a chunk of `len` bytes.
    ///
    /// `len` must not be 0: an empty chunk ends the body ([`LAST_CHUNK`]), so callers skip empty items.
    #[inline]
    pub fn new(len: usize) -> ChunkHead {
        debug_assert_ne!(len, 0, "an empty chunk would end the body");
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [0; ChunkHead::LONGEST];
        let (digits, end) = bytes.split_at_mut(ChunkHead::LONGEST - CHUNK_END.len());
        end.copy_from_slice(CHUNK_END);
        let mut rest = len;
        let mut start = digits.len();
        for slot in digits.iter_mut().rev() {
            *slot = HEX[rest % 16];
            rest /= 16;
            start -= 1;
            if rest == 0 {
                break;
            }
        }
        ChunkHead { bytes, start }
    }

    /// The bytes of the line.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// The small HTML page of an error.
pub fn error_body(status: u16) -> Vec<u8> {
    let title = error_title(status);
    [
        b"<!DOCTYPE html>\n<html><head><title>",
        &title[..],
        b"</title></head><body><h1>",
        &title,
        b"</h1></body></html>\n",
    ]
    .concat()
}

fn error_title(status: u16) -> Vec<u8> {
    let mut title = Vec::with_capacity(40);
    write_decimal(&mut title, u64::from(status));
    title.push(b' ');
    title.extend_from_slice(reason(status).as_bytes());
    title
}

/// The complete answer to a request that fails before or outside the application: a small page, then `close`.
///
/// `request` has the received bytes of the request, if any: the answer to HEAD has no body (RFC 9110 9.3.2).
pub fn error_page(status: u16, request: &[u8], date: &[u8; 29], server: &[u8]) -> Vec<u8> {
    let title = error_title(status);
    let body = error_body(status);
    let plan = ResponsePlan {
        body: ResponseBody::Length(body.len() as u64),
        send_content_length: Some(body.len() as u64),
        allows_reuse: false,
    };

    let mut out = Vec::with_capacity(512);
    write_status_line(&mut out, &title);
    write_common(&mut out, &plan, Some(b"close"), false, false, date, server);
    write_field(&mut out, b"Content-Type", b"text/html; charset=utf-8");
    if status == 426 {
        // RFC 9110 7.8, 15.5.22, RFC 6455 4.4: the protocol that the client should ask for.
        write_field(&mut out, b"Connection", b"upgrade");
        write_field(&mut out, b"Upgrade", b"websocket");
        write_field(&mut out, b"Sec-WebSocket-Version", b"13");
    }
    out.extend_from_slice(b"\r\n");
    if !request.strip_prefix(b"\r\n").unwrap_or(request).starts_with(b"HEAD ") {
        out.extend_from_slice(&body);
    }
    out
}

/// The reason phrase of a status code (IANA registry of 2025); `Unknown` for a code that is not registered.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400..=499 => client_error_reason(status),
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "Unknown",
    }
}

fn client_error_reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        _ => "Unknown",
    }
}

/// Appends a number in decimal, without the formatting machinery of std.
fn write_decimal(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut start = digits.len();
    for slot in digits.iter_mut().rev() {
        *slot = b'0' + (rest % 10) as u8;
        rest /= 10;
        start -= 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The value of the first field with this name in a rendered head.
pub fn find_field<'a>(fields: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    fields.split(|&byte| byte == b'\n').find_map(|line| {
        let at = memchr::memchr(b':', line)?;
        let (field, value) = line.split_at(at);
        field.eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    #[rustfmt::skip] // tables
    fn a_status_is_three_digits_and_text() {
        let accepted: [(&[u8], u16); 6] = [
            (b"200 OK", 200),
            (b"200", 200),
            (b"404 ", 404),
            (b"999 What\tever", 999),
            (b"100 Continue", 100),
            (b"418 I'm a t\xe9apot", 418),
        ];
        for (status, code) in accepted {
            assert_eq!(parse_status(status), Ok(code), "{status:?}");
        }
        let refused: [&[u8]; 17] = [
            b"", b"2", b"20", b"20 OK", b"2000 OK", b"099 Low", b"000", b"OK", b" 200 OK", b"+20 OK", b"200OK",
            b"200\tOK", b"200 OK\r\nSet-Cookie: x", b"200 OK\n", b"200 \0", b"200 \x7f", b"\xb2\xb2\xb2 OK",
        ];
        for status in refused {
            assert!(
                matches!(parse_status(status), Err(ResponseError::BadStatus(_))),
                "{status:?}"
            );
        }
    }

    #[test]
    #[rustfmt::skip] // tables
    fn fields_that_concern_the_server_are_recognised_in_any_letter_case() {
        for (name, kind) in [
            ("Date", FieldKind::Date),
            ("Server", FieldKind::Server),
            ("Upgrade", FieldKind::Upgrade),
            ("Connection", FieldKind::Connection),
            ("Transfer-Encoding", FieldKind::TransferEncoding),
            ("Content-Length", FieldKind::ContentLength(7)),
            ("Keep-Alive", FieldKind::HopByHop), ("TE", FieldKind::HopByHop), ("Trailer", FieldKind::HopByHop),
            ("Trailers", FieldKind::HopByHop), ("Proxy-Connection", FieldKind::HopByHop),
            ("Proxy-Authenticate", FieldKind::HopByHop), ("Proxy-Authorization", FieldKind::HopByHop),
            ("X-Powered-By", FieldKind::Other), ("Content-Lengths", FieldKind::Other), ("Dat", FieldKind::Other),
        ] {
            for name in [name.to_string(), name.to_lowercase(), name.to_uppercase()] {
                assert_eq!(check_field(name.as_bytes(), b" 7\t"), Ok(kind), "{name}");
            }
        }
    }

    // CVE-2018-1000164 (Gunicorn) and the same vulnerability of other servers.
    #[test]
    fn a_field_that_would_split_the_response_is_refused() {
        let names: [&[u8]; 10] = [b"", b"X Y", b"X:", b" X", b"X\r\nY", b"X\n", b"X\0", b"\xe4", b"X(", b"X-\x7f"];
        for name in names {
            assert_eq!(check_field(name, b"value"), Err(ResponseError::BadFieldName), "{name:?}");
        }
        for byte in 0..=u8::MAX {
            let outcome = check_field(b"X", &[b'a', byte, b'b']);
            match byte {
                b'\r' | b'\n' => assert!(outcome.unwrap_err().to_string().starts_with("CR or LF")),
                b'\t' | 0x20..=0x7E | 0x80.. => assert_eq!(outcome, Ok(FieldKind::Other), "{byte:#04x}"),
                _ => assert!(outcome.unwrap_err().to_string().starts_with("a control"), "{byte:#04x}"),
            }
        }
        assert!(check_field(b"X", b"a\r\nSet-Cookie: x").is_err());
        assert!(check_field(b"X", b"a\r\n b").is_err());
        assert_eq!(check_field(b"X", b""), Ok(FieldKind::Other));
    }

    #[test]
    fn a_content_length_of_the_application_is_a_number() {
        for value in [&b""[..], b"-1", b"+1", b"1,1", b"1 1", b"0x1", b"abc", b"18446744073709551616"] {
            assert!(matches!(check_field(b"Content-Length", value), Err(ResponseError::BadFieldValue(_))), "{value:?}");
        }
    }

    #[test]
    fn each_response_has_its_framing() {
        use MethodKind::{Connect, Head, Other};
        use ResponseBody::{Chunked, Length, None as NoBody, Tunnel, UntilClose};
        use Version::{Http10, Http11};
        type Row = (Version, MethodKind, u16, [Option<u64>; 2], ResponseBody, Option<u64>, bool);
        let table: [Row; 30] = [
            // version, method, status, [declared, known] -> body, Content-Length, allows reuse
            (Http11, Other, 200, [Some(5), None], Length(5), Some(5), true),
            (Http11, Other, 200, [Some(5), Some(5)], Length(5), Some(5), true),
            (Http11, Other, 200, [Some(5), Some(4)], Length(5), Some(5), false),
            (Http11, Other, 200, [Some(5), Some(6)], Length(5), Some(5), false),
            (Http11, Other, 200, [None, Some(6)], Length(6), Some(6), true),
            (Http11, Other, 200, [None, Some(0)], Length(0), Some(0), true),
            (Http11, Other, 200, [None, None], Chunked, None, true),
            (Http10, Other, 200, [None, None], UntilClose, None, false),
            (Http10, Other, 200, [Some(5), None], Length(5), Some(5), true),
            (Http10, Other, 404, [None, Some(9)], Length(9), Some(9), true),
            (Http11, Head, 200, [Some(5), None], NoBody, Some(5), true),
            (Http11, Head, 200, [None, Some(6)], NoBody, Some(6), true),
            (Http11, Head, 200, [Some(5), Some(0)], NoBody, Some(5), true),
            (Http11, Head, 200, [None, Some(0)], NoBody, None, true),
            (Http11, Head, 200, [None, None], NoBody, None, true),
            (Http10, Head, 200, [None, None], NoBody, None, true),
            (Http11, Other, 204, [Some(5), Some(5)], NoBody, None, true),
            (Http10, Other, 204, [None, None], NoBody, None, true),
            (Http11, Other, 101, [Some(5), None], NoBody, None, true),
            (Http11, Head, 204, [Some(5), None], NoBody, None, true),
            (Http11, Other, 304, [Some(5), None], NoBody, Some(5), true),
            (Http11, Other, 304, [None, Some(5)], NoBody, None, true),
            (Http10, Head, 304, [None, None], NoBody, None, true),
            (Http11, Other, 205, [None, None], NoBody, Some(0), true),
            (Http11, Connect, 200, [Some(5), Some(5)], Tunnel, None, false),
            (Http11, Connect, 200, [None, None], Tunnel, None, false),
            (Http10, Connect, 204, [Some(5), None], Tunnel, None, false),
            (Http11, Connect, 205, [None, None], Tunnel, None, false),
            (Http11, Connect, 405, [None, Some(5)], Length(5), Some(5), true),
            (Http11, Connect, 502, [None, None], Chunked, None, true),
        ];
        for (version, method, status, [declared, known], body, send_content_length, allows_reuse) in table {
            let row = format!("{version:?} {method:?} {status} {declared:?} {known:?}");
            let expected = ResponsePlan { body, send_content_length, allows_reuse };
            assert_eq!(plan(version, method, status, declared, known), expected, "{row}");
        }
    }

    #[test]
    fn methods_are_distinguished_by_their_exact_names() {
        for (method, kind) in [
            (&b"HEAD"[..], MethodKind::Head),
            (b"CONNECT", MethodKind::Connect),
            (b"head", MethodKind::Other),
            (b"Connect", MethodKind::Other),
            (b"CONNECTED", MethodKind::Other),
            (b"GET", MethodKind::Other),
        ] {
            assert_eq!(MethodKind::of(method), kind);
        }
    }

    #[test]
    fn the_status_line_always_has_its_second_space() {
        assert_eq!(written(|out| write_status_line(out, b"200 OK")), "HTTP/1.1 200 OK\r\n");
        assert_eq!(written(|out| write_status_line(out, b"200")), "HTTP/1.1 200 \r\n");
        assert_eq!(written(|out| write_status_line(out, b"200 ")), "HTTP/1.1 200 \r\n");
    }

    #[test]
    fn field_lines_lose_the_white_space_around_their_value() {
        assert_eq!(written(|out| write_field(out, b"X-A", b" \tb c\t")), "X-A: b c\r\n");
        assert_eq!(written(|out| write_field(out, b"X-A", b"")), "X-A: \r\n");
    }

    #[test]
    fn the_server_adds_its_own_fields() {
        let plan = |body, send_content_length| ResponsePlan { body, send_content_length, allows_reuse: true };
        let common = |plan: ResponsePlan, option: Option<&[u8]>, has_both| {
            written(|out| write_common(out, &plan, option, has_both, has_both, DATE, b"rmeinheld"))
        };
        assert_eq!(
            common(plan(ResponseBody::Length(12), Some(12)), None, false),
            "Server: rmeinheld\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 12\r\n"
        );
        assert_eq!(
            common(plan(ResponseBody::Chunked, None), Some(b"close"), true),
            "Transfer-Encoding: chunked\r\nConnection: close\r\n"
        );
        assert_eq!(common(plan(ResponseBody::None, None), Some(b"keep-alive"), true), "Connection: keep-alive\r\n");
        assert_eq!(common(plan(ResponseBody::Tunnel, None), None, true), "");
        let unnamed = plan(ResponseBody::None, None);
        assert_eq!(written(|out| write_common(out, &unnamed, None, false, true, DATE, b"")), "");
    }

    #[test]
    fn numbers_are_written_as_std_would() {
        for number in [0, 1, 9, 10, 15, 16, 99, 255, 256, 4096, 65_535, 1 << 32, u64::MAX - 1, u64::MAX] {
            assert_eq!(written(|out| write_decimal(out, number)), number.to_string());
            if number != 0 {
                let len = number as usize;
                assert_eq!(ChunkHead::new(len).bytes(), format!("{len:x}\r\n").as_bytes());
            }
        }
    }

    #[test]
    fn chunks_written_here_are_read_back_by_the_decoder() {
        use super::super::chunked::{ChunkedDecoder, Decoded};
        let mut out = Vec::new();
        out.extend_from_slice(ChunkHead::new(26).bytes());
        out.extend_from_slice(b"abcdefghijklmnopqrstuvwxyz");
        out.extend_from_slice(CHUNK_END);
        out.extend_from_slice(LAST_CHUNK);
        let decoded = ChunkedDecoder::default().decode(&out);
        assert_eq!(decoded, Ok(Decoded { consumed: out.len(), data: 4..30, finished: true }));
    }

    #[test]
    fn an_error_page_is_a_complete_response() {
        let body = "<!DOCTYPE html>\n<html><head><title>431 Request Header Fields Too Large</title></head>\
                    <body><h1>431 Request Header Fields Too Large</h1></body></html>\n";
        let expected = format!(
            "HTTP/1.1 431 Request Header Fields Too Large\r\nServer: rmeinheld\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {}\r\nConnection: close\r\n\
             Content-Type: text/html; charset=utf-8\r\n\r\n{body}",
            body.len()
        );
        for request in [&b""[..], b"GET / HTTP/1.1\r\n", b"HEAD", b"HEADS / HTTP/1.1", b"head / HTTP/1.1", b" HEAD /"] {
            assert_eq!(String::from_utf8(error_page(431, request, DATE, b"rmeinheld")).unwrap(), expected);
        }
        for request in [&b"HEAD "[..], b"HEAD / HTTP/1.1\r\nHost", b"\r\nHEAD / HTTP/1.1\r\n"] {
            let head = expected.strip_suffix(body).unwrap();
            assert_eq!(String::from_utf8(error_page(431, request, DATE, b"rmeinheld")).unwrap(), head);
        }
    }

    #[test]
    fn every_status_of_a_request_error_has_a_reason() {
        for status in [400, 403, 408, 411, 413, 414, 417, 431, 500, 501, 503, 505] {
            assert_ne!(reason(status), "Unknown", "{status}");
        }
        assert_eq!((reason(599), reason(499), reason(0)), ("Unknown", "Unknown", "Unknown"));
    }

    #[test]
    fn response_fields_are_found_without_regard_to_case() {
        let fields = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Y:  z \r\n";
        assert_eq!(find_field(fields, b"x-y"), Some(&b"z"[..]));
        assert_eq!(find_field(fields, b"x-z"), None);
    }
}
