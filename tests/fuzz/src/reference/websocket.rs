//! A second reading of RFC 6455, in the same manner: a handshake by the values of its fields, and a conversation by
//! cutting all of its bytes into frames first.

use _rmeinheld::http::framing::BodyFraming;
use _rmeinheld::websocket::close_codes::NO_CODE;
use _rmeinheld::websocket::closing::Close;
use _rmeinheld::websocket::protocol::Message;

use super::{Head, is_token, ows_trimmed};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A request for a WebSocket.
#[derive(Debug)]
pub struct Handshake<'a> {
    /// The statuses of its faults. A handshake with faults is refused with one of these.
    pub faults: Vec<u16>,
    /// The value of Sec-WebSocket-Accept for a handshake without faults.
    pub accept: String,
    pub subprotocols: Vec<&'a [u8]>,
}

/// The handshake that a request is, unless it is only HTTP.
pub fn handshake<'a>(head: &Head<'a>, origins: Option<&[String]>) -> Option<Handshake<'a>> {
    let values = |name: &str| -> Vec<&'a [u8]> {
        let is_name = |field: &&(&'a [u8], &'a [u8])| field.0.eq_ignore_ascii_case(name.as_bytes());
        head.fields.iter().filter(is_name).map(|field| field.1).collect()
    };
    let members = |name: &str| -> Vec<&'a [u8]> {
        let members = values(name).into_iter().flat_map(|value| value.split(|&byte| byte == b','));
        members.map(ows_trimmed).filter(|member| !member.is_empty()).collect()
    };
    let has_member = |name: &str, wanted: &[u8]| members(name).iter().any(|one| one.eq_ignore_ascii_case(wanted));
    let is_asked_for = has_member("upgrade", b"websocket") && has_member("connection", b"upgrade");
    if !head.has_upgrade || !is_asked_for || head.method != b"GET" {
        return None;
    }
    let (keys, versions) = (values("sec-websocket-key"), values("sec-websocket-version"));
    let is_allowed = |origins: &[String], origin: &[u8]| {
        origins.iter().any(|one| one.to_ascii_lowercase().as_bytes() == origin.to_ascii_lowercase())
    };
    let rules = [
        (400, keys.len() == 1 && is_key(keys[0])),
        (400, versions.len() == 1),
        (426, versions.len() != 1 || versions[0] == b"13"),
        (400, matches!(head.body, BodyFraming::None | BodyFraming::Length(0))),
        (403, origins.is_none_or(|origins| values("origin").iter().all(|origin| is_allowed(origins, origin)))),
        (400, members("sec-websocket-protocol").into_iter().all(is_token)),
        (400, values("sec-websocket-extensions").into_iter().all(is_extension_list)),
    ];
    let faults: Vec<u16> = rules.iter().filter(|rule| !rule.1).map(|rule| rule.0).collect();
    if members("upgrade").len() > 1 && faults.iter().any(|&fault| fault != 403) {
        return None;
    }
    let accept = if faults.is_empty() { base64(&sha1(&[keys[0], GUID].concat())) } else { String::new() };
    let mut subprotocols = Vec::new();
    for member in members("sec-websocket-protocol") {
        if !subprotocols.contains(&member) {
            subprotocols.push(member);
        }
    }
    Some(Handshake { faults, accept, subprotocols })
}

/// RFC 6455 9.1, with members of the list that may be empty (RFC 9110 5.6.1.2).
fn is_extension_list(value: &[u8]) -> bool {
    let is_extension = |member: &[u8]| {
        let parts = cut(member, b';').unwrap_or_default();
        parts.split_first().is_some_and(|(name, parameters)| {
            is_token(ows_trimmed(name)) && parameters.iter().all(|parameter| is_parameter(parameter))
        })
    };
    let members = cut(value, b',');
    members.is_some_and(|members| {
        members.into_iter().map(ows_trimmed).all(|member| member.is_empty() || is_extension(member))
    })
}

fn is_parameter(parameter: &[u8]) -> bool {
    let Some(place) = parameter.iter().position(|&byte| byte == b'=') else { return is_token(ows_trimmed(parameter)) };
    let (name, value) = (ows_trimmed(&parameter[..place]), ows_trimmed(&parameter[place + 1..]));
    let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    is_token(name) && quoted.map_or_else(|| is_token(value), |quoted| is_token(&unescaped(quoted)))
}

