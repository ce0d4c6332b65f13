use super::*;

const LIMITS: HeadLimits = HeadLimits { request_line_bytes: 100, field_count: 10, field_bytes: 200, head_bytes: 2000 };

/// A head in words, so that heads in different buffers can be compared.
fn describe(head: &Head, bytes: &[u8]) -> String {
    let text = |span: Span| String::from_utf8_lossy(span.of(bytes)).into_owned();
    let fields: Vec<String> =
        head.fields.iter().map(|field| format!("{}={}", text(field.name), text(field.value))).collect();
    format!(
        "{} {} path={} query={} authority={} host={} {:?} {:?} keep={} continue={} upgrade={} length={} {}",
        text(head.method),
        text(head.target),
        text(head.path),
        text(head.query),
        text(head.authority),
        text(head.host),
        head.version,
        head.body,
        head.keep_alive,
        head.expects_continue,
        head.has_upgrade,
        head.length,
        fields.join("|"),
    )
}

/// The description, the status of the answer, or status 0 while more bytes are needed.
type Outcome = Result<String, u16>;

/// Shows the head growing prefixes of these lengths.
fn grow(bytes: &[u8], limits: &HeadLimits, lengths: impl IntoIterator<Item = usize>) -> Outcome {
    let mut head = Head::new();
    for length in lengths {
        match head.parse(&bytes[..length], limits) {
            Ok(Parsed::Complete) => return Ok(describe(&head, bytes)),
            Ok(Parsed::Partial) => {}
            Err(error) => return Err(error.status()),
        }
    }
    Err(0)
}

/// Did the pieces lead to the same answer? While the empty line is missing it may still be on its way, but then
/// the head must not be accepted once that line is there.
#[track_caller]
fn assert_alike(whole: &Outcome, bytes: &[u8], limits: &HeadLimits, lengths: impl IntoIterator<Item = usize>) {
    let lengths: Vec<usize> = lengths.into_iter().collect();
    let pieces = grow(bytes, limits, lengths.iter().copied());
    if pieces == Err(0) && whole.is_err() {
        let ended = [bytes, b"\r\n\r\n"].concat();
        let later = grow(&ended, limits, lengths.iter().copied().chain([ended.len()]));
        assert!(*whole == Err(0) || later.is_err_and(|status| status != 0), "{:?}", String::from_utf8_lossy(bytes));
    } else {
        assert_eq!(pieces, *whole, "{lengths:?} of {:?}", String::from_utf8_lossy(bytes));
    }
}

/// Parses whole, byte by byte and split in two at every position, which must agree.
#[track_caller]
fn parse_with(limits: &HeadLimits, bytes: &[u8]) -> Outcome {
    let whole = grow(bytes, limits, [bytes.len()]);
    assert_alike(&whole, bytes, limits, 0..=bytes.len());
    for at in 0..bytes.len() {
        assert_alike(&whole, bytes, limits, [at, bytes.len()]);
    }
    whole
}

#[track_caller]
fn parse(bytes: &[u8]) -> Outcome {
    parse_with(&LIMITS, bytes)
}

#[track_caller]
fn assert_refused(status: u16, requests: &[&[u8]]) {
    for &request in requests {
        assert_eq!(parse(request), Err(status), "{:?}", String::from_utf8_lossy(request));
    }
}

/// A GET with these field lines, which bring their CRLF.
fn with_fields(fields: &[u8]) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n"].concat()
}

#[track_caller]
fn assert_fields_refused(status: u16, fields: &[&[u8]]) {
    for &lines in fields {
        assert_eq!(parse(&with_fields(lines)), Err(status), "{:?}", String::from_utf8_lossy(lines));
    }
}

/// Parses into the head itself, which must succeed.
#[track_caller]
fn head_of(bytes: &[u8]) -> Head {
    assert!(parse(bytes).is_ok(), "{:?} {:?}", parse(bytes), String::from_utf8_lossy(bytes));
    let mut head = Head::new();
    assert_eq!(head.parse(bytes, &LIMITS), Ok(Parsed::Complete));
    head
}

/// The target of a GET, and what was made of it.
#[track_caller]
fn target(method: &str, target: &str) -> Result<[String; 3], u16> {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    parse(request.as_bytes())?;
    let head = head_of(request.as_bytes());
    Ok([head.path, head.query, head.authority]
        .map(|span| String::from_utf8_lossy(span.of(request.as_bytes())).into_owned()))
}

