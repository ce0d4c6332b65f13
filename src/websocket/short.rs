//! Short messages: one frame, uncompressed, that has arrived in one piece. Most messages are short.

use super::frames::{MASKED, MessageKind, SHORT_BINARY, SHORT_BYTES, SHORT_TEXT};
use super::protocol::Message;

/// A whole number of words, and enough for [`SHORT_BYTES`].
const ROOM: usize = 128;

/// A message that has arrived.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// A short text of ASCII.
    Ascii(Ascii<'a>),
    /// A short message of bytes.
    Bytes(&'a [u8]),
    /// Any other message.
    Message(Message),
}

impl From<Arrival<'_>> for Message {
    fn from(arrival: Arrival<'_>) -> Message {
        match arrival {
            Arrival::Ascii(text) => Message::Text(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            Arrival::Bytes(data) => Message::Binary(data.to_vec()),
            Arrival::Message(message) => message,
        }
    }
}

/// Bytes that are ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ascii<'a>(&'a [u8]);

impl<'a> Ascii<'a> {
    /// `bytes`, if all of them are ASCII.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Option<Ascii<'a>> {
        bytes.is_ascii().then_some(Ascii(bytes))
    }

    /// The bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }
}

/// The frame of a short message, without its mask.
pub(super) struct Short {
    kind: MessageKind,
    length: usize,
    data: [u8; ROOM],
}

impl Short {
    /// Takes a short message off `input`, unless it is longer than `limit`. Takes nothing, and returns None, if anything
    /// else comes next, a broken rule included.
    #[inline]
    pub fn take(input: &mut &[u8], limit: u64) -> Option<Short> {
        let kind = match input.first() {
            Some(&SHORT_TEXT) => MessageKind::Text,
            Some(&SHORT_BINARY) => MessageKind::Binary,
            _ => return None,
        };
        let &[_, second, first, next, third, last, ref rest @ ..] = *input else { return None };
        let length = usize::from(second & !MASKED);
        if second & MASKED == 0 || length > SHORT_BYTES || length as u64 > limit {
            return None;
        }
        let (payload, rest) = rest.split_at_checked(length)?;
        *input = rest;
        Some(Short { kind, length, data: unmasked(payload, [first, next, third, last]) })
    }

    /// The message. None for a text that is not UTF-8.
    #[inline]
    pub fn arrival(&self) -> Option<Arrival<'_>> {
        let data = self.data.get(..self.length)?;
        if self.kind == MessageKind::Binary {
            return Some(Arrival::Bytes(data));
        }
        match Ascii::new(data) {
            Some(text) => Some(Arrival::Ascii(text)),
            None => str::from_utf8(data).ok().map(|text| Arrival::Message(Message::Text(text.to_owned()))),
        }
    }
}

/// `payload` without its mask (RFC 6455 5.3). All of the room is turned, which takes fewer steps than a part of it.
#[inline]
fn unmasked(payload: &[u8], mask: [u8; 4]) -> [u8; ROOM] {
    let mut data = [0; ROOM];
    if let Some(start) = data.get_mut(..payload.len()) {
        start.copy_from_slice(payload);
    }
    let mask = u32::from_ne_bytes(mask);
    for word in data.as_chunks_mut::<4>().0 {
        *word = (u32::from_ne_bytes(*word) ^ mask).to_ne_bytes();
    }
    data
}
