//! The letters that wait for one sibling, within limits. No input and output.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use super::message::{HEADER_BYTES, MAX_PAYLOAD_BYTES};

/// The most bytes that wait for one sibling, 8 MiB: eight letters of the greatest length, or a second of a busy chat.
pub const MAX_QUEUED_BYTES: usize = 8 * MAX_PAYLOAD_BYTES;

/// The most letters that wait for one sibling. Short ones take more memory than their bytes.
pub const MAX_QUEUED_LETTERS: usize = 16_384;

/// The most descriptors that wait for one sibling, which this process holds open until then.
pub const MAX_QUEUED_DESCRIPTORS: usize = 64;

/// The most slices of one system call (IOV_MAX is 1,024).
const SLICES_PER_CALL: usize = 128;

/// A queue of letters. `D` is the type of descriptors.
#[derive(Debug)]
pub struct Outbox<D> {
    letters: VecDeque<Queued<D>>,
    /// Bytes that are still to be sent.
    bytes: usize,
    descriptors: usize,
}

#[derive(Debug)]
struct Queued<D> {
    header: [u8; HEADER_BYTES],
    payload: Arc<[u8]>,
    /// Bytes of the header and the payload that the kernel has taken. The descriptors go with the first one.
    sent: usize,
    descriptors: Vec<D>,
}

impl<D> Queued<D> {
    fn slices(&self) -> [&[u8]; 2] {
        let in_payload = self.sent.saturating_sub(HEADER_BYTES);
        [self.header.get(self.sent..).unwrap_or_default(), self.payload.get(in_payload..).unwrap_or_default()]
    }

    fn left(&self) -> usize {
        HEADER_BYTES + self.payload.len() - self.sent
    }
}

impl<D> Default for Outbox<D> {
    fn default() -> Outbox<D> {
        Outbox { letters: VecDeque::new(), bytes: 0, descriptors: 0 }
    }
}

impl<D> Outbox<D> {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// The number of letters that wait.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether there is room for a letter.
    pub fn has_room(&self, payload_bytes: usize, descriptors: usize) -> bool {
        self.letters.len() < MAX_QUEUED_LETTERS
            && self.bytes + HEADER_BYTES + payload_bytes <= MAX_QUEUED_BYTES
            && self.descriptors + descriptors <= MAX_QUEUED_DESCRIPTORS
    }

    /// Whether at least half of the limits is left.
    pub fn is_half_empty(&self) -> bool {
        self.letters.len() <= MAX_QUEUED_LETTERS / 2 && self.bytes <= MAX_QUEUED_BYTES / 2
    }

    /// Adds a letter. Check [`Self::has_room`] first.
    pub fn push(&mut self, header: [u8; HEADER_BYTES], payload: Arc<[u8]>, descriptors: Vec<D>) {
        let letter = Queued { header, payload, sent: 0, descriptors };
        self.bytes += letter.left();
        self.descriptors += letter.descriptors.len();
        self.letters.push_back(letter);
    }

    /// The bytes for the next system call, and the descriptors that go with the first byte. A letter with descriptors
    /// goes alone, so that these arrive with its own bytes.
    pub fn batch(&self) -> (Vec<IoSlice<'_>>, &[D]) {
        let Some(first) = self.letters.front() else { return (Vec::new(), &[]) };
        if !first.descriptors.is_empty() {
            return (slices_of([first]), &first.descriptors);
        }
        let plain = self.letters.iter().take_while(|letter| letter.descriptors.is_empty());
        (slices_of(plain.take(SLICES_PER_CALL / 2)), &[])
    }

    /// Records that the kernel has taken `bytes` of the [`Self::batch`]. The descriptors have gone with them.
    pub fn advance(&mut self, mut bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        while bytes > 0
            && let Some(first) = self.letters.front_mut()
        {
            let taken = bytes.min(first.left());
            first.sent += taken;
            bytes -= taken;
            self.descriptors -= first.descriptors.len();
            first.descriptors = Vec::new();
            if first.left() == 0 {
                self.letters.pop_front();
            }
        }
        if self.letters.is_empty() {
            // An idle connection holds no memory.
            self.letters = VecDeque::new();
        }
    }
}

