//! One message for many connections: encoded once.

use super::protocol::{self, MessageKind};

/// A message as the frame that each connection sends.
#[derive(Debug)]
pub struct SharedFrame {
    plain: Vec<u8>,
}

impl SharedFrame {
    /// Encodes a message.
    pub fn new(kind: MessageKind, payload: &[u8]) -> SharedFrame {
        let mut plain = Vec::new();
        protocol::write_message(&mut plain, kind, payload);
        SharedFrame { plain }
    }

    /// The frame for a connection without extensions.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }
}
