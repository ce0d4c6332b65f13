//! Messages of the server, compressed where the connection has agreed on it.

use super::{MessageKind, Protocol};
use crate::websocket::deflate;
use crate::websocket::frames::{ShortFrame, write_compressed, write_message};

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

    /// The frame of a short message that is not compressed; none if the message is longer or may be compressed.
    #[inline]
    pub fn short_frame(&self, kind: MessageKind, payload: &[u8]) -> Option<ShortFrame> {
        if self.deflate.is_some() { None } else { ShortFrame::new(kind, payload) }
    }

    /// Notes that the client gets a compressed frame that many connections share: later messages do not refer to those before it.
    pub fn note_shared_frame(&mut self) {
        if let Some(deflate) = &mut self.deflate {
            deflate.sent.clear();
        }
    }
}
