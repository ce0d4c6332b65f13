//! An answer of an application: one byte that chooses, and two for the known length. Then come texts, each after one
//! byte for its length: the status, and names and values in turn. The values are the items of the body, too.

use _rmeinheld::http::Version;
use _rmeinheld::http::chunked::{ChunkLimits, ChunkedDecoder};
use _rmeinheld::http::exchange::Exchange;
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::response::{
    CHUNK_END, ChunkHead, FieldKind, LAST_CHUNK, MethodKind, ResponseBody, check_field, error_page, parse_status, plan,
    write_common, write_field, write_status_line,
};

use crate::input::Input;
use crate::reference::{Chunks, chunks, crlf_lines, field, is_text, is_token, ows_trimmed};
use crate::shown;

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let choice = input.byte();
    let chosen = |bit: u8| choice & (1 << bit) != 0;
    let version = if chosen(0) { Version::Http10 } else { Version::Http11 };
    let number = input.short();
    let mut text = || {
        let length = input.byte();
        input.take(length.into())
    };

    let status = text();
    let mut fields = Vec::new();
    for _ in 0..64 {
        match (text(), text()) {
            (b"", b"") => break,
            field => fields.push(field),
        }
    }
    check_error_page(number);
    check_chunks(&fields);

    let code = parse_status(status);
    assert_eq!(code.is_ok(), is_status(status), "{}", shown(status));
    let Ok(code) = code else { return };
    assert_eq!(code.to_string().as_bytes(), &status[..3]);

    // As `start_response` does it, but for the fields that are not the application's to send.
    let mut head = Vec::new();
    let mut expected = Vec::new();
    write_status_line(&mut head, status);
    let (mut declared, mut has_date, mut has_server) = (None, false, false);
    for (name, value) in fields {
        let kind = check_field(name, value);
        let is_right = is_token(name) && value.iter().all(|&byte| is_text(byte));
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        assert_eq!(kind.is_ok(), is_right && (!is_length || length(value).is_some()), "{}", shown(value));
        match kind {
            Err(_) => return,
            Ok(FieldKind::ContentLength(length_seen)) => {
                assert_eq!((is_length, Some(length_seen)), (true, length(value)));
                declared = Some(length_seen);
                continue;
            }
            Ok(FieldKind::TransferEncoding | FieldKind::Connection | FieldKind::HopByHop) => continue,
            Ok(FieldKind::Date) => has_date = true,
            Ok(FieldKind::Server) => has_server = true,
            Ok(FieldKind::Other | FieldKind::Upgrade) => {}
        }
        assert!(!is_length && !name.eq_ignore_ascii_case(b"transfer-encoding"));
        write_field(&mut head, name, value);
        expected.push((name, ows_trimmed(value)));
    }
    let known = chosen(1).then_some(u64::from(number));
    let method = match (chosen(2), chosen(5)) {
        (true, _) => MethodKind::Head,
        (false, true) => MethodKind::Connect,
        (false, false) => MethodKind::Other,
    };
    let plan = plan(version, method, code, declared, known);
    // CONNECT never leaves its connection to another request.
    let mut exchange = Exchange::new(BodyFraming::None, false, 0, chosen(3) && method != MethodKind::Connect);
    exchange.begin_response(code, &plan, false).expect("the first response");
    let option = exchange.connection_option(version);
    write_common(&mut head, &plan, option, has_server, has_date, DATE, if chosen(4) { b"a" } else { b"" });

    let lines = crlf_lines(&head).expect("CR or LF within a line");
    assert!(lines.iter().all(|line| line.iter().all(|&byte| is_text(byte))), "{}", shown(&head));
    let space: &[u8] = if status.len() == 3 { b" " } else { b"" };
    let status_line = [&b"HTTP/1.1 "[..], status, space].concat();
    assert_eq!(lines[0], status_line);
    let seen: Vec<_> = lines[1..].iter().map(|line| field(line).expect("not a field line")).collect();
    assert_eq!(seen[..expected.len()], expected, "{}", shown(&head));

    // A client's reading of the response (RFC 9112 6.3).
    let values = |name: &str| -> Vec<&[u8]> {
        let is_name = |field: &&(&'_ [u8], &'_ [u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        seen.iter().filter(is_name).map(|field| field.1).collect()
    };
    assert!(values("date").len() == 1 || has_date);
    if method == MethodKind::Connect && (200..300).contains(&code) {
        let framing = ["content-length", "transfer-encoding", "connection"].map(|name| values(name).len());
        assert_eq!((plan.body, plan.allows_reuse, framing), (ResponseBody::Tunnel, false, [0; 3]));
        return;
    }
    let has_no_body = method == MethodKind::Head || matches!(code, 100..=199 | 204 | 304);
    let body = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        (_, []) if has_no_body => ResponseBody::None,
        ([], [b"chunked"]) if version == Version::Http11 => ResponseBody::Chunked,
        ([value], []) => ResponseBody::Length(length(value).expect("no length")),
        ([], []) => ResponseBody::UntilClose,
        framing => panic!("{framing:?}"),
    };
    match plan.body {
        // A 205 says a length of 0.
        ResponseBody::None => assert!(matches!(body, ResponseBody::None | ResponseBody::Length(0))),
        planned => assert_eq!(planned, body),
    }
    let closes = values("connection") == [b"close"];
    assert_eq!(closes, exchange.announces_close());
    assert!(closes || code == 101 || plan.allows_reuse);
    assert!(closes || body != ResponseBody::UntilClose, "no end to be seen");
}

/// `[0-9]{3}( text)?` from 100 on.
fn is_status(status: &[u8]) -> bool {
    let is_code = status.len() >= 3 && status[..3].iter().all(u8::is_ascii_digit) && status[0] != b'0';
    is_code && matches!(&status[3..], [] | [b' ', ..]) && status[3..].iter().all(|&byte| is_text(byte))
}

/// The number in a Content-Length.
fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(ows_trimmed(value)).ok()?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn check_error_page(status: u16) {
    let page = error_page(status, b"GET / HTTP/1.1\r\n", DATE, b"a");
    assert!(page.starts_with(&error_page(status, b"HEAD / HTTP/1.1\r\n", DATE, b"a")));
    let end = page.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let lines = crlf_lines(&page[..end + 2]).expect("CR or LF within a line");
    assert!(lines[0].starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
    let fields: Vec<_> = lines[1..].iter().map(|line| field(line).expect("not a field line")).collect();
    let body_bytes = (page.len() - end - 4).to_string();
    assert!(
        fields.contains(&(b"Content-Length", body_bytes.as_bytes())) && fields.contains(&(b"Connection", b"close"))
    );
}

/// A strict recipient can read the chunks that are sent.
fn check_chunks(fields: &[(&[u8], &[u8])]) {
    let mut message = Vec::new();
    let mut data = Vec::new();
    for (_, item) in fields.iter().filter(|field| !field.1.is_empty()) {
        message.extend([ChunkHead::new(item.len()).bytes(), item, CHUNK_END].concat());
        data.extend_from_slice(item);
    }
    message.extend_from_slice(LAST_CHUNK);
    assert_eq!(chunks(&message, &ChunkLimits::default()), (data, Chunks::Complete(message.len())));
    let mut decoder = ChunkedDecoder::default();
    let mut rest = &message[..];
    while !decoder.is_finished() {
        rest = &rest[decoder.decode(rest).expect("refused").consumed..];
    }
    assert_eq!(rest, b"");
}
