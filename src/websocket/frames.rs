//! Frames of the server (RFC 6455 5.2): never masked, never in fragments.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Bytes of a frame's longest header.
pub const HEADER_BYTES: usize = 14;

/// Bytes of the longest payload of a control frame (RFC 6455 5.5).
pub const CONTROL_BYTES: usize = 125;

/// The first byte of a frame that is a whole message of text, uncompressed (RFC 6455 5.2).
pub const SHORT_TEXT: u8 = 0x81;

/// The first byte of a frame that is a whole binary message, uncompressed.
pub const SHORT_BINARY: u8 = 0x82;

/// The bit of a frame's second byte for a masked payload. The other bits are the length, up to [`SHORT_BYTES`].
pub const MASKED: u8 = 0x80;

/// The longest payload whose length has no further bytes.
pub const SHORT_BYTES: usize = 125;

/// Bytes of the header of a short message of the server.
const SHORT_HEADER_BYTES: usize = 2;

/// A whole number of words, and enough for [`SHORT_BYTES`] and that header.
pub(super) const ROOM: usize = 128;

/// The two kinds of messages (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Text, in UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

impl Message {
    /// The bytes of the message.
    pub fn size(&self) -> usize {
        match self {
            Message::Text(text) => text.len(),
            Message::Binary(data) => data.len(),
        }
    }
}

/// The frame of a short message of the server, which needs no memory of its own.
pub struct ShortFrame {
    length: usize,
    bytes: [u8; ROOM],
}

impl ShortFrame {
    /// The frame of a message. None if it is not short.
    #[inline]
    pub fn new(kind: MessageKind, payload: &[u8]) -> Option<ShortFrame> {
        let length = u8::try_from(payload.len()).ok().filter(|&length| usize::from(length) <= SHORT_BYTES)?;
        let mut bytes = [0; ROOM];
        let (header, rest) = bytes.split_at_mut(SHORT_HEADER_BYTES);
        header.copy_from_slice(&[if kind == MessageKind::Text { SHORT_TEXT } else { SHORT_BINARY }, length]);
        rest.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(ShortFrame { length: SHORT_HEADER_BYTES + payload.len(), bytes })
    }

    /// The bytes of the frame.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Writes a message in one frame.
pub fn write_message(out: &mut Vec<u8>, kind: MessageKind, payload: &[u8]) {
    if let Some(frame) = ShortFrame::new(kind, payload) {
        out.extend_from_slice(frame.as_bytes());
        return;
    }
    write_frame(out, FrameHeader { opcode: opcode_of(kind), ..FrameHeader::default() }, payload);
}

/// Writes a compressed message in one frame (RFC 7692 6.1).
pub fn write_compressed(out: &mut Vec<u8>, kind: MessageKind, compressed: &[u8]) {
    write_frame(out, FrameHeader { opcode: opcode_of(kind), rsv1: true, ..FrameHeader::default() }, compressed);
}

/// Writes a ping of at most [`CONTROL_BYTES`].
pub fn write_ping(out: &mut Vec<u8>, payload: &[u8]) {
    write_control(out, Control::Ping, payload);
}

/// Writes a close; without a code it has no payload.
pub fn write_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    write_control(out, Control::Close, &payload);
}

/// Writes a control frame of at most [`CONTROL_BYTES`].
pub fn write_control(out: &mut Vec<u8>, control: Control, payload: &[u8]) {
    write_frame(out, FrameHeader { opcode: OpCode::Control(control), ..FrameHeader::default() }, payload);
}

fn opcode_of(kind: MessageKind) -> OpCode {
    OpCode::Data(match kind {
        MessageKind::Text => Data::Text,
        MessageKind::Binary => Data::Binary,
    })
}

fn write_frame(out: &mut Vec<u8>, header: FrameHeader, payload: &[u8]) {
    out.reserve(HEADER_BYTES + payload.len());
    // Writing to a vector does not fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_the_server_has_two_bytes_before_the_message() {
        let payload = [b'a'; SHORT_BYTES + 1];
        for length in 0..=SHORT_BYTES {
            let frame = ShortFrame::new(MessageKind::Text, &payload[..length]).unwrap();
            let (header, rest) = frame.as_bytes().split_at(SHORT_HEADER_BYTES);
            assert_eq!((header, rest), (&[0x81, u8::try_from(length).unwrap()][..], &payload[..length]));
        }
        assert!(ShortFrame::new(MessageKind::Binary, &payload).is_none());
    }
}