#[test]
fn a_plain_get_is_taken_apart() {
    assert_eq!(
        parse(b"GET /a/%20b?c=d?e HTTP/1.1\r\nHost: example.com:80\r\nX-Y:\t z \xe4\t \r\nE:\r\n\r\nrest").unwrap(),
        "GET /a/%20b?c=d?e path=/a/%20b query=c=d?e authority= host=example.com:80 Http11 None keep=true \
         continue=false upgrade=false length=69 Host=example.com:80|X-Y=z \u{fffd}|E="
    );
}

#[test]
fn a_head_is_used_again_for_the_next_request() {
    let mut head = Head::new();
    let first = b"POST http://h/a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(head.parse(first, &LIMITS), Ok(Parsed::Complete));
    assert_eq!((head.body, head.expects_continue, head.fields.len()), (BodyFraming::Length(3), true, 3));
    head.reset();
    let second = b"GET / HTTP/1.0\r\n\r\n";
    assert_eq!(head.parse(second, &LIMITS), Ok(Parsed::Complete));
    let mut fresh = Head::new();
    assert_eq!(fresh.parse(second, &LIMITS), Ok(Parsed::Complete));
    assert_eq!(describe(&head, second), describe(&fresh, second));
    // A head that was left half-way, too.
    assert_eq!(head.parse(b"GET / HT", &LIMITS), Ok(Parsed::Partial));
    head.reset();
    assert_eq!(head.parse(second, &LIMITS), Ok(Parsed::Complete));
}

#[test]
fn pipelined_requests_are_read_one_after_another() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut head = Head::new();
    assert_eq!(head.parse(bytes, &LIMITS), Ok(Parsed::Complete));
    let rest = &bytes[head.length..];
    assert_eq!(head.parse(rest, &LIMITS), Ok(Parsed::Complete));
    assert_eq!((head.path.of(rest), head.length), (&b"/2"[..], rest.len()));
}

#[test]
fn an_incomplete_head_waits_for_more() {
    let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";
    for end in 0..request.len() {
        assert_eq!(parse(&request[..end]), Err(0), "{end}");
    }
}

