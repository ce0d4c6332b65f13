//! An open WebSocket: one byte that chooses, two for the longest message, and the cuts. The choice is between the bytes
//! of the peer, the contents of right and wrong frames, and messages that have to arrive. The last two begin with four
//! bytes of a mask.

use _rmeinheld::websocket::closing::{Close, ClosingEvent};
use _rmeinheld::websocket::protocol::{CONTROL_BYTES, Message, MessageKind, Protocol, write_message, write_ping};

use crate::input::{Cuts, Input};
use crate::reference::websocket::{Conversation, End, conversation, frames};
use crate::shown;

/// Frames that would be answered or delivered: text, a ping and a close, with a mask of zeros.
const LATE: &[u8] = b"\x81\x81\0\0\0\0a\x89\x80\0\0\0\0\x88\x80\0\0\0\0";

/// The code of a server that closes first.
const OWN_CODE: u16 = 3000;

/// More frames find no further faults, and take long.
const MOST_FRAGMENTS: usize = 16;

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (choice, limit, cuts) = (input.byte(), usize::from(input.short()), input.cuts());
    match choice % 3 {
        0 => drop(compare(input.0, limit, &cuts)),
        1 => drop(compare(&any_frames(input), limit, &cuts)),
        _ => there_and_back(input, &cuts),
    }
}

/// Do the bytes lead to the result of the reference, however they are cut?
fn compare(stream: &[u8], limit: usize, cuts: &Cuts) -> Conversation {
    let expected = conversation(stream, limit);
    // Byte by byte, the end comes with the byte that shows it: nothing is kept beyond it, and nothing over the limit.
    assert_eq!(feed(limit, false, stream.chunks(1)), expected, "{}", shown(stream));
    let whole = Conversation { read: stream.len(), ..expected.clone() };
    assert_eq!(feed(limit, false, [stream]), whole, "{}", shown(stream));
    let read = cuts.ends(stream.len()).find(|&end| end >= expected.read).expect("read more than there is");
    let pieces = Conversation { read, ..expected.clone() };
    assert_eq!(feed(limit, false, cuts.pieces(stream)), pieces, "{cuts:?} {}", shown(stream));

    // A server that has closed wants nothing but the answer.
    let mut replies = vec![0x88, 4];
    replies.extend([&OWN_CODE.to_be_bytes()[..], b"me"].concat());
    let end = match pieces.end.clone() {
        End::Closed(_) => End::Closed(own_close()),
        end => end,
    };
    let closing = Conversation { messages: Vec::new(), replies, end, ..pieces };
    assert_eq!(feed(limit, true, cuts.pieces(stream)), closing, "{cuts:?} {}", shown(stream));
    check(&expected, limit);
    expected
}

/// Properties of every conversation, independent of the reference.
fn check(seen: &Conversation, limit: usize) {
    assert!(seen.messages.iter().all(|message| message.size() <= limit));
    for frame in frames(&seen.replies) {
        assert!(!frame.is_masked && matches!(frame.first, 0x88 | 0x8A), "{frame:?}");
        assert!(frame.length <= CONTROL_BYTES as u64 && frame.payload.len() as u64 == frame.length, "{frame:?}");
    }
    if let End::Violated(code) = seen.end {
        assert!(matches!(code, 1002 | 1007 | 1009), "{code}");
    }
}

/// The close of a server that closes first.
fn own_close() -> Close {
    Close { code: OWN_CODE, reason: "me".to_owned() }
}

/// Feeds the pieces to a new connection. With `is_closing`, the server has closed it before.
fn feed<'a>(limit: usize, is_closing: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> Conversation {
    let mut protocol = Protocol::new(limit, None);
    let (mut messages, mut replies, mut read) = (Vec::new(), Vec::new(), 0);
    if is_closing {
        protocol.apply(ClosingEvent::OwnClose(own_close()), &mut replies);
    }
    for piece in pieces {
        read += piece.len();
        let received = protocol.receive(piece, &mut replies, |message| messages.push(message));
        if received.is_ok() && protocol.closing().is_reading() {
            assert!(protocol.closing().is_open() != is_closing);
            continue;
        }
        assert_is_deaf(&mut protocol);
        protocol.apply(ClosingEvent::ViolationDue, &mut replies);
        assert!(protocol.closing().is_flushing());
        assert_is_deaf(&mut protocol);
        let close = protocol.closing().close().cloned().expect("a reason");
        protocol.apply(ClosingEvent::OwnClose(Close { reason: "again".to_owned(), ..own_close() }), &mut replies);
        let end = received.map_or_else(|violation| End::Violated(violation.code), |_| End::Closed(close));
        return Conversation { messages, replies, end, read };
    }
    Conversation { messages, replies, end: End::Open, read }
}

fn assert_is_deaf(protocol: &mut Protocol) {
    let mut replies = Vec::new();
    let received = protocol.receive(LATE, &mut replies, |message| panic!("{message:?} after the end"));
    assert_eq!((received, &replies[..]), (Ok(0), &[][..]));
}

