//! Compressed messages: one byte that chooses, two for the longest message, and the cuts. If the first bit of the choice
//! is 0, the rest is one compressed message. Otherwise it is messages after two bytes for their length each, which have
//! to arrive; the other bits choose the window and whether the context is kept.

use _rmeinheld::websocket::deflate::{InflateError, Inflating, SlidingWindow, compress};
use _rmeinheld::websocket::extension::{Agreement, Compression, Offer};
use _rmeinheld::websocket::protocol::{Message, MessageKind, Protocol};

use crate::input::{Cuts, Input};
use crate::reference::inflate::{Fault, inflate};
use crate::shown;
use crate::websocket::write_frame;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (choice, limit, cuts) = (input.byte(), usize::from(input.short()), input.cuts());
    if choice % 2 == 0 {
        one_message(input.0, limit, &cuts);
    } else {
        there_and_back(input, choice, &cuts);
    }
}

/// Do the bytes lead to the result of the reference, however they are cut, alone and in a frame?
fn one_message(payload: &[u8], limit: usize, cuts: &Cuts) {
    let expected = inflate(payload, limit);
    for cuts in [cuts, &Cuts::SINGLE] {
        assert_eq!(inflated(cuts.pieces(payload), limit), expected, "{cuts:?} {}", shown(payload));
    }
    assert_eq!(inflated([payload], limit), expected, "{}", shown(payload));

    let mut protocol = Protocol::new(limit, agreed(b"permessage-deflate", Compression::On));
    let mut stream = Vec::new();
    write_frame(&mut stream, 0xC2, 0, payload.len() as u64, Some(MASK), payload);
    let (mut messages, mut replies) = (Vec::new(), Vec::new());
    let mut seen = Ok(0);
    for piece in cuts.pieces(&stream) {
        seen = protocol.receive(piece, &mut replies, |message| messages.push(message));
        if seen.is_err() {
            break;
        }
    }
    match expected {
        Ok(message) => assert_eq!((seen.map(drop), messages), (Ok(()), vec![Message::Binary(message)])),
        Err(fault) => {
            let code = if fault == Fault::TooBig { 1009 } else { 1007 };
            assert_eq!(seen.map_err(|violation| violation.code), Err(code), "{}", shown(payload));
            assert!(messages.is_empty());
        }
    }
    assert!(replies.is_empty());
}

fn inflated<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> Result<Vec<u8>, Fault> {
    let fault = |error| if error == InflateError::TooBig { Fault::TooBig } else { Fault::Corrupt };
    let (mut inflating, mut message) = (Inflating::new(None), Vec::new());
    for piece in pieces {
        inflating.inflate(piece, &mut message, limit, None).map_err(fault)?;
        assert!(message.len() <= limit && message.capacity() <= limit.max(1024), "more is kept than the limit");
    }
    inflating.finish().map_err(fault)?;
    Ok(message)
}

/// Messages that are compressed, sent, and inflated, as the client does it and as the server does.
fn there_and_back(mut input: Input, choice: u8, cuts: &Cuts) {
    let bits = 9 + choice / 2 % 7;
    let field = format!("permessage-deflate; server_max_window_bits={bits}; client_max_window_bits={bits}");
    let keeps = choice & 0x10 != 0;
    let compression = if keeps { Compression::Takeover } else { Compression::On };
    let agreement = agreed(field.as_bytes(), compression);
    let sent_bits = agreement.map_or(15, |agreement| agreement.sent_bits);
    let (mut server, mut client) = (Protocol::new(1 << 16, agreement), Protocol::new(1 << 16, agreement));
    let mut own = SlidingWindow::default();
    while !input.0.is_empty() {
        let length = input.short() % 2048;
        let message = input.take(length.into());
        // To the client: the frame of the server is given a mask, so that the other side can read it.
        let mut frame = Vec::new();
        let alone = compress(message, sent_bits, None).filter(|_| !keeps);
        server.write_message(&mut frame, MessageKind::Binary, message, alone.as_deref());
        assert_eq!(received(&mut client, &masked(&frame), cuts), [Message::Binary(message.to_vec())]);
        if let Some(alone) = alone {
            assert_eq!(inflate(&alone, message.len()).as_deref(), Ok(message));
        }
        // To the server.
        if let Some(compressed) = compress(message, sent_bits, keeps.then_some(&own)) {
            own.add(message, sent_bits);
            let mut frame = Vec::new();
            write_frame(&mut frame, 0xC2, 0, compressed.len() as u64, Some(MASK), &compressed);
            assert_eq!(received(&mut server, &frame, cuts), [Message::Binary(message.to_vec())]);
        }
    }
}

fn received(protocol: &mut Protocol, stream: &[u8], cuts: &Cuts) -> Vec<Message> {
    let mut messages = Vec::new();
    for piece in cuts.pieces(stream) {
        protocol.receive(piece, &mut Vec::new(), |message| messages.push(message)).expect("a valid frame");
    }
    messages
}

/// A frame of the server, as if a client had sent it.
fn masked(frame: &[u8]) -> Vec<u8> {
    let start = if frame[1] == 126 { 4 } else { 2 };
    let mut out = Vec::new();
    let payload = &frame[start..];
    write_frame(&mut out, frame[0], 0, payload.len() as u64, Some(MASK), payload);
    out
}

fn agreed(field: &[u8], compression: Compression) -> Option<Agreement> {
    Offer::of([field].into_iter()).expect("well-formed").expect("an offer").agree(compression)
}
