//! Frames as bytes in; messages, answers and violations out. The examples of RFC 6455 5.7 are among the cases.

use super::*;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        length @ 0..126 => out.push(0x80 | length as u8),
        length @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

#[derive(Debug, PartialEq, Eq)]
struct Conversation {
    messages: Vec<Message>,
    out: Vec<u8>,
    close: Option<Close>,
    violation: Option<Violation>,
}

/// The same bytes at once, byte by byte, and in pieces of three: the outcome must not differ.
fn receive(input: &[u8]) -> Conversation {
    let [whole, bytes, pieces] = [usize::MAX, 1, 3].map(|size| {
        let mut protocol = Protocol::new(1000, None);
        let mut seen = Conversation { messages: Vec::new(), out: Vec::new(), close: None, violation: None };
        for piece in input.chunks(size.min(input.len().max(1))) {
            if let Err(violation) = protocol.receive(piece, &mut seen.out, |message| seen.messages.push(message)) {
                seen.violation = Some(violation);
                assert_eq!(protocol.closing().violation(), Some(violation));
                assert_eq!(protocol.receive(b"more", &mut seen.out, |_| {}), Ok(0));
                protocol.apply(ClosingEvent::ViolationDue, &mut seen.out);
                assert!(protocol.closing().is_flushing());
                break;
            }
        }
        seen.close = protocol.closing().close().cloned();
        seen
    });
    assert_eq!(whole, bytes);
    assert_eq!(whole, pieces);
    whole
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

#[test]
fn the_example_of_the_rfc_is_hello() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(receive(&hello).messages, [text("Hello")]);
}

#[test]
fn control_frames_come_between_fragments() {
    let input = [frame(0x01, b"Hel"), frame(0x89, b"?"), frame(0x8a, b""), frame(0x80, b"lo"), frame(0x82, b"\xff")];
    let outcome = receive(&input.concat());
    assert_eq!(outcome.messages, [text("Hello"), Message::Binary(vec![0xff])]);
    assert_eq!(outcome.out, [0x8a, 1, b'?']);
}

