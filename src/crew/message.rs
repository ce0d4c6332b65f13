//! The format of messages between siblings: bytes and descriptors in, messages out. No input and output.
//!
//! A connection carries messages in one direction. Each begins with a header of [`HEADER_BYTES`]:
//!
//! | Bytes | Field |
//! |---|---|
//! | 4 | length of the payload, little-endian |
//! | 1 | [`PROTOCOL_VERSION`] |
//! | 1 | kind |
//! | 1 | number of descriptors |
//! | 1 | zero |
//!
//! The descriptors of a message travel with its first byte (SCM_RIGHTS, unix(7)). The first message is a [`Hello`].

use std::collections::VecDeque;
use std::fmt;

/// The version of this format. Generations of a service that speak different versions exchange no messages.
pub const PROTOCOL_VERSION: u8 = 1;

/// The length of a header.
pub const HEADER_BYTES: usize = 8;

/// The longest payload, 1 MiB. D-Bus allows 128 MiB and Redis 512 MiB, for messages that wait on disk or in one place;
/// these wait in the memory of each worker.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// The most descriptors of one message. The kernel allows 253 (SCM_MAX_FD), D-Bus 16.
pub const MAX_DESCRIPTORS: usize = 16;

/// The kind of the first message of a connection, which names the sender.
pub const HELLO: u8 = 0;

/// The length of a [`Hello`]'s payload.
const HELLO_BYTES: usize = 16;

/// The first bytes of a [`Hello`]'s payload, which a stray client would not send.
const MAGIC: [u8; 4] = *b"crew";

/// The reason why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsendable {
    /// The kind is [`HELLO`].
    ReservedKind,
    /// The payload has more than [`MAX_PAYLOAD_BYTES`].
    TooLong(usize),
    /// There are more than [`MAX_DESCRIPTORS`].
    TooManyDescriptors(usize),
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsendable::ReservedKind => write!(f, "kind {HELLO} is reserved: use a kind from 1 to 255"),
            Unsendable::TooLong(bytes) => {
                write!(f, "a payload of {bytes} bytes is longer than the limit of {MAX_PAYLOAD_BYTES} bytes: split it")
            }
            Unsendable::TooManyDescriptors(count) => {
                write!(f, "{count} descriptors are more than the limit of {MAX_DESCRIPTORS} for one message")
            }
        }
    }
}

/// The peer's violation of the format. The connection is of no use afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer speaks another version.
    Version(u8),
    /// The reserved byte is not zero.
    Reserved(u8),
    /// The length is over [`MAX_PAYLOAD_BYTES`].
    TooLong(u32),
    /// The number of descriptors is over [`MAX_DESCRIPTORS`].
    TooManyDescriptors(u8),
    /// The first message is no [`Hello`].
    NoHello,
    /// A later message is one.
    SecondHello,
    /// The contents of the [`Hello`] are wrong.
    BadHello,
    /// A message came with fewer descriptors than its header says.
    MissingDescriptors,
    /// Descriptors came that no header names.
    UnclaimedDescriptors,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Version(version) => {
                write!(f, "it speaks version {version} of the protocol, this worker version {PROTOCOL_VERSION}")
            }
            Fault::Reserved(byte) => write!(f, "the reserved byte of a header is {byte} instead of 0"),
            Fault::TooLong(bytes) => {
                write!(f, "a message has {bytes} bytes, more than the limit of {MAX_PAYLOAD_BYTES} bytes")
            }
            Fault::TooManyDescriptors(count) => {
                write!(f, "a message has {count} descriptors, more than the limit of {MAX_DESCRIPTORS}")
            }
            Fault::NoHello => f.write_str("the first message does not name its sender"),
            Fault::SecondHello => f.write_str("a later message names its sender again"),
            Fault::BadHello => f.write_str("the message that names its sender is malformed"),
            Fault::MissingDescriptors => f.write_str("descriptors of a message are missing"),
            Fault::UnclaimedDescriptors => f.write_str("descriptors came that no message names"),
        }
    }
}

/// A worker of the service: its slot of the scoreboard, and the number of the slot's owners up to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sibling {
    /// The slot.
    pub slot: u32,
    /// The generation of the slot.
    pub generation: u64,
}

/// A received message, with its descriptors.
#[derive(Debug, PartialEq, Eq)]
pub struct Letter<D> {
    /// The kind, 1 to 255.
    pub kind: u8,
    /// The contents.
    pub payload: Vec<u8>,
    /// The descriptors, owned by the receiver.
    pub descriptors: Vec<D>,
}

