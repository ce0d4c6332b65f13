//! A second reading of RFC 9110 and RFC 9112, to compare the first with: over complete input, by splitting it at its
//! delimiters, without a thought for speed. It uses nothing of the code that it checks but the types of its answers.
//!
//! It returns accepted messages and their reading. A message that is not accepted may be refused or unfinished.

use _rmeinheld::http::Version;
use _rmeinheld::http::chunked::ChunkLimits;
use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::http::limits::HeadLimits;

pub mod inflate;
pub mod websocket;

const TOKEN_MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
/// unreserved and sub-delims of RFC 3986 2, but for letters and digits.
const HOST_MARKS: &[u8] = b"-._~!$&'()*+,;=";

/// The contents of an accepted head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub path: &'a [u8],
    pub query: &'a [u8],
    pub authority: &'a [u8],
    pub host: &'a [u8],
    pub version: Version,
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    pub length: usize,
    pub body: BodyFraming,
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub has_upgrade: bool,
}

/// The head at the beginning of `bytes`, if it is complete and has nothing to refuse.
pub fn head<'a>(bytes: &'a [u8], limits: &HeadLimits) -> Option<Head<'a>> {
    let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let length = start + bytes[start..].windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let lines = crlf_lines(&bytes[start..length - 2])?;
    let (request_line, field_lines) = lines.split_first()?;
    let over = |count: usize, limit: usize| limit != 0 && count > limit;
    if length > limits.head_bytes
        || over(request_line.len(), limits.request_line_bytes)
        || over(field_lines.len(), limits.field_count)
        || field_lines.iter().any(|line| over(line.len(), limits.field_bytes))
    {
        return None;
    }

    let [method, target, version] = request_line.split(|&byte| byte == b' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        _ => return None,
    };
    let is_http_1_1 = version == Version::Http11;
    if !is_token(method) || !target.iter().all(|&byte| byte.is_ascii_graphic() && byte != b'#') {
        return None;
    }
    let (path, query, authority) = target_parts(method, target)?;

    let fields: Vec<(&[u8], &[u8])> = field_lines.iter().map(|line| field(line)).collect::<Option<_>>()?;
    let values = |name: &str| -> Vec<&[u8]> {
        let is_name = |field: &&(&'a [u8], &'a [u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        fields.iter().filter(is_name).map(|field| field.1).collect()
    };
    let options = |name: &str| -> Vec<String> {
        let members = values(name).into_iter().flat_map(|value| value.split(|&byte| byte == b','));
        members.map(|member| latin1(ows_trimmed(member)).to_ascii_lowercase()).filter(|text| !text.is_empty()).collect()
    };
    let host = match values("host")[..] {
        // The URI of an origin-form needs a host (RFC 9110 4.2.1).
        [b""] if is_http_1_1 && target.starts_with(b"/") => return None,
        [host] if host.is_empty() || authority_port(host).is_some() => host,
        [] if !is_http_1_1 => b"",
        _ => return None,
    };
    let body = body_framing(version, &values("content-length"), &values("transfer-encoding")).ok()?;
    let expectations = options("expect");
    if values("content-type").len() > 1 || (is_http_1_1 && expectations.iter().any(|text| text != "100-continue")) {
        return None;
    }
    let has_option = |option: &str| options("connection").iter().any(|text| text == option);
    let may_have_content = !matches!(body, BodyFraming::None | BodyFraming::Length(0));
    Some(Head {
        method,
        target,
        path,
        query,
        authority,
        host,
        version,
        length,
        body,
        keep_alive: !has_option("close") && (is_http_1_1 || has_option("keep-alive")),
        expects_continue: is_http_1_1 && may_have_content && !expectations.is_empty(),
        has_upgrade: is_http_1_1 && !values("upgrade").is_empty(),
        fields,
    })
}

/// The framing of a request body, or the status that refuses it. The values have no white space around them.
pub fn body_framing(version: Version, lengths: &[&[u8]], codings: &[&[u8]]) -> Result<BodyFraming, u16> {
    if codings.is_empty() {
        return match lengths {
            [] => Ok(BodyFraming::None),
            [digits] if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
                let number = latin1(digits);
                let significant = number.trim_start_matches('0');
                format!("0{significant}").parse().map(BodyFraming::Length).map_err(|_| 400)
            }
            _ => Err(400),
        };
    }
    if !lengths.is_empty() || version == Version::Http10 {
        return Err(400);
    }
    let joined = codings.join(&b","[..]);
    let members: Vec<&[u8]> = joined.split(|&byte| byte == b',').map(ows_trimmed).collect();
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let is_coding = |member: &[u8]| is_token(ows_trimmed(member.split(|&byte| byte == b';').next().unwrap()));
    match members.split_last() {
        Some((last, others)) if is_chunked(last) => {
            if others.iter().any(|other| is_chunked(other) || !is_coding(other)) {
                Err(400)
            } else if others.is_empty() {
                Ok(BodyFraming::Chunked)
            } else {
                Err(501)
            }
        }
        _ => Err(400),
    }
}