fn slices_of<'a, D: 'a>(letters: impl IntoIterator<Item = &'a Queued<D>>) -> Vec<IoSlice<'a>> {
    let slices = letters.into_iter().flat_map(Queued::slices);
    slices.filter(|slice| !slice.is_empty()).map(IoSlice::new).collect()
}

#[cfg(test)]
mod tests {
    use super::super::message::header;
    use super::*;

    fn push(outbox: &mut Outbox<u32>, payload: &[u8], descriptors: &[u32]) {
        let header = header(1, payload.len(), descriptors.len()).unwrap();
        outbox.push(header, payload.into(), descriptors.to_vec());
    }

    fn bytes_of(batch: &[IoSlice<'_>]) -> Vec<u8> {
        batch.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    /// Sends everything, `step` bytes at a time. Returns the bytes, and where each set of descriptors went with them.
    fn drain(outbox: &mut Outbox<u32>, step: usize) -> (Vec<u8>, Vec<(usize, Vec<u32>)>) {
        let (mut sent, mut gone) = (Vec::new(), Vec::new());
        while !outbox.is_empty() {
            let (slices, descriptors) = outbox.batch();
            if !descriptors.is_empty() {
                gone.push((sent.len(), descriptors.to_vec()));
            }
            let bytes = bytes_of(&slices);
            let taken = step.min(bytes.len());
            sent.extend_from_slice(&bytes[..taken]);
            outbox.advance(taken);
        }
        (sent, gone)
    }

    #[test]
    fn letters_leave_in_order_and_descriptors_with_the_first_byte_of_their_letter() {
        let mut expected = Vec::new();
        for (payload, count) in [("plain", 0), ("with two", 2), ("", 0), ("with one", 1), ("last", 0)] {
            expected.extend(header(1, payload.len(), count).unwrap());
            expected.extend(payload.as_bytes());
        }
        for step in [1, 3, 8, 9, 1000] {
            let mut outbox = Outbox::default();
            push(&mut outbox, b"plain", &[]);
            push(&mut outbox, b"with two", &[7, 8]);
            push(&mut outbox, b"", &[]);
            push(&mut outbox, b"with one", &[9]);
            push(&mut outbox, b"last", &[]);
            let (sent, gone) = drain(&mut outbox, step);
            assert_eq!(sent, expected);
            assert_eq!(gone, [(13, vec![7, 8]), (37, vec![9])]);
            assert_eq!((outbox.bytes, outbox.descriptors, outbox.letters.capacity()), (0, 0, 0));
        }
    }

    #[test]
    fn plain_letters_leave_together() {
        let mut outbox = Outbox::default();
        for _ in 0..100 {
            push(&mut outbox, b"ab", &[]);
        }
        assert_eq!(bytes_of(&outbox.batch().0).len(), SLICES_PER_CALL / 2 * 10);
    }

    #[test]
    fn a_full_queue_has_no_room_until_letters_have_left() {
        let mut outbox = Outbox::default();
        let longest = vec![0; MAX_PAYLOAD_BYTES - HEADER_BYTES];
        for _ in 0..8 {
            assert!(outbox.has_room(longest.len(), 0));
            push(&mut outbox, &longest, &[]);
        }
        assert!(!outbox.has_room(0, 0));
        outbox.advance(9);
        assert!(outbox.has_room(1, 0));
        assert!(!outbox.has_room(2, 0));

        let mut outbox = Outbox::default();
        for _ in 0..4 {
            push(&mut outbox, b"", &[0; 16]);
        }
        assert!(outbox.has_room(0, 0));
        assert!(!outbox.has_room(0, 1));
        outbox.advance(1);
        assert!(outbox.has_room(0, 16));
        assert!(!outbox.has_room(0, 17));

        let mut outbox = Outbox::default();
        for _ in 0..MAX_QUEUED_LETTERS {
            push(&mut outbox, b"", &[]);
        }
        assert!(!outbox.has_room(0, 0));
    }
}