/// A whole message of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<D> {
    /// The sender of the connection's messages, once.
    Hello(Sibling),
    /// A message.
    Letter(Letter<D>),
}

/// The header of a message of `bytes` bytes with `descriptors` descriptors.
///
/// # Errors
/// [`Unsendable`] for a message over a limit, or of a reserved kind.
pub fn header(kind: u8, bytes: usize, descriptors: usize) -> Result<[u8; HEADER_BYTES], Unsendable> {
    if kind == HELLO {
        return Err(Unsendable::ReservedKind);
    }
    header_of(kind, bytes, descriptors)
}

fn header_of(kind: u8, bytes: usize, descriptors: usize) -> Result<[u8; HEADER_BYTES], Unsendable> {
    let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_PAYLOAD_BYTES).ok_or(Unsendable::TooLong(bytes))?;
    let count = u8::try_from(descriptors)
        .ok()
        .filter(|_| descriptors <= MAX_DESCRIPTORS)
        .ok_or(Unsendable::TooManyDescriptors(descriptors))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([a, b, c, d, PROTOCOL_VERSION, kind, count, 0])
}

/// The header and the payload of the first message of a connection.
pub fn hello(sender: Sibling) -> ([u8; HEADER_BYTES], Vec<u8>) {
    let payload = [&MAGIC[..], &sender.slot.to_le_bytes(), &sender.generation.to_le_bytes()].concat();
    // The length is within its limit, and there are no descriptors.
    (header_of(HELLO, payload.len(), 0).unwrap_or_default(), payload)
}

fn parse_hello(payload: &[u8]) -> Option<Sibling> {
    let (magic, rest) = payload.split_first_chunk::<4>()?;
    let (slot, rest) = rest.split_first_chunk::<4>()?;
    let generation = <[u8; 8]>::try_from(rest).ok()?;
    (*magic == MAGIC).then(|| Sibling { slot: u32::from_le_bytes(*slot), generation: u64::from_le_bytes(generation) })
}

/// A header, checked.
#[derive(Clone, Copy, Debug)]
struct Header {
    bytes: usize,
    kind: u8,
    descriptors: usize,
}

impl Header {
    fn parse(header: [u8; HEADER_BYTES]) -> Result<Header, Fault> {
        let [a, b, c, d, version, kind, descriptors, reserved] = header;
        let length = u32::from_le_bytes([a, b, c, d]);
        if version != PROTOCOL_VERSION {
            return Err(Fault::Version(version));
        }
        if reserved != 0 {
            return Err(Fault::Reserved(reserved));
        }
        let bytes = length as usize;
        if bytes > MAX_PAYLOAD_BYTES {
            return Err(Fault::TooLong(length));
        }
        if usize::from(descriptors) > MAX_DESCRIPTORS {
            return Err(Fault::TooManyDescriptors(descriptors));
        }
        Ok(Header { bytes, kind, descriptors: descriptors.into() })
    }
}

/// Turns the bytes and descriptors of one connection into messages.
///
/// `D` is the type of descriptors. The decoder holds at most one message that is incomplete, and what [`Self::push`]
/// added to it.
#[derive(Debug)]
pub struct Decoder<D> {
    bytes: Vec<u8>,
    /// The number of `bytes` that have been decoded.
    start: usize,
    descriptors: VecDeque<D>,
    has_sender: bool,
    fault: Option<Fault>,
}

impl<D> Default for Decoder<D> {
    fn default() -> Decoder<D> {
        Decoder { bytes: Vec::new(), start: 0, descriptors: VecDeque::new(), has_sender: false, fault: None }
    }
}

impl<D> Decoder<D> {
    /// Adds received bytes, and the descriptors that came with them. Drops both after a fault.
    pub fn push(&mut self, bytes: &[u8], descriptors: impl IntoIterator<Item = D>) {
        if self.fault.is_some() {
            return;
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
    }

    /// The next arrival; `None` until more bytes come. Call it until then after each [`Self::push`].
    ///
    /// # Errors
    /// The first [`Fault`] of the peer, from then on at each call.
    pub fn next_arrival(&mut self) -> Result<Option<Arrival<D>>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let arrival = self.decode();
        if let Err(fault) = arrival {
            self.fault = Some(fault);
            self.bytes = Vec::new();
            self.start = 0;
            self.descriptors.clear();
        }
        arrival
    }