/// For each frame its first byte, one that chooses how its length is written, and its payload after one byte for that.
fn any_frames(mut input: Input) -> Vec<u8> {
    let mut mask = mask_of(&mut input);
    let mut stream = Vec::new();
    while !input.0.is_empty() {
        let (first, choice, length) = (input.byte(), input.byte(), input.byte());
        let payload = input.take(length.into());
        let chosen = |bit: u8| choice & (1 << bit) != 0;
        let declared = payload.len() as u64 + u64::from(chosen(2));
        write_frame(&mut stream, first, choice, declared, (!chosen(3)).then_some(mask), payload);
        mask.rotate_left(1);
    }
    stream
}

/// One byte that chooses, two that are the sizes of fragments, in turn, and then for each message one byte that chooses
/// and its payload after two for its length. The longest message is as long as the limit.
fn there_and_back(mut input: Input, cuts: &Cuts) {
    let mut mask = mask_of(&mut input);
    let style = input.byte();
    let sizes = [input.byte(), input.byte()].map(|size| usize::from(size) + 1);
    let (mut stream, mut messages, mut replies) = (Vec::new(), Vec::new(), Vec::new());
    while !input.0.is_empty() {
        let (choice, length) = (input.byte(), input.short() % 1024);
        let data = input.take(length.into());
        let message = match choice % 2 {
            0 => Message::Text(String::from_utf8_lossy(data).into_owned()),
            _ => Message::Binary(data.to_vec()),
        };
        let (mut opcode, mut rest) = match &message {
            Message::Text(text) => (1, text.as_bytes()),
            Message::Binary(data) => (2, &data[..]),
        };
        check_writing(choice % 2 == 0, rest);
        let sizes = sizes.into_iter().cycle().take(MOST_FRAGMENTS).chain(std::iter::repeat(usize::MAX));
        for (index, size) in sizes.enumerate() {
            let (fragment, after) = rest.split_at(size.min(rest.len()));
            // Some messages end with a fragment of nothing.
            let is_last = after.is_empty() && (choice & 2 == 0 || rest.is_empty());
            let first = opcode | if is_last { 0x80 } else { 0 };
            write_frame(&mut stream, first, 0, fragment.len() as u64, Some(mask), fragment);
            mask.rotate_left(1);
            (opcode, rest) = (0, after);
            let control = &fragment[..fragment.len().min(CONTROL_BYTES)];
            let kind = match usize::from(choice / 4) + index {
                number if number % 3 == 0 => 0x89,
                number if number % 5 == 0 => 0x8A,
                _ => 0,
            };
            if kind != 0 {
                write_frame(&mut stream, kind, 0, control.len() as u64, Some(mask), control);
            }
            if kind == 0x89 {
                replies.extend([&[0x8A, control.len() as u8], control].concat());
            }
            if is_last {
                break;
            }
        }
        messages.push(message);
    }
    let mut end = End::Open;
    if style % 2 == 1 {
        let code = 4000 + u16::from(style);
        let payload = [&code.to_be_bytes()[..], "adi\u{f3}s".as_bytes()].concat();
        write_frame(&mut stream, 0x88, 0, payload.len() as u64, Some(mask), &payload);
        replies.extend([&[0x88, 2], &payload[..2]].concat());
        end = End::Closed(Close { code, reason: "adi\u{f3}s".to_owned() });
    }
    let limit = messages.iter().map(Message::size).max().unwrap_or(0);
    let expected = Conversation { messages, replies, end, read: stream.len() };
    assert_eq!(compare(&stream, limit, cuts), expected, "{}", shown(&stream));
}

/// The server writes one whole frame without a mask.
fn check_writing(is_text: bool, payload: &[u8]) {
    let mut out = Vec::new();
    write_message(&mut out, if is_text { MessageKind::Text } else { MessageKind::Binary }, payload);
    let message_bytes = out.len();
    let control = &payload[..payload.len().min(CONTROL_BYTES)];
    write_ping(&mut out, control);
    let [message, ping] = &frames(&out)[..] else { panic!("not two frames: {}", shown(&out)) };
    assert_eq!((message.first, &message.payload[..]), (if is_text { 0x81 } else { 0x82 }, payload));
    assert_eq!((ping.first, &ping.payload[..]), (0x89, control));
    assert!(!message.is_masked && !ping.is_masked && message.start + payload.len() == message_bytes);
}

fn mask_of(input: &mut Input) -> [u8; 4] {
    [input.byte(), input.byte(), input.byte(), input.byte()]
}

/// A frame whose length is written in the shortest form, or as 16 bits (`form` of 1 modulo 4), or as 64 (2).
pub fn write_frame(out: &mut Vec<u8>, first: u8, form: u8, length: u64, mask: Option<[u8; 4]>, payload: &[u8]) {
    let is_masked = if mask.is_some() { 0x80 } else { 0 };
    out.push(first);
    match form % 4 {
        2 => {
            out.push(is_masked | 127);
            out.extend(length.to_be_bytes());
        }
        form if form == 1 || length > 125 => {
            out.push(is_masked | 126);
            out.extend(u16::try_from(length).expect("inputs are shorter").to_be_bytes());
        }
        _ => out.push(is_masked | length as u8),
    }
    out.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    out.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
}