#[test]
fn each_violation_closes_with_its_code() {
    let long = [b'a'; 126];
    let table: [(u16, Vec<u8>); 20] = [
        (1002, frame(0xc1, b"a")),
        (1002, frame(0xa1, b"a")),
        (1002, frame(0x91, b"a")),
        (1002, vec![0x81, 1, b'a']),
        (1002, frame(0x83, b"a")),
        (1002, frame(0x8b, b"a")),
        (1002, frame(0x09, b"a")),
        (1002, frame(0x89, &long)),
        (1002, frame(0x80, b"a")),
        (1002, [frame(0x01, b"a"), frame(0x81, b"b")].concat()),
        (1002, frame(0x88, b"\x03")),
        (1002, frame(0x88, b"\x03\xed")),
        (1002, frame(0x88, b"\x00\x00")),
        (1007, frame(0x88, b"\x03\xe8\xff")),
        (1007, frame(0x81, b"a\xff")),
        (1007, frame(0x81, b"\xc3")),
        (1002, [&[0x82, 0x80 | 126, 0, 125], &MASK[..], &[0; 125]].concat()),
        (1002, [&[0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 1, 0], &MASK[..], &[0; 256]].concat()),
        (1009, frame(0x82, &[0; 1001])),
        (1009, [frame(0x02, &[0; 600]), frame(0x80, &[0; 401])].concat()),
    ];
    for (code, input) in table {
        let outcome = receive(&input);
        assert_eq!(outcome.violation.map(|violation| violation.code), Some(code), "{input:02x?}");
        let [high, low] = code.to_be_bytes();
        assert_eq!(outcome.out, [0x88, 2, high, low]);
    }
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_payload() {
    let mut protocol = Protocol::new(1000, None);
    let mut header = frame(0x82, &[0; 1001]);
    header.truncate(8);
    let mut out = Vec::new();
    assert_eq!(protocol.receive(&header, &mut out, |_| {}).unwrap_err().code, 1009);
    let endless = [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(Protocol::new(1000, None).receive(&endless, &mut out, |_| {}).unwrap_err().code, 1009);
}

#[test]
fn text_is_checked_within_a_frame() {
    let whole = frame(0x81, "\u{3ba}\u{1f79}\u{f4}".as_bytes());
    assert_eq!(receive(&whole).messages, [text("\u{3ba}\u{1f79}\u{f4}")]);
    // The frame says 100 bytes; the third is wrong already.
    let mut payload = b"ab\xf5".to_vec();
    payload.resize(100, b'c');
    let mut protocol = Protocol::new(1000, None);
    let mut out = Vec::new();
    let input = frame(0x81, &payload);
    assert!(protocol.receive(&input[..8], &mut out, |_| {}).is_ok());
    assert_eq!(protocol.receive(&input[8..9], &mut out, |_| {}).unwrap_err().code, 1007);
}

#[test]
fn a_character_may_be_split_between_fragments_but_not_left_open() {
    let input = [frame(0x01, b"\xf0\x9f"), frame(0x00, b"\x98"), frame(0x80, b"\x80")].concat();
    assert_eq!(receive(&input).messages, [text("\u{1f600}")]);
    let input = [frame(0x01, b"\xf0\x9f"), frame(0x80, b"a")].concat();
    assert_eq!(receive(&input).violation.unwrap().code, 1007);
    // A surrogate is wrong at its second byte.
    assert_eq!(receive(&frame(0x01, b"\xed\xa0")).violation.unwrap().code, 1007);
}

#[test]
fn a_close_is_answered_with_its_code_once_and_ends_everything() {
    let input = [frame(0x88, b"\x03\xe8bye"), frame(0x89, b"late"), frame(0xff, b"")].concat();
    let outcome = receive(&input);
    assert_eq!(outcome.close, Some(Close { code: 1000, reason: "bye".to_owned() }));
    assert_eq!(outcome.out, [0x88, 2, 0x03, 0xe8]);
    let outcome = receive(&frame(0x88, b""));
    assert_eq!(outcome.close, Some(Close { code: NO_CODE, reason: String::new() }));
    assert_eq!(outcome.out, [0x88, 0]);
}

#[test]
fn after_our_close_messages_are_dropped_and_the_answer_ends_it() {
    let mut protocol = Protocol::new(1000, None);
    let mut out = Vec::new();
    for (code, reason) in [(3000, "done"), (1000, "again")] {
        protocol.apply(ClosingEvent::OwnClose(Close { code, reason: reason.to_owned() }), &mut out);
    }
    assert_eq!(out, b"\x88\x06\x0b\xb8done");
    let input = [frame(0x81, b"late"), frame(0x89, b"?"), frame(0x88, b"\x0b\xb8")].concat();
    let mut messages = Vec::new();
    protocol.receive(&input, &mut out, |message| messages.push(message)).unwrap();
    assert_eq!((messages.len(), protocol.closing().close().map(|close| close.code)), (0, Some(3000)));
    assert_eq!(out, b"\x88\x06\x0b\xb8done");
    assert!(protocol.closing().is_flushing());
}

#[test]
fn long_messages_are_unmasked_whatever_their_pieces() {
    let payload: Vec<u8> = (0..=255).cycle().take(999).collect();
    for size in [1, 2, 3, 5, 7, 8, 64, 333, 2000] {
        let mut protocol = Protocol::new(1000, None);
        let mut messages = Vec::new();
        for piece in frame(0x82, &payload).chunks(size) {
            protocol.receive(piece, &mut Vec::new(), |message| messages.push(message)).unwrap();
        }
        assert_eq!(messages, [Message::Binary(payload.clone())]);
    }
}

#[test]
fn lengths_are_written_in_their_shortest_form() {
    for (length, header) in [(0, vec![0x82, 0]), (125, vec![0x82, 125]), (126, vec![0x82, 126, 0, 126])] {
        let mut out = Vec::new();
        write_message(&mut out, MessageKind::Binary, &vec![0; length]);
        assert_eq!((out.len(), &out[..header.len()]), (header.len() + length, &header[..]));
    }
    let mut out = Vec::new();
    write_message(&mut out, MessageKind::Text, &[b'a'; 65536]);
    assert_eq!(out[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn a_message_that_grows_keeps_no_room_beyond_the_limit() {
    let mut protocol = Protocol::new(1000, None);
    let mut out = Vec::new();
    protocol.receive(&frame(0x02, &[0; 300]), &mut out, |_| {}).unwrap();
    for _ in 0..7 {
        protocol.receive(&frame(0x00, &[0; 100]), &mut out, |_| {}).unwrap();
        assert!(protocol.message.as_ref().unwrap().data.capacity() <= 1000);
    }
}

#[test]
fn no_more_frames_are_taken_than_are_asked_for() {
    let all = [frame(0x89, b"1"), frame(0x01, b"a"), frame(0x8a, b""), frame(0x80, b"b"), frame(0x89, b"2")].concat();
    let (mut protocol, mut out, mut messages) = (Protocol::new(1000, None), Vec::new(), Vec::new());
    let mut rest = all.as_slice();
    for (frames, left) in [(2, 3), (1, 2), (0, 2), (5, 0)] {
        let taken = protocol.receive_some(&mut rest, frames, &mut out, |message| messages.push(message)).unwrap();
        assert_eq!(taken, frames.min(2));
        assert_eq!(rest.is_empty(), left == 0);
    }
    assert_eq!(messages, [text("ab")]);
    assert_eq!(out, [0x8a, 1, b'1', 0x8a, 1, b'2']);
}