    fn decode(&mut self) -> Result<Option<Arrival<D>>, Fault> {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        let Some((head, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return self.wait_for_more(MAX_DESCRIPTORS);
        };
        let header = Header::parse(*head)?;
        match (self.has_sender, header.kind) {
            (false, HELLO) if header.bytes != HELLO_BYTES || header.descriptors > 0 => return Err(Fault::BadHello),
            (false, HELLO) | (true, 1..) => {}
            (false, _) => return Err(Fault::NoHello),
            (true, HELLO) => return Err(Fault::SecondHello),
        }
        let Some(payload) = rest.get(..header.bytes) else { return self.wait_for_more(header.descriptors) };
        self.start += HEADER_BYTES + header.bytes;
        if !self.has_sender {
            let sender = parse_hello(payload).ok_or(Fault::BadHello)?;
            self.has_sender = true;
            return Ok(Some(Arrival::Hello(sender)));
        }
        if self.descriptors.len() < header.descriptors {
            return Err(Fault::MissingDescriptors);
        }
        let payload = payload.to_vec();
        let descriptors = self.descriptors.drain(..header.descriptors).collect();
        Ok(Some(Arrival::Letter(Letter { kind: header.kind, payload, descriptors })))
    }

    /// Ends a round of decoding. At most `claimed` descriptors may be left, for the message that has begun.
    fn wait_for_more(&mut self, claimed: usize) -> Result<Option<Arrival<D>>, Fault> {
        // The bytes of no message have no descriptors.
        let is_between = self.start == self.bytes.len();
        if self.descriptors.len() > if is_between { 0 } else { claimed } {
            return Err(Fault::UnclaimedDescriptors);
        }
        if is_between {
            // An idle connection holds no memory.
            self.bytes = Vec::new();
            self.start = 0;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: Sibling = Sibling { slot: 3, generation: 0x1_0000_0002 };

    fn greeting(sender: Sibling) -> Vec<u8> {
        let (header, payload) = hello(sender);
        [&header[..], &payload].concat()
    }

    fn letter(kind: u8, payload: &[u8], descriptors: &[u32]) -> Vec<u8> {
        [&header(kind, payload.len(), descriptors.len()).unwrap()[..], payload].concat()
    }

    /// The arrivals of a connection that sends these pieces.
    fn decode(pieces: &[(&[u8], &[u32])]) -> Result<Vec<Arrival<u32>>, Fault> {
        let mut decoder = Decoder::default();
        let mut arrivals = Vec::new();
        for (bytes, descriptors) in pieces {
            decoder.push(bytes, descriptors.iter().copied());
            while let Some(arrival) = decoder.next_arrival()? {
                arrivals.push(arrival);
            }
        }
        Ok(arrivals)
    }

    fn arrived(kind: u8, payload: &[u8], descriptors: &[u32]) -> Arrival<u32> {
        Arrival::Letter(Letter { kind, payload: payload.to_vec(), descriptors: descriptors.to_vec() })
    }

    #[test]
    fn the_bytes_of_a_hello_and_a_letter_stay_what_they_are() {
        assert_eq!(
            greeting(Sibling { slot: 258, generation: 5 }),
            *b"\x10\0\0\0\x01\0\0\0crew\x02\x01\0\0\x05\0\0\0\0\0\0\0"
        );
        assert_eq!(letter(7, b"abc", &[1, 2]), *b"\x03\0\0\0\x01\x07\x02\0abc");
    }

    #[test]
    fn letters_arrive_in_order_wherever_the_bytes_are_cut() {
        let bytes = [greeting(SENDER), letter(1, b"one", &[]), letter(2, b"", &[]), letter(3, &[9; 300], &[])].concat();
        let expected =
            [Arrival::Hello(SENDER), arrived(1, b"one", &[]), arrived(2, b"", &[]), arrived(3, &[9; 300], &[])];
        assert_eq!(decode(&[(&bytes, &[])]).unwrap(), expected);
        for cut in 0..=bytes.len() {
            assert_eq!(decode(&[(&bytes[..cut], &[]), (&bytes[cut..], &[])]).unwrap(), expected);
        }
        let single: Vec<(&[u8], &[u32])> = bytes.chunks(1).map(|byte| (byte, &[][..])).collect();
        assert_eq!(decode(&single).unwrap(), expected);
    }

    #[test]
    fn each_letter_takes_its_own_descriptors() {
        let (first, second, third) = (letter(1, b"a", &[7, 8]), letter(2, b"b", &[]), letter(3, b"c", &[9]));
        let expected =
            [Arrival::Hello(SENDER), arrived(1, b"a", &[7, 8]), arrived(2, b"b", &[]), arrived(3, b"c", &[9])];
        // A read ends after the bytes that came with descriptors, and may begin before these (unix(7)).
        let early = [&greeting(SENDER)[..], &first[..4]].concat();
        let late = [&first[4..], &second, &third].concat();
        assert_eq!(decode(&[(&early, &[7, 8]), (&late, &[9])]).unwrap(), expected);
        let apart = [&greeting(SENDER)[..], &first, &second].concat();
        assert_eq!(decode(&[(&apart, &[7, 8]), (&third[..1], &[9]), (&third[1..], &[])]).unwrap(), expected);
    }

    #[test]
    fn a_peer_that_breaks_the_format_is_refused() {
        let after_hello = |bytes: &[u8], descriptors: &[u32]| decode(&[(&greeting(SENDER), &[]), (bytes, descriptors)]);
        for (bytes, fault) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Fault::Version(b'/')),
            (b"\x01\0\0\0\x02\x01\0\0", Fault::Version(2)),
            (b"\x01\0\0\0\x01\x01\0\x01", Fault::Reserved(1)),
            (b"\x01\0\x10\0\x01\x01\0\0", Fault::TooLong(0x10_0001)),
            (b"\xff\xff\xff\xff\x01\x01\0\0", Fault::TooLong(u32::MAX)),
            (b"\0\0\0\0\x01\x01\x11\0", Fault::TooManyDescriptors(17)),
            (b"\0\0\0\0\x01\x01\x01\0", Fault::MissingDescriptors),
            (&greeting(SENDER), Fault::SecondHello),
        ] {
            assert_eq!(after_hello(bytes, &[]), Err(fault), "{}", bytes.escape_ascii());
        }
        assert_eq!(after_hello(&letter(1, b"", &[]), &[5]), Err(Fault::UnclaimedDescriptors));
        assert_eq!(after_hello(&letter(1, b"abc", &[5])[..9], &[5, 6]), Err(Fault::UnclaimedDescriptors));
        assert_eq!(after_hello(b"\0", &[0; 17]), Err(Fault::UnclaimedDescriptors));
        assert_eq!(decode(&[(&letter(1, b"", &[]), &[])]), Err(Fault::NoHello));
        assert_eq!(decode(&[(b"\x10\0\0\0\x01\0\0\0krew\0\0\0\0\0\0\0\0\0\0\0\0", &[])]), Err(Fault::BadHello));
        assert_eq!(decode(&[(b"\x11\0\0\0\x01\0\0\0", &[])]), Err(Fault::BadHello));
    }

    #[test]
    fn a_fault_ends_the_connection_and_frees_its_memory_and_descriptors() {
        let mut decoder = Decoder::default();
        decoder.push(&[&greeting(SENDER)[..], b"\0\0\0\0\x01\x01\x09\0", &[1; 5000]].concat(), [1, 2]);
        assert!(matches!(decoder.next_arrival(), Ok(Some(Arrival::Hello(SENDER)))));
        assert_eq!(decoder.next_arrival(), Err(Fault::MissingDescriptors));
        assert_eq!((decoder.bytes.capacity(), decoder.descriptors.len()), (0, 0));
        assert_eq!(decoder.next_arrival(), Err(Fault::MissingDescriptors));
    }

    #[test]
    fn a_letter_over_a_limit_cannot_be_sent() {
        assert!(header(1, MAX_PAYLOAD_BYTES, MAX_DESCRIPTORS).is_ok());
        assert_eq!(header(HELLO, 0, 0), Err(Unsendable::ReservedKind));
        assert_eq!(header(1, MAX_PAYLOAD_BYTES + 1, 0), Err(Unsendable::TooLong(MAX_PAYLOAD_BYTES + 1)));
        assert_eq!(header(1, usize::MAX, 0), Err(Unsendable::TooLong(usize::MAX)));
        assert_eq!(header(1, 0, 17), Err(Unsendable::TooManyDescriptors(17)));
        assert_eq!(header(1, 0, 300), Err(Unsendable::TooManyDescriptors(300)));
    }
}