/// The contents of a quoted string. A quotation mark or a backslash in them is no part of a token.
fn unescaped(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter();
    std::iter::from_fn(|| match bytes.next()? {
        b'\\' => bytes.next().or(Some(&b'\\')),
        byte => Some(byte),
    })
    .copied()
    .collect()
}

/// The parts between separators outside of quotation marks. `None`: a mark has no partner.
fn cut(text: &[u8], separator: u8) -> Option<Vec<&[u8]>> {
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (place, &byte) in text.iter().enumerate() {
        if is_escaped {
            is_escaped = false;
        } else if is_quoted && byte == b'\\' {
            is_escaped = true;
        } else if byte == b'"' {
            is_quoted = !is_quoted;
        } else if byte == separator && !is_quoted {
            parts.push(&text[start..place]);
            start = place + 1;
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// Sixteen bytes in base64: 21 digits of six bits, one more that has the last two, and padding.
fn is_key(key: &[u8]) -> bool {
    key.len() == 24
        && key.ends_with(b"==")
        && key[..21].iter().all(|digit| BASE64.contains(digit))
        && b"AQgw".contains(&key[21])
}

/// RFC 4648 4.
pub fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            let digit = BASE64[(bits >> (18 - 6 * index)) as usize % 64];
            text.push(if index > group.len() { '=' } else { digit.into() });
        }
    }
    text
}

/// RFC 3174 6.1.
fn sha1(bytes: &[u8]) -> Vec<u8> {
    let mut padded = [bytes, b"\x80"].concat();
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((bytes.len() as u64 * 8).to_be_bytes());
    let mut state: [u32; 5] = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0];
    for block in padded.chunks(64) {
        let mut words: Vec<u32> = block.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word)).collect();
        for t in 16..80 {
            words.push((words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (t, word) in words.into_iter().enumerate() {
            let (f, k) = match t / 20 {
                0 => ((b & c) | (!b & d), 0x5A827999),
                1 => (b ^ c ^ d, 0x6ED9EBA1),
                2 => ((b & c) | (b & d) | (c & d), 0x8F1BBCDC),
                _ => (b ^ c ^ d, 0xCA62C1D6),
            };
            let next = [f, e, word, k].into_iter().fold(a.rotate_left(5), u32::wrapping_add);
            [a, b, c, d, e] = [next, a, b.rotate_left(30), c, d];
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    state.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// A frame whose header is complete.
#[derive(Debug)]
pub struct Frame {
    /// The first byte: FIN, the reserved bits, the opcode.
    pub first: u8,
    pub is_masked: bool,
    pub length: u64,
    /// Whether the length has more bytes than it needs.
    pub is_long_form: bool,
    /// As much as there is, without the mask.
    pub payload: Vec<u8>,
    /// Where the payload begins.
    pub start: usize,
}

/// The frames of a stream (RFC 6455 5.2).
pub fn frames(bytes: &[u8]) -> Vec<Frame> {
    let mut rest = bytes;
    std::iter::from_fn(|| next_frame(bytes.len(), &mut rest)).collect()
}

fn next_frame(total: usize, rest: &mut &[u8]) -> Option<Frame> {
    let (&[first, second], mut after) = rest.split_first_chunk()?;
    let length = match second & 0x7F {
        126 => u16::from_be_bytes(next_array(&mut after)?).into(),
        127 => u64::from_be_bytes(next_array(&mut after)?),
        length => length.into(),
    };
    let is_long_form = match second & 0x7F {
        126 => length <= 125,
        127 => length <= 0xFFFF,
        _ => false,
    };
    let is_masked = second & 0x80 != 0;
    let mask = if is_masked { next_array(&mut after)? } else { [0; 4] };
    let start = total - after.len();
    let (payload, after) = after.split_at(usize::try_from(length).unwrap_or(usize::MAX).min(after.len()));
    *rest = after;
    let payload = payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
    Some(Frame { first, is_masked, length, is_long_form, payload, start })
}

fn next_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*array)
}

/// The state of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    Closed(Close),
    /// A rule was broken; the code that says so.
    Violated(u16),
}

/// The result of a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    pub messages: Vec<Message>,
    pub replies: Vec<u8>,
    pub end: End,
    /// The number of bytes that showed the end, or the number of all bytes if the conversation is open.
    pub read: usize,
}