/// The state of a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// The number of bytes of input that are the body.
    Complete(usize),
    /// A complete line is wrong, or data is followed by other bytes than CRLF.
    Refused,
    /// Up to the last complete line all is right. The rest may already be wrong.
    Unfinished,
}

/// The data of a chunked body that has arrived, and the state of the body.
pub fn chunks(bytes: &[u8], limits: &ChunkLimits) -> (Vec<u8>, Chunks) {
    let mut data = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(line) = next_line(&mut rest) else { return (data, Chunks::Unfinished) };
        let size = match line.strip_suffix(b"\r") {
            Some(line) if line.len() <= limits.line_bytes => chunk_size(line),
            _ => None,
        };
        let Some(size) = size else { return (data, Chunks::Refused) };
        if size == 0 {
            break;
        }
        let present = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let (chunk, after) = rest.split_at(present);
        data.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', after @ ..] if present as u64 == size => after,
            [] | [b'\r'] => return (data, Chunks::Unfinished),
            _ => return (data, Chunks::Refused),
        };
    }
    let trailer_start = rest;
    let mut count = 0;
    loop {
        let Some(line) = next_line(&mut rest) else { return (data, Chunks::Unfinished) };
        let is_over = trailer_start.len() - rest.len() > limits.trailer_bytes;
        match line.strip_suffix(b"\r") {
            Some(b"") if !is_over => return (data, Chunks::Complete(bytes.len() - rest.len())),
            Some(line) if !is_over && count < limits.trailer_count && is_trailer(line) => count += 1,
            _ => return (data, Chunks::Refused),
        }
    }
}

/// The lines of `bytes`, all of which end in CRLF and contain neither CR nor LF otherwise.
pub fn crlf_lines(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let line = next_line(&mut rest)?.strip_suffix(b"\r")?;
        if line.contains(&b'\r') {
            return None;
        }
        lines.push(line);
    }
    Some(lines)
}

/// Name and value of a field line, if it is one (RFC 9112 5).
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    (is_token(name) && value.iter().all(|&byte| is_text(byte))).then(|| (name, ows_trimmed(value)))
}

/// HTAB, SP, VCHAR, obs-text.
pub fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7E | 0x80..=0xFF)
}

pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || TOKEN_MARKS.contains(byte))
}

/// Without SP and HTAB around it.
pub fn ows_trimmed(bytes: &[u8]) -> &[u8] {
    let is_kept = |byte: &u8| *byte != b' ' && *byte != b'\t';
    match (bytes.iter().position(is_kept), bytes.iter().rposition(is_kept)) {
        (Some(first), Some(last)) => &bytes[first..=last],
        _ => b"",
    }
}

/// The line before the next LF, without that; none if there is no more LF.
fn next_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let line_feed = rest.iter().position(|&byte| byte == b'\n')?;
    let line = &rest[..line_feed];
    *rest = &rest[line_feed + 1..];
    Some(line)
}

/// Path, query and authority of a target (RFC 9112 3.2).
fn target_parts<'a>(method: &[u8], target: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
    if method == b"CONNECT" {
        let port = latin1(authority_port(target)?);
        let significant = port.trim_start_matches('0');
        let is_number =
            !significant.is_empty() && significant.len() <= 5 && significant.parse::<u32>().unwrap() < 65536;
        return is_number.then_some((b"", b"", b""));
    }
    if target == b"*" {
        return (method == b"OPTIONS").then_some((target, b"", b""));
    }
    if target.starts_with(b"/") {
        let (path, query) = path_and_query(target);
        return Some((path, query, b""));
    }
    let text = latin1(target).to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| text.starts_with(scheme))?;
    let rest = &target[scheme.len()..];
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    authority_port(authority)?;
    let (path, query) = path_and_query(rest);
    Some((if path.is_empty() { b"/" } else { path }, query, authority))
}

fn path_and_query(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == b'?') {
        Some(mark) => (&bytes[..mark], &bytes[mark + 1..]),
        None => (bytes, b""),
    }
}

