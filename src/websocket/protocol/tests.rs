//! Frames as bytes in; messages, answers and violations out. The examples of RFC 6455 5.7 are among the cases.

use super::*;
use crate::websocket::deflate::compress;
use crate::websocket::extension::{Compression, Offer};

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
    receive_with(input, None)
}

/// As [`receive`], with compression.
fn receive_with(input: &[u8], agreement: Option<Agreement>) -> Conversation {
    let [whole, bytes, pieces] = [usize::MAX, 1, 3].map(|size| {
        let mut protocol = Protocol::new(1000, agreement);
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
fn short_messages_end_and_break_rules_as_their_pieces_do() {
    let mixed = [
        frame(0x81, b""),
        frame(0x82, &[7; 125]),
        frame(0x82, &[7; 126]),
        frame(0x89, b"ping"),
        frame(0x81, "\u{20ac}".as_bytes()),
        frame(0x01, b"begun"),
    ];
    let messages = [text(""), Message::Binary(vec![7; 125]), Message::Binary(vec![7; 126]), text("\u{20ac}")];
    let begun = mixed.concat();
    assert_eq!(receive(&begun).messages, messages);
    // Each is short, and refused as if it came byte by byte.
    for (wrong, code) in [(frame(0x82, b"b"), 1002), (frame(0x80, b"\xff"), 1007), (vec![0x81, 1, b'a'], 1002)] {
        let outcome = receive(&[begun.as_slice(), &wrong].concat());
        assert_eq!((outcome.messages.as_slice(), outcome.violation.unwrap().code), (&messages[..], code));
    }
    let mut protocol = Protocol::new(3, None);
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    let input = [frame(0x82, b"abc"), frame(0x82, b"abcd")].concat();
    assert_eq!(protocol.receive(&input, &mut out, |message| seen.push(message)).unwrap_err().code, 1009);
    assert_eq!(seen, [Message::Binary(b"abc".to_vec())]);
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
    let (mut protocol, mut out) = (Protocol::new(1000, None), Vec::new());
    let mut messages: Vec<Message> = Vec::new();
    let mut rest = all.as_slice();
    for (frames, left) in [(2, 3), (1, 2), (0, 2), (5, 0)] {
        let taken =
            protocol.receive_some(&mut rest, frames, &mut out, |message| messages.push(message.into())).unwrap();
        assert_eq!(taken, frames.min(2));
        assert_eq!(rest.is_empty(), left == 0);
    }
    assert_eq!(messages, [text("ab")]);
    assert_eq!(out, [0x8a, 1, b'1', 0x8a, 1, b'2']);
}

/// The agreement with a client that offers `permessage-deflate` without parameters.
fn agreed(compression: Compression) -> Option<Agreement> {
    Offer::of([&b"permessage-deflate"[..]].into_iter()).unwrap().unwrap().agree(compression)
}

fn deflated(message: &[u8]) -> Vec<u8> {
    compress(message, 15, None).expect("shorter")
}

const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[test]
fn compressed_messages_come_between_others_and_in_fragments() {
    let long = "compress me ".repeat(50);
    let compressed = deflated(long.as_bytes());
    let (first, rest) = compressed.split_at(5);
    let input = [
        frame(0xc1, &HELLO),
        frame(0x81, b"plain"),
        frame(0x41, first),
        frame(0x89, b"?"),
        frame(0x00, b""),
        frame(0x00, rest),
        frame(0x80, b""),
        frame(0xc2, &HELLO),
        frame(0xc1, b"\0"),
    ];
    let expected = [text("Hello"), text("plain"), text(&long), Message::Binary(b"Hello".to_vec()), text("")];
    for compression in [Compression::On, Compression::Takeover] {
        let outcome = receive_with(&input.concat(), agreed(compression));
        assert_eq!(outcome.messages, expected);
        assert_eq!((outcome.out.as_slice(), outcome.violation), (&[0x8a, 1, b'?'][..], None));
    }
}

#[test]
fn a_message_refers_to_the_one_before_it_only_where_that_is_agreed() {
    // RFC 7692 7.2.3.2.
    let again = [0xf2, 0x00, 0x11, 0x00, 0x00];
    let input = [frame(0xc1, &HELLO), frame(0x81, b"plain"), frame(0xc1, &again)].concat();
    let outcome = receive_with(&input, agreed(Compression::Takeover));
    assert_eq!(outcome.messages, [text("Hello"), text("plain"), text("Hello")]);
    let outcome = receive_with(&input, agreed(Compression::On));
    assert_eq!(outcome.violation.map(|violation| violation.code), Some(1007));
}

#[test]
fn each_violation_of_compression_closes_with_its_code() {
    let bomb = deflated(&vec![b'a'; 1001]);
    let just = deflated(&vec![b'a'; 1000]);
    let half = deflated(&vec![b'a'; 600]);
    let table: [(Option<u16>, Vec<u8>); 16] = [
        // The bit of compression belongs on the first frame of a message alone (RFC 7692 6.1).
        (Some(1002), frame(0xc9, b"")),
        (Some(1002), frame(0xc8, b"")),
        (Some(1002), frame(0xca, b"")),
        (Some(1002), [frame(0x41, &HELLO[..3]), frame(0xc0, &HELLO[3..])].concat()),
        (Some(1002), [frame(0x01, b"a"), frame(0xc0, &HELLO)].concat()),
        (Some(1002), frame(0xe1, &HELLO)),
        (Some(1002), frame(0xd1, &HELLO)),
        (Some(1007), frame(0xc1, b"Hello")),
        (Some(1007), frame(0xc1, &HELLO[..4])),
        (Some(1007), frame(0xc1, b"")),
        (Some(1007), frame(0xc1, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xff, 0x00])),
        (Some(1007), frame(0xc1, &[0x00, 0x01, 0x00, 0xfe, 0xff, 0xc3, 0x00])),
        (Some(1009), frame(0xc1, &bomb)),
        (None, frame(0xc1, &just)),
        // A frame's length says nothing, but all fragments count.
        (Some(1009), [frame(0x41, &half), frame(0x80, &[&[0, 0, 0xff, 0xff][..], &half].concat())].concat()),
        (Some(1009), [frame(0x42, &[]), frame(0x80, &bomb)].concat()),
    ];
    for (code, input) in table {
        let outcome = receive_with(&input, agreed(Compression::On));
        assert_eq!(outcome.violation.map(|violation| violation.code), code, "{input:02x?}");
        assert!(outcome.messages.len() == usize::from(code.is_none()));
    }
}

#[test]
fn much_that_is_inflated_at_once_is_not_taken_at_once() {
    let mut protocol = Protocol::new(1 << 20, agreed(Compression::On));
    let bomb = frame(0xc2, &deflated(&vec![0; 1 << 20]));
    let input = bomb.repeat(3);
    let (mut rest, mut messages, mut calls) = (input.as_slice(), 0, 0);
    while !rest.is_empty() {
        let before = messages;
        protocol.receive_some(&mut rest, 128, &mut Vec::new(), |_| messages += 1).unwrap();
        calls += 1;
        assert!(messages <= before + 1);
    }
    assert_eq!(messages, 3);
    assert!(calls >= 3);
}

/// The contents of one frame, and whether it is compressed.
fn sent(frame: &[u8], context: &mut Option<SlidingWindow>) -> (Vec<u8>, bool) {
    let is_compressed = frame[0] & 0x40 != 0;
    let payload = match frame[1] {
        126 => &frame[4..],
        127 => &frame[10..],
        _ => &frame[2..],
    };
    if !is_compressed {
        return (payload.to_vec(), false);
    }
    let (mut inflating, mut out) = (Inflating::new(context.as_ref()), Vec::new());
    inflating.inflate(payload, &mut out, 1 << 20, context.as_ref()).unwrap();
    inflating.finish().unwrap();
    if let Some(context) = context {
        context.add(&out, 15);
    }
    (out, true)
}

#[test]
fn messages_are_sent_compressed_where_it_makes_them_shorter() {
    let long = b"{\"text\": \"some words\"}, ".repeat(2000);
    let cases =
        [(&b"hi"[..], false, false), (&long[..100], false, true), (&long[..300], true, true), (&long, true, true)];
    for (compression, takes_over) in [(Compression::On, false), (Compression::Takeover, true)] {
        let mut protocol = Protocol::new(1000, agreed(compression));
        let mut context = takes_over.then(SlidingWindow::default);
        for _ in 0..2 {
            for (message, alone, in_context) in cases {
                let mut out = Vec::new();
                let ready =
                    crate::websocket::deflate::is_compressed_alone(&protocol.agreement().unwrap(), message.len())
                        .then(|| compress(message, protocol.agreement().unwrap().sent_bits, None).unwrap());
                protocol.write_message(&mut out, MessageKind::Text, message, ready.as_deref());
                assert_eq!(sent(&out, &mut context), (message.to_vec(), if takes_over { in_context } else { alone }));
                // A frame that others get, too, does not need the context, and is in the context of the client.
                let mut shared = Vec::new();
                write_compressed(&mut shared, MessageKind::Text, &deflated(&long[..500]));
                protocol.note_shared_frame();
                assert!(sent(&shared, &mut context).1);
            }
        }
    }
}