#[test]
fn one_empty_line_before_the_request_is_tolerated() {
    let request = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(head_of(request).length, request.len());
    assert_refused(
        400,
        &[
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    );
}

// Waitress CVE-2019-16785, Gunicorn 27: a proxy that needs CRLF sees another message.
#[test]
fn a_bare_lf_or_cr_anywhere_in_the_head_is_refused() {
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\nE:\r\n\r\n";
    for at in 0..request.len() {
        if request[at] == b'\r' {
            let mut broken = request.to_vec();
            broken.remove(at);
            assert_eq!(parse(&broken), Err(400), "without the CR at {at}");
        }
        if request[at] == b'\n' && at + 1 < request.len() {
            let mut broken = request.to_vec();
            broken.remove(at);
            assert_eq!(parse(&broken), Err(400), "without the LF at {at}");
        }
        // An LF before the last LF takes its place, which leaves a proper head.
        for byte in [b'\r', b'\n', 0] {
            if byte == b'\n' && at + 1 == request.len() {
                continue;
            }
            let mut broken = request.to_vec();
            broken.insert(at, byte);
            assert_eq!(parse(&broken), Err(400), "{byte:#04x} at {at}");
        }
    }
    assert_refused(400, &[b"GET / HTTP/1.1\nHost: a\n\n", b"GET / HTTP/1.1\r\nHost: a\r\n\n"]);
}

#[test]
#[rustfmt::skip] // tables
fn a_method_is_any_token_and_keeps_its_letter_case() {
    for method in [
        "GET", "POST", "get", "G", "M-SEARCH", "!#$%&'*+-.^_`|~09az", "GETX", "POSTER", "PROPFIND",
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            head_of(request.as_bytes()).method.of(request.as_bytes()),
            method.as_bytes()
        );
    }
    for method in [
        &b""[..],
        b"GET:", b"G\0T", b"GET\0PROXY", b"G(T", b"\xc3\x9f", b"G\"", b"G\tT", b"G/T", b"G\x7f",
    ] {
        assert_refused(400, &[&[method, b" / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()]);
    }
}

#[test]
#[rustfmt::skip] // tables
fn the_request_line_has_single_spaces_and_three_parts() {
    assert_refused(
        400,
        &[
            b"GET\r\n\r\n", b"GET /\r\n\r\n", b"GET / \r\n\r\n", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\t\r\nHost: a\r\n\r\n", b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", // a TLS handshake
        ],
    );
}

#[test]
#[rustfmt::skip] // tables
fn another_version_of_http_is_505_and_rubbish_is_400() {
    for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
        assert_refused(505, &[format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()]);
    }
    assert_refused(505, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
    for version in [
        "HTTP/1.10", "HTTP/1111", "HTTP/1", "HTTP/1.", "HTTP/.1", "HTTP/11.1", "HTTP/2", "HTTP/2.00",
        "HTTP/-1.1", "http/1.1", "Http/1.1", "HTTP 1.1", "HTTP/1,1", "HTTP/a.b", "HTTPS/1.1", "JUNK", "X",
        "HTTP/2.0 ", "1.1",
    ] {
        assert_refused(400, &[format!("GET / {version}\r\nHost: a\r\n\r\n").as_bytes()]);
    }
}

// RFC 9110 2.5: "process the message as if it was in the highest minor version" that the recipient knows.
#[test]
fn a_higher_minor_version_is_read_as_1_1() {
    for minor in 2..=9 {
        let bytes = format!("GET /a HTTP/1.{minor}\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").into_bytes();
        let expected = bytes.clone();
        let as_1_1 = [&expected[..14], b"1", &expected[15..]].concat();
        let known = grow(&as_1_1, &LIMITS, [as_1_1.len()]);
        assert!(known.is_ok());
        assert_eq!(grow(&bytes, &LIMITS, [bytes.len()]), known);
        assert_eq!(grow(&bytes, &LIMITS, 1..=bytes.len()), known);
    }
    assert_refused(400, &[b"GET / HTTP/1.2\r\n\r\n", b"GET / HTTP/1.2\nHost: a\r\n\r\n"]);
}

#[test]
fn targets_have_one_of_four_forms() {
    let cases: [(&str, &str, [&str; 3]); 14] = [
        ("GET", "/", ["/", "", ""]),
        ("GET", "//a//b?", ["//a//b", "", ""]),
        ("GET", "/?a=b", ["/", "a=b", ""]),
        ("GET", "/http://x/", ["/http://x/", "", ""]),
        ("GET", "/%zz%2e[]|\\^`{}\"<>", ["/%zz%2e[]|\\^`{}\"<>", "", ""]),
        ("GET", "http://h", ["/", "", "h"]),
        ("GET", "HTTPS://h:8/p?q", ["/p", "q", "h:8"]),
        ("GET", "http://h?q", ["/", "q", "h"]),
        ("GET", "http://[::1]:80/", ["/", "", "[::1]:80"]),
        ("OPTIONS", "*", ["*", "", ""]),
        ("OPTIONS", "http://h", ["/", "", "h"]),
        ("CONNECT", "h:443", ["", "", ""]),
        ("CONNECT", "[::1]:443", ["", "", ""]),
        ("CONNECT", "h:0065535", ["", "", ""]),
    ];
    for (method, text, parts) in cases {
        assert_eq!(target(method, text), Ok(parts.map(String::from)), "{method} {text}");
    }
}

#[test]
#[rustfmt::skip] // tables
fn other_targets_are_refused() {
    for (method, text) in [
        ("GET", "*"), ("GET", "**"), ("OPTIONS", "**"), ("OPTIONS", "*?a"), ("GET", "a"), ("GET", "a/b"),
        ("GET", "?a"), ("GET", "h:443"), ("GET", "/#a"), ("GET", "/a?b#c"), ("GET", "#"), ("GET", "ftp://h/"),
        ("GET", "http:/h"), ("GET", "http:///a"), ("GET", "http://"), ("GET", "http://?a"),
        ("GET", "http://u@h/"), ("GET", "http://h:x/"), ("GET", "http://:80/"), ("GET", "http://[::1/"),
        ("GET", "http://h\\/"), ("GET", "http://a%2/"), ("GET", "http://a%zz/"), ("CONNECT", "/"),
        ("CONNECT", "h"), ("CONNECT", "h:"), ("CONNECT", "*"), ("CONNECT", "http://h/"), ("CONNECT", ":443"),
        ("CONNECT", "h:443/"), ("CONNECT", "h:0"), ("CONNECT", "h:65536"), ("CONNECT", "h:4294967739"), ("connect", "h:443"), ("options", "*"),
    ] {
        assert_eq!(target(method, text), Err(400), "{method} {text}");
    }
}

#[test]
fn a_target_is_visible_ascii() {
    // At each of many places, since the search runs over several bytes at once.
    for at in [0, 1, 7, 15, 16, 31, 32, 33, 63] {
        for byte in (0..=0x20).chain(0x7F..=0xFF).chain([b'#']) {
            let mut target = [b'a'; 64];
            target[at] = byte;
            let request = [b"GET /", &target[..], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
            assert_eq!(grow(&request, &LIMITS, [request.len()]), Err(400), "{byte:#04x} at {at}");
        }
    }
}

#[test]
#[rustfmt::skip] // tables
fn http_1_1_needs_exactly_one_valid_host() {
    assert_refused(400, &[b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHosts: a\r\n\r\n"]);
    assert_refused(
        400,
        &[
            b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n",
            b"GET http://h/ HTTP/1.1\r\n\r\n",
        ],
    );
    assert_refused(400, &[b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"]);
    assert!(head_of(b"GET / HTTP/1.0\r\n\r\n").host.is_empty());
    for host in [
        "a", "A.b-c_d~:80", "a:", "127.0.0.1:8000", "[::1]", "[::ffff:1.2.3.4]:80", "a%2Fb", "xn--a.de",
    ] {
        for version in ["1.0", "1.1"] {
            let request = format!("GET / HTTP/{version}\r\nHOST:{host}\r\n\r\n");
            assert_eq!(head_of(request.as_bytes()).host.of(request.as_bytes()), host.as_bytes());
        }
    }
    for host in [
        "a b", "a/b", "a@b", "a:b", "a:80:80", ":80", ":", "[::1", "[]", "[::1]a", "::1", "a?", "a#", "a\\",
        "a\"", "<a>", "a%", "a%2", "a%zz", "[::1%25eth0]", "\u{e4}", "a,\tb", "{}", "a:+1",
    ] {
        assert_refused(400, &[format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()]);
    }
}

// nginx does the same. The authority of an absolute-form stands for Host, and `*` has no authority.
#[test]
fn an_empty_host_is_refused_where_the_target_needs_one() {
    for fields in ["Host:", "Host: \t", "host:", "X: y\r\nHost: "] {
        for target in ["/", "/a?b", "//a", "/*"] {
            assert_refused(400, &[format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes()]);
            let request = format!("GET {target} HTTP/1.0\r\n{fields}\r\n\r\n");
            assert!(head_of(request.as_bytes()).host.is_empty(), "{request}");
        }
        for line in ["GET http://h/", "GET https://h?a", "OPTIONS *", "OPTIONS http://h", "CONNECT h:443"] {
            let request = format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n");
            assert!(head_of(request.as_bytes()).host.is_empty(), "{request}");
        }
    }
    assert_refused(400, &[b"GET / HTTP/1.2\r\nHost:\r\n\r\n", b"OPTIONS /* HTTP/1.1\r\nHost:\r\n\r\n"]);
    assert_refused(400, &[b"GET http://h/ HTTP/1.1\r\nHost: a b\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n"]);
}

#[test]
#[rustfmt::skip] // tables
fn field_names_are_tokens_directly_before_the_colon() {
    assert_fields_refused(
        400,
        &[
            b"X : y\r\n", b"X\t: y\r\n", b": y\r\n", b" X: y\r\n", b"X\r\n", b"X y\r\n", b"X(: y\r\n",
            b"\xe4: y\r\n", b"Content-Length\xc3\x9f: 1\r\n", b"X\0: y\r\n", b"X\x7f: y\r\n",
            b"Content-Length : 3\r\n", b"\"X\": y\r\n", b"Transfer-Encoding : chunked\r\n",
        ],
    );
    // A line with white space before the first field (RFC 9112 2.2).
    assert_refused(
        400,
        &[
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n",
        ],
    );
}

#[test]
fn a_folded_line_is_refused() {
    assert_fields_refused(400, &[b"X: y\r\n z\r\n", b"X: y\r\n\tz\r\n", b"X:\r\n z\r\n", b"X: y\r\n \r\n"]);
}

#[test]
fn field_values_have_no_control_characters_but_tab() {
    for at in [0, 1, 7, 15, 16, 31, 32, 33, 62] {
        for byte in 0..=u8::MAX {
            let mut value = [b'a'; 64];
            value[at] = byte;
            let request = with_fields(&[b"X: ", &value[..], b"\r\n"].concat());
            let outcome = grow(&request, &LIMITS, [request.len()]);
            let is_allowed = byte == b'\t' || (byte >= 0x20 && byte != 0x7F);
            assert_eq!(outcome.is_ok(), is_allowed, "{byte:#04x} at {at}");
        }
    }
    // Waitress CVE-2019-16789: only SP and HTAB are white space.
    for byte in [0x85, 0xA0] {
        let request = with_fields(&[b"X: ", &[byte][..], b"y \t", &[byte], b"\t\r\n"].concat());
        let head = head_of(&request);
        assert_eq!(head.fields[1].value.of(&request), [byte, b'y', b' ', b'\t', byte]);
    }
}

#[test]
fn framing_comes_from_the_fields() {
    for (fields, body) in [
        (&b""[..], BodyFraming::None),
        (b"content-LENGTH: 12\r\n", BodyFraming::Length(12)),
        (b"Content-Length:0 \r\n", BodyFraming::Length(0)),
        (b"transfer-encoding: Chunked\r\n", BodyFraming::Chunked),
        (b"TRANSFER-ENCODING:\tCHUNKED\t\r\n", BodyFraming::Chunked),
        (b"Transfer_Encoding: chunked\r\nContent_Length: 5\r\n", BodyFraming::None),
        (b"Content-Length-X: 5\r\nTransfer-Encodin: chunked\r\n", BodyFraming::None),
    ] {
        assert_eq!(head_of(&with_fields(fields)).body, body, "{:?}", String::from_utf8_lossy(fields));
    }
    assert_fields_refused(
        400,
        &[
            b"Content-Length: 5\r\nContent-Length: 5\r\n",
            b"Content-Length: 5\r\nX: y\r\ncontent-length: 6\r\n",
            b"Content-Length: 5, 5\r\n",
            b"Content-Length: +5\r\n",
            b"Content-Length:\r\n",
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"transfer-encoding: Chunked\r\ncontent-length: 5\r\n",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            b"Transfer-Encoding: \x85chunked\r\n",
            b"Transfer-Encoding: xchunked\r\n",
        ],
    );
    assert_fields_refused(501, &[b"Transfer-Encoding: gzip, chunked\r\n"]);
    assert_refused(400, &[b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"]);
}

#[test]
fn two_content_types_are_refused() {
    assert_fields_refused(400, &[b"Content-Type: a/b\r\ncontent-type: a/b\r\n"]);
    head_of(&with_fields(b"Content-Type: a/b\r\n"));
}

#[test]
fn connections_persist_as_the_version_and_the_options_say() {
    for (options, in_1_1, in_1_0) in [
        ("", true, false),
        ("Connection: close\r\n", false, false),
        ("connection: CLOSE\r\n", false, false),
        ("Connection: keep-alive\r\n", true, true),
        ("Connection: x, Keep-Alive ,, y\r\n", true, true),
        ("Connection: keep-alive, close\r\n", false, false),
        ("Connection: keep-alive\r\nConnection: close\r\n", false, false),
        ("Connection: closed, keep\r\n", true, false),
        ("Connections: close\r\n", true, false),
    ] {
        for (version, expected) in [("1.1", in_1_1), ("1.0", in_1_0)] {
            let request = format!("GET / HTTP/{version}\r\nHost: a\r\n{options}\r\n");
            assert_eq!(head_of(request.as_bytes()).keep_alive, expected, "{request}");
        }
    }
}

#[test]
fn only_100_continue_can_be_expected() {
    let request =
        |version: &str, fields: &str| format!("POST / HTTP/{version}\r\nHost: a\r\n{fields}\r\n").into_bytes();
    for (version, fields, expected) in [
        ("1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
        ("1.1", "expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("1.1", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 1\r\n", true),
        ("1.1", "Expect:\r\nContent-Length: 1\r\n", false),
        ("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
        ("1.1", "Expect: 100-continue\r\n", false),
        ("1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
        ("1.0", "Expect: rubbish\r\n", false),
    ] {
        assert_eq!(head_of(&request(version, fields)).expects_continue, expected, "{version} {fields}");
    }
    for value in ["200-ok", "100-continue, x", "100-continue;a=b", "100"] {
        assert_eq!(parse(&request("1.1", &format!("Expect: {value}\r\n"))), Err(417), "{value}");
    }
}

#[test]
fn upgrade_is_only_recorded() {
    assert!(head_of(&with_fields(b"upgrade: h2c\r\n")).has_upgrade);
    assert!(!head_of(&with_fields(b"")).has_upgrade);
    assert!(!head_of(b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n").has_upgrade);
}

#[test]
fn a_request_line_over_its_limit_is_414() {
    for (target_bytes, is_ok) in [(87, true), (88, false), (300, false)] {
        let line = [&b"GET /"[..], &vec![b'a'; target_bytes - 1], b" HTTP/1.1"].concat();
        let request = [&line[..], b"\r\nHost: a\r\n\r\n"].concat();
        assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(414) }, "{target_bytes}");
        assert_eq!(parse(&line), Err(if is_ok { 0 } else { 414 }), "no line end yet, {target_bytes}");
    }
    // Without a limit of its own, that of the head says the same.
    let limits = HeadLimits { request_line_bytes: 0, head_bytes: 300, ..LIMITS };
    assert_eq!(parse_with(&limits, &[&b"GET /"[..], &[b'a'; 400]].concat()), Err(414));
    assert!(parse_with(&limits, &[&b"GET /"[..], &[b'a'; 200], b" HTTP/1.0\r\n\r\n"].concat()).is_ok());
}

#[test]
fn field_lines_over_their_limits_are_431() {
    for (value_bytes, is_ok) in [(197, true), (198, false), (900, false)] {
        let line = [&b"X: "[..], &vec![b'a'; value_bytes]].concat();
        let request = with_fields(&[&line[..], b"\r\n"].concat());
        assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{value_bytes}");
        let open = [b"GET / HTTP/1.1\r\n", &line[..]].concat();
        assert_eq!(parse(&open), Err(if is_ok { 0 } else { 431 }), "no line end yet, {value_bytes}");
        let first = [b"GET / HTTP/1.0\r\n", &line[..], b"\r\nA: b\r\n\r\n"].concat();
        assert_eq!(parse(&first).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "first, {value_bytes}");
    }
}

#[test]
fn more_field_lines_than_the_limit_are_431() {
    for (count, is_ok) in [(9, true), (10, false), (50, false)] {
        let request = with_fields(&b"X: y\r\n".repeat(count));
        assert_eq!(parse(&request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{count}");
    }
    for (limit, count, is_ok) in [
        (64, 63, true),
        (64, 64, false),
        (65, 64, true),
        (65, 65, false),
        (128, 127, true),
        (128, 128, false),
        (0, 300, true),
    ] {
        let limits = HeadLimits { field_count: limit, ..LIMITS };
        let request = with_fields(&b"X: y\r\n".repeat(count));
        assert_eq!(parse_with(&limits, &request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{limit} {count}");
    }
}

#[test]
fn a_head_over_its_limit_is_431() {
    let request = with_fields(&[&b"X: "[..], &[b'a'; 100], b"\r\n"].concat());
    for (head_bytes, is_ok) in [(request.len(), true), (request.len() - 1, false), (60, false), (17, false)] {
        let limits = HeadLimits { head_bytes, ..LIMITS };
        assert_eq!(parse_with(&limits, &request).map(|_| ()), if is_ok { Ok(()) } else { Err(431) }, "{head_bytes}");
    }
    let limits = HeadLimits { head_bytes: 0, ..LIMITS };
    assert_eq!(parse_with(&limits, &request), Err(414));
    // Bytes after the head do not count.
    let limits = HeadLimits { head_bytes: request.len(), ..LIMITS };
    assert!(parse_with(&limits, &[&request[..], &[b'b'; 500]].concat()).is_ok());
}

#[test]
fn a_head_in_single_bytes_is_parsed_a_logarithmic_number_of_times() {
    let request = with_fields(&[&b"X: "[..], &[b'a'; 190], b"\r\n"].concat().repeat(9));
    let mut head = Head::new();
    let mut attempts = 0;
    for end in 1..request.len() {
        let before = head.scan.attempted;
        assert_eq!(head.parse(&request[..end], &LIMITS), Ok(Parsed::Partial));
        attempts += usize::from(head.scan.attempted != before);
        assert_eq!(head.scan.scanned, end);
    }
    assert_eq!(attempts, request.len().ilog2() as usize + 1);
}

#[test]
fn spans_never_panic() {
    let bytes = b"abc";
    assert_eq!(Span { start: 1, end: 3 }.of(bytes), b"bc");
    for (start, end) in [(1, 4), (4, 5), (2, 1), (u32::MAX, u32::MAX), (0, u32::MAX), (3, 3)] {
        assert_eq!(Span { start, end }.of(bytes), b"");
    }
    assert!(Span { start: 2, end: 1 }.is_empty() && Span::default().is_empty());
    assert!(!Span { start: 1, end: 2 }.is_empty());
}

/// As `grow`, with repairs.
fn grow_repaired(leniency: Leniency, bytes: &[u8], lengths: impl IntoIterator<Item = usize>) -> Outcome {
    let (mut head, mut buffer) = (Head::new(), Vec::new());
    for length in lengths {
        buffer.extend_from_slice(&bytes[buffer.len()..length]);
        match head.parse_leniently(&mut buffer, &LIMITS, leniency) {
            Ok(Parsed::Complete) => return Ok(describe(&head, &buffer)),
            Ok(Parsed::Partial) => assert_eq!(buffer, bytes[..length], "changed before it is complete"),
            Err(error) => return Err(error.status()),
        }
    }
    Err(0)
}

const EVERY_REPAIR: Leniency =
    Leniency { capital_methods: true, any_version: true, folded_lines: true, spaced_names: true };

#[test]
#[rustfmt::skip] // tables
fn a_repaired_head_is_read_alike_whole_and_in_pieces() {
    let long = "a".repeat(90);
    let field = |lines: usize| format!("X: a{}\r\n", "\r\n b".repeat(lines));
    let folded = |count: usize, lines: usize| field(lines).repeat(count) + "\r\n";
    for (sent, same_as) in [
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("connect h:1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Ok("CONNECT h:1 HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("\r\nGET / HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), Ok("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("GET / HTTP/0.9\r\n\r\nmore".to_owned(), Ok("GET / HTTP/1.0\r\n\r\nmore")),
        ("GET / HTTP/0.9\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Err(400)),
        ("GET / HTTP/0.9\r\nX :\r\n b\r\n\r\n".to_owned(), Ok("GET / HTTP/1.0\r\nX: b   \r\n\r\n")),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect:\r\n x\r\n\r\n".to_owned(), Err(417)),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: b\n c\r\n\r\n".to_owned(), Err(400)),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\n".to_owned(), Err(400)),
        ("GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n".to_owned(), Err(400)),
        (format!("GET / HTTP/0.9\r\n{}", folded(10, 3)), Ok("10 fields")),
        (format!("GET / HTTP/0.9\r\n{}", folded(11, 0)), Err(431)),
        (format!("GET / HTTP/0.9\r\nX: {long}\r\n {long}\r\n\r\n"), Ok("long")),
        (format!("GET / HTTP/0.9\r\nX: {long}\r\n {long}\r\n {long}\r\n\r\n"), Err(431)),
        (format!("GET /{long} HTTP/1.0\r\n\r\n"), Err(414)),
        (format!("GET / HTTP/1.0\r\n{}", folded(1, 900)), Err(431)),
        ("G".repeat(101), Err(414)),
    ] {
        let bytes = sent.as_bytes();
        let whole = grow_repaired(EVERY_REPAIR, bytes, [bytes.len()]);
        match same_as {
            Ok(same_as) if same_as.contains('/') => assert_eq!(whole, parse(same_as.as_bytes()), "{sent:?}"),
            Ok(_) => assert!(whole.is_ok(), "{sent:?} {whole:?}"),
            Err(status) => assert_eq!(whole, Err(status), "{sent:?}"),
        }
        assert_eq!(grow_repaired(EVERY_REPAIR, bytes, 0..=bytes.len()), whole, "{sent:?}");
        for at in 0..bytes.len() {
            assert_eq!(grow_repaired(EVERY_REPAIR, bytes, [at, bytes.len()]), whole, "{sent:?} at {at}");
        }
    }
}

/// Shows `check` heads made of these, with a few bytes changed, and a place in each where it may be cut.
fn for_damaged(seeds: &[&[u8]], mut check: impl FnMut(&[u8], usize)) {
    let interesting = b"\r\n\0 \t:/?#%*,;\x7f\x80\xff09aHT";
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for round in 0..6000 {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 if bytes.len() > 1 => drop(bytes.remove(at)),
                1 => bytes.insert(at, interesting[random(interesting.len())]),
                0 | 2 => bytes[at] = interesting[random(interesting.len())],
                _ => bytes.truncate(at.max(1)),
            }
        }
        check(&bytes, random(bytes.len()));
    }
}

// The cuts between packets decide neither whether a head is accepted nor how it is read.
#[test]
fn damaged_heads_are_read_alike_whole_and_in_pieces() {
    const HARMLESS: Leniency = Leniency { capital_methods: false, ..EVERY_REPAIR };
    let seeds: [&[u8]; 3] = [
        b"\r\nGET http://h:1/p?q HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: [::1]:8\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n",
        b"PUT /%41 HTTP/1.0\r\nContent-Length: 12\r\nConnection: keep-alive\r\nX:\r\n\r\nhello",
    ];
    let mut completed = 0;
    for_damaged(&seeds, |bytes, at| {
        let whole = grow(bytes, &LIMITS, [bytes.len()]);
        let shown = String::from_utf8_lossy(bytes);
        // Of several faults, pieces may meet another one first, so the status is not compared.
        assert_eq!(grow(bytes, &LIMITS, 0..=bytes.len()).ok(), whole.clone().ok(), "byte by byte: {shown:?}");
        assert_eq!(grow(bytes, &LIMITS, [at, bytes.len()]).ok(), whole.clone().ok(), "split at {at}: {shown:?}");
        let unrepaired = grow_repaired(Leniency::default(), bytes, 0..=bytes.len());
        assert_eq!(unrepaired.ok(), whole.clone().ok(), "no repairs: {shown:?}");
        if whole.is_ok() {
            // A correct head needs no repair.
            assert_eq!(grow_repaired(HARMLESS, bytes, [bytes.len()]), whole, "repaired: {shown:?}");
        }
        completed += usize::from(whole.is_ok());
    });
    assert!(completed > 500, "{completed}");
}

#[test]
fn no_repair_makes_framing_or_a_host() {
    let seeds: [&[u8]; 3] = [
        b"put /a HTTP/2.0\r\nHost: a\r\nX : b\r\n c: d\r\nContent-Length: 5\r\n\r\nhello",
        b"PUT /a HTTP/1.1\r\nX:\r\n\tb\r\nHost: a\r\nTransfer-Encoding: chunked\r\nY\t: z\r\n\r\n0\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nHost : a\r\nX: y\r\n Content-Length: 5\r\n\r\nhello",
    ];
    let mut completed = 0;
    for_damaged(&seeds, |bytes, at| {
        let (mut head, mut repaired) = (Head::new(), bytes.to_vec());
        let is_complete = head.parse_leniently(&mut repaired, &LIMITS, EVERY_REPAIR) == Ok(Parsed::Complete);
        let shown = String::from_utf8_lossy(bytes);
        for lengths in [vec![at, bytes.len()], (0..=bytes.len()).collect()] {
            let pieces = grow_repaired(EVERY_REPAIR, bytes, lengths).ok();
            assert_eq!(pieces, is_complete.then(|| describe(&head, &repaired)), "{shown:?}");
        }
        if !is_complete {
            return;
        }
        assert_eq!(bytes.get(head.length..), repaired.get(head.length..), "what follows the head: {shown:?}");
        // A recipient that repairs nothing sees the same lines of these fields.
        let lines = |name: &str, bytes: &[u8]| -> Vec<Vec<u8>> {
            let lines = bytes[..head.length].split(|&byte| byte == b'\n').map(<[u8]>::to_vec);
            lines.filter(|line| line.to_ascii_lowercase().starts_with(name.as_bytes())).collect()
        };
        for name in ["host", "content-length", "transfer-encoding"] {
            assert_eq!(lines(name, bytes), lines(name, &repaired), "{shown:?}");
        }
        completed += 1;
    });
    assert!(completed > 500, "{completed}");
}