/// The port of `uri-host [ ":" port ]`, empty if there is none, if it is that and the host is not empty.
fn authority_port(bytes: &[u8]) -> Option<&[u8]> {
    let is_digits = |port: &[u8]| port.iter().all(u8::is_ascii_digit);
    let is_mark = |byte: &u8| byte.is_ascii_alphanumeric() || HOST_MARKS.contains(byte);
    let host_end = if bytes.starts_with(b"[") {
        let end = bytes.iter().position(|&byte| byte == b']')?;
        let literal = latin1(&bytes[1..end]);
        let is_future = |rest: &str| match rest.split_once('.') {
            Some((version, address)) => {
                let is_hex = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_hexdigit());
                is_hex && !address.is_empty() && address.bytes().all(|byte| is_mark(&byte) || byte == b':')
            }
            None => false,
        };
        let is_address = match literal.strip_prefix(['v', 'V']) {
            Some(rest) => is_future(rest),
            None => is_ipv6_address(&literal),
        };
        if !is_address {
            return None;
        }
        end + 1
    } else {
        let end = bytes.iter().position(|&byte| byte == b':').unwrap_or(bytes.len());
        if end == 0 || !is_registered_name(&bytes[..end], is_mark) {
            return None;
        }
        end
    };
    match &bytes[host_end..] {
        [] => Some(b""),
        [b':', port @ ..] if is_digits(port) => Some(port),
        _ => None,
    }
}

/// Eight groups of hexadecimal digits, of which `::` stands for one or more, and of which an IPv4 address may be the last
/// two (RFC 3986 3.2.2).
fn is_ipv6_address(text: &str) -> bool {
    // The number of groups, if all groups are right. An IPv4 address may stand at the end.
    let groups = |part: &str, ends: bool| -> Option<usize> {
        if part.is_empty() {
            return Some(0);
        }
        let words: Vec<&str> = part.split(':').collect();
        let (last, others) = words.split_last()?;
        let is_group = |word: &&str| (1..=4).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !others.iter().all(is_group) {
            return None;
        }
        match ends && last.contains('.') {
            true => is_ipv4_address(last).then_some(words.len() + 1),
            false => is_group(last).then_some(words.len()),
        }
    };
    match text.split_once("::") {
        Some((before, after)) => match (groups(before, false), groups(after, true)) {
            (Some(before), Some(after)) => before + after < 8,
            _ => false,
        },
        None => groups(text, true) == Some(8),
    }
}

fn is_ipv4_address(text: &str) -> bool {
    let is_octet = |word: &str| {
        let is_number = (1..=3).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_digit());
        is_number && (word == "0" || !word.starts_with('0')) && word.parse::<u16>().unwrap() < 256
    };
    text.split('.').count() == 4 && text.split('.').all(is_octet)
}

fn is_registered_name(mut name: &[u8], is_mark: impl Fn(&u8) -> bool) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if is_mark(byte) => rest,
            _ => return false,
        };
    }
}

/// The size in a chunk-size line, if the line is right (RFC 9112 7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, mut rest) = line.split_at(end);
    while !rest.is_empty() {
        rest = chunk_extension(rest)?;
    }
    if digits.is_empty() {
        return None;
    }
    let digits = latin1(digits);
    u64::from_str_radix(&format!("0{}", digits.trim_start_matches('0')), 16).ok()
}

/// The text after one `BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ]` (RFC 9112 7.1.1).
fn chunk_extension(line: &[u8]) -> Option<&[u8]> {
    let rest = after_spaces(after_spaces(line).strip_prefix(b";")?);
    let rest = after_token(rest)?;
    let Some(value) = after_spaces(rest).strip_prefix(b"=") else { return Some(rest) };
    let value = after_spaces(value);
    let Some(mut quoted) = value.strip_prefix(b"\"") else { return after_token(value) };
    loop {
        quoted = match quoted {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] if is_text(*byte) => rest,
            [byte, rest @ ..] if is_text(*byte) && *byte != b'\\' => rest,
            _ => return None,
        };
    }
}

fn after_spaces(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn after_token(bytes: &[u8]) -> Option<&[u8]> {
    let end = (0..=bytes.len()).rfind(|&end| is_token(&bytes[..end]))?;
    Some(&bytes[end..])
}

fn is_trailer(line: &[u8]) -> bool {
    const FORBIDDEN: [&str; 5] = ["transfer-encoding", "content-length", "host", "connection", "upgrade"];
    field(line).is_some_and(|(name, _)| !FORBIDDEN.contains(&&*latin1(name).to_ascii_lowercase()))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
