//! Frames of the server (RFC 6455 5.2): never masked, never in fragments.

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{HEADER_BYTES, MessageKind, Protocol};
use crate::websocket::deflate;

impl Protocol {
    /// Writes a message in one frame, compressed if that is agreed on and makes it shorter. `alone` is `payload`
    /// compressed without a context, where [`deflate::is_compressed_alone`] says so.
    pub fn write_message(&mut self, out: &mut Vec<u8>, kind: MessageKind, payload: &[u8], alone: Option<&[u8]>) {
        let Some(deflate) = &mut self.deflate else { return write_message(out, kind, payload) };
        let bits = deflate.agreement.sent_bits;
        let takeover = deflate.agreement.sent_takeover;
        let in_context = deflate::LEAST_BYTES_IN_CONTEXT..=deflate::MOST_BYTES_IN_CONTEXT;
        let compressed = if takeover && in_context.contains(&payload.len()) {
            deflate::compress(payload, bits, Some(&deflate.sent))
        } else {
            None
        };
        match compressed.as_deref().or(alone) {
            Some(compressed) => {
                write_compressed(out, kind, compressed);
                if takeover {
                    deflate.sent.add(payload, bits);
                }
            }
            None => write_message(out, kind, payload),
        }
    }

    /// Notes that the client gets a compressed frame that many connections share: later messages do not refer to those before it.
    pub fn note_shared_frame(&mut self) {
        if let Some(deflate) = &mut self.deflate {
            deflate.sent.clear();
        }
    }
}

/// Writes a message in one frame.
pub fn write_message(out: &mut Vec<u8>, kind: MessageKind, payload: &[u8]) {
    write_frame(out, FrameHeader { opcode: opcode_of(kind), ..FrameHeader::default() }, payload);
}

/// Writes a compressed message in one frame (RFC 7692 6.1).
pub fn write_compressed(out: &mut Vec<u8>, kind: MessageKind, compressed: &[u8]) {
    write_frame(out, FrameHeader { opcode: opcode_of(kind), rsv1: true, ..FrameHeader::default() }, compressed);
}

/// Writes a ping of at most [`super::CONTROL_BYTES`].
pub fn write_ping(out: &mut Vec<u8>, payload: &[u8]) {
    write_control(out, Control::Ping, payload);
}

pub(super) fn write_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    write_control(out, Control::Close, &payload);
}

pub(super) fn write_control(out: &mut Vec<u8>, control: Control, payload: &[u8]) {
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