impl Conversation {
    fn violated(mut self, code: u16, read: usize) -> Self {
        self.replies.extend([0x88, 2]);
        self.replies.extend(code.to_be_bytes());
        Self { end: End::Violated(code), read, ..self }
    }
}

/// All that a client says, to a server that has not closed.
pub fn conversation(bytes: &[u8], limit: usize) -> Conversation {
    let mut seen = Conversation { messages: Vec::new(), replies: Vec::new(), end: End::Open, read: bytes.len() };
    let mut message: Option<(bool, Vec<u8>)> = None;
    for frame in frames(bytes) {
        let Frame { first, length, payload, start, .. } = &frame;
        let (is_complete, end) = (payload.len() as u64 == *length, start + payload.len());
        if let Some(code) = header_fault(&frame, message.as_ref().map(|(_, data)| data.len()), limit) {
            return seen.violated(code, *start);
        }
        match first & 0x0F {
            8..=10 if !is_complete => break,
            8 => {
                return match close(payload) {
                    Ok(close) => {
                        seen.replies.extend([0x88, payload.len().min(2) as u8]);
                        seen.replies.extend(payload.iter().take(2));
                        Conversation { end: End::Closed(close), read: end, ..seen }
                    }
                    Err(code) => seen.violated(code, end),
                };
            }
            9 => {
                seen.replies.extend([0x8A, payload.len() as u8]);
                seen.replies.extend(payload);
            }
            10 => {}
            opcode => {
                let (is_text, mut data) = message.take().unwrap_or((opcode == 1, Vec::new()));
                let before = data.len();
                data.extend(payload);
                assert!(data.len() <= limit, "more is kept than the limit");
                let is_whole = is_complete && first & 0x80 != 0;
                if is_text && let Some(wrong) = text_fault(&data, is_whole) {
                    return seen.violated(1007, start + wrong - before);
                }
                match is_whole {
                    true if is_text => seen.messages.push(Message::Text(String::from_utf8(data).unwrap())),
                    true => seen.messages.push(Message::Binary(data)),
                    false => message = Some((is_text, data)),
                }
            }
        }
    }
    seen
}

/// The fault of a header, after this number of bytes of a message.
fn header_fault(frame: &Frame, begun: Option<usize>, limit: usize) -> Option<u16> {
    let opcode = frame.first & 0x0F;
    let is_allowed = match opcode {
        0 => begun.is_some(),
        1 | 2 => begun.is_none(),
        8..=10 => frame.first & 0x80 != 0 && frame.length <= 125,
        _ => false,
    };
    if !is_allowed || !frame.is_masked || frame.is_long_form || frame.first & 0x70 != 0 {
        return Some(1002);
    }
    let total = u128::from(frame.length) + begun.unwrap_or(0) as u128;
    (opcode < 8 && total > limit as u128).then_some(1009)
}

/// The bytes that show that a text, or the beginning of one, is not UTF-8.
fn text_fault(text: &[u8], is_whole: bool) -> Option<usize> {
    let start = str::from_utf8(text).err()?.valid_up_to();
    let is_wrong = |end: &usize| str::from_utf8(&text[start..*end]).is_err_and(|error| error.error_len().is_some());
    (start..=text.len()).find(is_wrong).or(is_whole.then_some(text.len()))
}

/// The code in the payload of a close, or the code that refuses it (RFC 6455 7.4, and IANA's registry).
fn close(payload: &[u8]) -> Result<Close, u16> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() { Ok(Close { code: NO_CODE, reason: String::new() }) } else { Err(1002) };
    };
    match u16::from_be_bytes([*high, *low]) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => {
            String::from_utf8(reason.to_vec()).map(|reason| Close { code, reason }).map_err(|_| 1007)
        }
        _ => Err(1002),
    }
}
