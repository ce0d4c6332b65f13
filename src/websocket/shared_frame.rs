//! One message for many connections: encoded once, and compressed once for each window.

use super::deflate::LEAST_BYTES;
use super::extension::Agreement;
use super::protocol::{self, MessageKind};

/// A message as the frame that each connection sends.
///
/// The compressed forms need no context, so a form suits every connection with its window. A short message has none.
#[derive(Debug)]
pub struct SharedFrame {
    kind: MessageKind,
    plain: Vec<u8>,
    /// The frame for each window, if it is shorter than the plain one.
    compressed: Vec<(u8, Option<Vec<u8>>)>,
}

impl SharedFrame {
    /// Encodes a message.
    pub fn new(kind: MessageKind, payload: &[u8]) -> SharedFrame {
        let mut plain = Vec::new();
        protocol::write_message(&mut plain, kind, payload);
        SharedFrame { kind, plain, compressed: Vec::new() }
    }

    /// The window for which [`Self::add`] should add a compressed form, so that a connection with this agreement gets
    /// one.
    pub fn missing_window(&self, agreement: Option<Agreement>, payload: &[u8]) -> Option<u8> {
        let bits = agreement?.sent_bits;
        let is_missing = payload.len() >= LEAST_BYTES && self.compressed.iter().all(|(other, _)| *other != bits);
        is_missing.then_some(bits)
    }

    /// Adds the payload in its form for a window; none if it does not get shorter.
    pub fn add(&mut self, bits: u8, compressed: Option<Vec<u8>>) {
        let frame = compressed.map(|compressed| {
            let mut frame = Vec::new();
            protocol::write_compressed(&mut frame, self.kind, &compressed);
            frame
        });
        self.compressed.push((bits, frame));
    }

    /// The frame for a connection, and whether it is compressed.
    pub fn of(&self, agreement: Option<Agreement>) -> (&[u8], bool) {
        let form =
            agreement.and_then(|agreement| self.compressed.iter().find(|(bits, _)| *bits == agreement.sent_bits));
        match form {
            Some((_, Some(frame))) => (frame, true),
            _ => (&self.plain, false),
        }
    }
}
