//! Frames of the server (RFC 6455 5.2): never masked, never in fragments.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::short::ShortFrame;

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

/// The two kinds of messages (RFC 6455 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Text, in UTF-8.
    Text,
    /// Bytes.
    Binary,
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
