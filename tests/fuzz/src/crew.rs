//! Messages between siblings: arbitrary bytes and descriptors into the decoder, and its letters through the queue.
//!
//! One byte chooses how descriptors come: 0 as the headers say, as from an honest peer; otherwise with each piece as
//! many as the next byte of the input says. Four bytes are cuts, and the rest is the connection. Descriptors are
//! numbers, in the order of their arrival. The payloads of moved connections are read, written and read again.

use _rmeinheld::crew::kinds::MOVED_CONNECTION;
use _rmeinheld::crew::message::{
    Arrival, Decoder, Fault, HEADER_BYTES, HELLO, Letter, MAX_DESCRIPTORS, MAX_PAYLOAD_BYTES, PROTOCOL_VERSION,
    Sibling, header, hello,
};
use _rmeinheld::crew::moved_connection::{BadMove, FORMAT, MovedConnection};
use _rmeinheld::crew::outbox::Outbox;

use crate::input::{Cuts, Input};

type Arrivals = (Vec<Arrival<u32>>, Option<Fault>);

pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let (mode, cuts) = (input.byte(), input.cuts());
    if mode != 0 {
        return lie(&mut input, &cuts);
    }
    let bytes = input.0;
    let (expected, starts) = read(bytes);
    assert_eq!(decode(bytes, [bytes.len()].into_iter(), &starts), expected);
    assert_eq!(decode(bytes, cuts.ends(bytes.len()), &starts), expected);
    assert_eq!(decode(bytes, Cuts::SINGLE.ends(bytes.len()), &starts), expected);
    for arrival in &expected.0 {
        match arrival {
            Arrival::Letter(letter) if letter.kind == MOVED_CONNECTION => move_again(&letter.payload),
            _ => {}
        }
    }
    send_again(&expected.0, &cuts);
}

/// Reads the message of a moved connection as its table says, and sends it on.
fn move_again(payload: &[u8]) {
    let moved = match MovedConnection::decode(payload) {
        Ok(moved) => moved,
        Err(BadMove::Format(format)) => return assert!(format != FORMAT && payload[0] == format),
        Err(BadMove::Short) => {
            let is_proxied = payload.get(1).is_some_and(|flags| flags & 2 != 0);
            return assert!(payload.len() < if is_proxied { 68 } else { 32 });
        }
        Err(BadMove::Flags(flags)) => return assert!(payload[1] == flags && (flags > 7 || flags & 1 != 0)),
    };
    let flags = payload[1];
    assert!(payload[0] == FORMAT && flags < 8);
    assert_eq!((moved.is_new, moved.proxied.is_some()), (flags & 1 != 0, flags & 2 != 0));
    assert_eq!(moved.served, u32::from_le_bytes(payload[2..6].try_into().unwrap()));
    assert_eq!(moved.listener, u64::from_le_bytes(payload[6..14].try_into().unwrap()));
    assert_eq!(moved.bytes, &payload[if moved.proxied.is_some() { 68 } else { 32 }..]);
    assert_eq!(MovedConnection::decode(&moved.encode()), Ok(moved));
}

/// The arrivals of a connection whose bytes are cut at `ends`. `starts` are the positions at which descriptors come,
/// each with their number.
fn decode(bytes: &[u8], ends: impl Iterator<Item = usize>, starts: &[(usize, usize)]) -> Arrivals {
    let mut decoder = Decoder::default();
    let (mut arrivals, mut start, mut given) = (Vec::new(), 0, 0);
    for end in ends {
        let end = end.min(bytes.len());
        let count: usize = starts.iter().filter(|(at, _)| (start..end).contains(at)).map(|(_, count)| count).sum();
        decoder.push(&bytes[start..end], (given..given + count).map(|number| number as u32));
        (start, given) = (end, given + count);
        loop {
            match decoder.next_arrival() {
                Ok(Some(arrival)) => arrivals.push(arrival),
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(decoder.next_arrival(), Err(fault));
                    return (arrivals, Some(fault));
                }
            }
        }
    }
    (arrivals, None)
}

