//! Short messages: one uncompressed frame, which arrives in one piece. Most messages are short.

use super::frames::{MASKED, Message, MessageKind, ROOM, SHORT_BINARY, SHORT_BYTES, SHORT_TEXT};

/// A message that has arrived.
#[derive(Debug)]
pub enum ReceivedMessage<'a> {
    /// A short text of ASCII.
    Ascii(Ascii<'a>),
    /// A short message of bytes.
    Bytes(&'a [u8]),
    /// Any other message.
    Message(Message),
}

impl From<ReceivedMessage<'_>> for Message {
    fn from(arrival: ReceivedMessage<'_>) -> Message {
        match arrival {
            ReceivedMessage::Ascii(text) => Message::Text(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            ReceivedMessage::Bytes(data) => Message::Binary(data.to_vec()),
            ReceivedMessage::Message(message) => message,
        }
    }
}

/// Bytes that are ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ascii<'a>(&'a [u8]);

impl<'a> Ascii<'a> {
    /// Marks `bytes` as ASCII. None if other bytes are among them.
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
    pub fn arrival(&self) -> Option<ReceivedMessage<'_>> {
        let data = self.data.get(..self.length)?;
        if self.kind == MessageKind::Binary {
            return Some(ReceivedMessage::Bytes(data));
        }
        match Ascii::new(data) {
            Some(text) => Some(ReceivedMessage::Ascii(text)),
            None => str::from_utf8(data).ok().map(|text| ReceivedMessage::Message(Message::Text(text.to_owned()))),
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

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x12, 0x34, 0xf6, 0x78];

    /// A frame of the client, with more behind it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, MASKED | u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame.extend_from_slice(b"more");
        frame
    }

    #[test]
    fn a_short_message_of_any_length_arrives_as_it_was_sent() {
        for length in 0..=SHORT_BYTES {
            let payload: Vec<u8> = (b' '..b'~').cycle().take(length).collect();
            let (text, binary) = (masked(SHORT_TEXT, &payload), masked(SHORT_BINARY, &payload));
            let (mut text, mut binary) = (text.as_slice(), binary.as_slice());
            let (first, second) = (Short::take(&mut text, 125).unwrap(), Short::take(&mut binary, 125).unwrap());
            assert_eq!((text, binary), (&b"more"[..], &b"more"[..]));
            assert!(matches!(first.arrival(), Some(ReceivedMessage::Ascii(text)) if text.as_bytes() == payload));
            assert!(matches!(second.arrival(), Some(ReceivedMessage::Bytes(data)) if data == payload));
        }
    }

    #[test]
    fn only_ascii_is_marked_as_such() {
        let arrival = |payload: &[u8]| {
            let short = Short::take(&mut masked(SHORT_TEXT, payload).as_slice(), 125).unwrap();
            short.arrival().map(|arrival| (matches!(arrival, ReceivedMessage::Ascii(_)), Message::from(arrival)))
        };
        assert_eq!(arrival(b"plain\x7f"), Some((true, Message::Text("plain\x7f".to_owned()))));
        assert_eq!(arrival("\u{80}".as_bytes()), Some((false, Message::Text("\u{80}".to_owned()))));
        assert_eq!(arrival(b"\xff"), None);
    }

    #[test]
    fn anything_else_is_left_alone() {
        let whole = masked(SHORT_TEXT, b"abc");
        let unmasked = [SHORT_TEXT, 3, b'a', b'b', b'c', 0, 0, 0, 0];
        for input in [&whole[..8], &masked(0x01, b"abc"), &masked(0x89, b"abc"), &unmasked, b""] {
            let mut rest = input;
            assert!(Short::take(&mut rest, 125).is_none());
            assert_eq!(rest, input);
        }
        assert!(Short::take(&mut whole.as_slice(), 2).is_none());
    }
}