/// A plain reading of a whole connection with an honest number of descriptors.
fn read(bytes: &[u8]) -> (Arrivals, Vec<(usize, usize)>) {
    let (mut arrivals, mut starts) = (Vec::new(), Vec::new());
    let (mut at, mut given) = (0, 0);
    let fault = loop {
        let Some(head) = bytes.get(at..at + HEADER_BYTES) else { break None };
        let length = u32::from_le_bytes(head[..4].try_into().unwrap());
        let (version, kind, count, reserved) = (head[4], head[5], head[6], head[7]);
        let is_first = arrivals.is_empty();
        let fault = if version != PROTOCOL_VERSION {
            Some(Fault::Version(version))
        } else if reserved != 0 {
            Some(Fault::Reserved(reserved))
        } else if length as usize > MAX_PAYLOAD_BYTES {
            Some(Fault::TooLong(length))
        } else if usize::from(count) > MAX_DESCRIPTORS {
            Some(Fault::TooManyDescriptors(count))
        } else if is_first && kind != HELLO {
            Some(Fault::NoHello)
        } else if is_first && (length != 16 || count > 0) {
            Some(Fault::BadHello)
        } else if !is_first && kind == HELLO {
            Some(Fault::SecondHello)
        } else {
            None
        };
        if fault.is_some() {
            break fault;
        }
        let count = usize::from(count);
        starts.push((at, count));
        let Some(payload) = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + length as usize) else { break None };
        at += HEADER_BYTES + payload.len();
        if is_first {
            if &payload[..4] != b"crew" {
                break Some(Fault::BadHello);
            }
            let slot = u32::from_le_bytes(payload[4..8].try_into().unwrap());
            let generation = u64::from_le_bytes(payload[8..].try_into().unwrap());
            arrivals.push(Arrival::Hello(Sibling { slot, generation }));
        } else {
            let descriptors = (given..given + count).map(|number| number as u32).collect();
            arrivals.push(Arrival::Letter(Letter { kind, payload: payload.to_vec(), descriptors }));
        }
        given += count;
    };
    ((arrivals, fault), starts)
}

/// Sends the arrivals through the queue, in pieces. They arrive as they were.
fn send_again(arrivals: &[Arrival<u32>], cuts: &Cuts) {
    let (mut outbox, mut decoder, mut again) = (Outbox::default(), Decoder::default(), Vec::new());
    for arrival in arrivals {
        match arrival {
            Arrival::Hello(sender) => {
                let (header, payload) = hello(*sender);
                outbox.push(header, payload.into(), Vec::new());
            }
            Arrival::Letter(letter) => {
                let header = header(letter.kind, letter.payload.len(), letter.descriptors.len()).unwrap();
                outbox.push(header, letter.payload.as_slice().into(), letter.descriptors.clone());
            }
        }
    }
    let mut sent = 0;
    let mut ends = cuts.ends(usize::MAX);
    while !outbox.is_empty() {
        // The kernel takes a part of the batch, and all descriptors with its first byte.
        let end = ends.next().unwrap();
        let (slices, descriptors) = outbox.batch();
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        assert!(!bytes.is_empty());
        let taken = bytes.len().min(end.saturating_sub(sent).max(1));
        decoder.push(&bytes[..taken], descriptors.iter().copied());
        outbox.advance(taken);
        sent = end.max(sent + taken);
        while let Some(arrival) = decoder.next_arrival().expect("an honest peer") {
            again.push(arrival);
        }
    }
    assert_eq!(again, arrivals);
    assert!(outbox.has_room(MAX_PAYLOAD_BYTES, MAX_DESCRIPTORS));
}

/// A peer that sends other descriptors than it says. Each letter has as many as its header says, in order, or none
/// arrives any more.
fn lie(input: &mut Input<'_>, cuts: &Cuts) {
    let counts = input.take(8);
    let (header, payload) = hello(Sibling { slot: 1, generation: 1 });
    let bytes = [&header[..], &payload, input.0].concat();
    let mut counts = counts.iter().cycle().map(|count| usize::from(count % 20));
    let mut decoder = Decoder::default();
    let (mut given, mut taken) = (0_u32, 0_u32);
    for piece in cuts.pieces(&bytes) {
        let count = counts.next().unwrap_or_default() as u32;
        decoder.push(piece, given..given + count);
        given += count;
        loop {
            match decoder.next_arrival() {
                Ok(Some(Arrival::Hello(_))) => {}
                Ok(Some(Arrival::Letter(letter))) => {
                    let count = letter.descriptors.len() as u32;
                    assert_eq!(letter.descriptors, (taken..taken + count).collect::<Vec<_>>());
                    taken += count;
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // No more wait than one letter may have.
        assert!(given - taken <= MAX_DESCRIPTORS as u32);
    }
}
