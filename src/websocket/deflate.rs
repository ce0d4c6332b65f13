//! DEFLATE for messages (RFC 7692 7.2): bytes in, bytes out, and the contexts that a connection may keep.
//!
//! The states of zlib take 300 KiB to compress and 40 KiB to inflate. They belong to the worker: a message takes one
//! for as long as it is compressed or inflated. A connection that keeps its context has only the last bytes of its
//! messages, and gives them to the state as a dictionary.

use std::sync::Mutex;

use flate2::{Compress, Compression as Level, Decompress, FlushCompress, FlushDecompress, Status};

use super::extension::Agreement;
use crate::sync::lock;

/// The level of zlib, its default. For the JSON of a chat the lower ones save less than a tenth of the time.
const LEVEL: u32 = 6;

/// The end of a flush, which the sender removes and the receiver appends (RFC 7692 7.2.1, 7.2.2).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A last block without contents. It is understood only between two blocks.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// The window of a state that inflates. It understands smaller ones, too.
const INFLATING_BITS: u8 = 15;

/// States that wait for their next message. More are in use only while messages are under way.
const KEPT_STATES: usize = 2;

/// Bytes that are compressed between two chances to give way. They take about a millisecond.
const STEP_BYTES: usize = 64 * 1024;

/// Bytes of the first room for an inflated message.
const FIRST_BYTES: usize = 1024;

/// Shorter messages are not compressed. Without a context 181 bytes of a chat's JSON become 145, and 512 become 151.
pub const LEAST_BYTES: usize = 256;

/// Shorter messages are not compressed where earlier ones are the context. Then 181 bytes become 21.
pub const LEAST_BYTES_IN_CONTEXT: usize = 32;

/// Longer messages are compressed without the context: in their own bytes they find more.
pub const MOST_BYTES_IN_CONTEXT: usize = 16 * 1024;

static COMPRESSORS: Mutex<Vec<(u8, Compress)>> = Mutex::new(Vec::new());
static INFLATERS: Mutex<Vec<Decompress>> = Mutex::new(Vec::new());

/// The last bytes of a connection's messages in one direction: the window of LZ77.
#[derive(Debug, Default)]
pub struct SlidingWindow(Vec<u8>);

impl SlidingWindow {
    /// Adds a message, for a window of `1 << bits` bytes.
    pub fn add(&mut self, message: &[u8], bits: u8) {
        let window = 1 << bits;
        if let Some(start) = message.len().checked_sub(window) {
            self.0.clear();
            self.append(message.get(start..).unwrap_or_default());
        } else {
            let surplus = (self.0.len() + message.len()).saturating_sub(window);
            self.0.drain(..surplus);
            self.append(message);
        }
    }

    /// Forgets all messages, since the other side has got one that was not added.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    fn append(&mut self, bytes: &[u8]) {
        self.0.reserve_exact(bytes.len());
        self.0.extend_from_slice(bytes);
    }
}

/// A message on its way through a compressor. Call [`Self::step`] until it returns true.
pub struct Compressing<'a> {
    state: Compress,
    bits: u8,
    rest: &'a [u8],
    out: Vec<u8>,
    is_over: bool,
    is_worth_it: bool,
}

impl<'a> Compressing<'a> {
    /// Begins with `message`, for a window of `1 << bits` bytes (9 to 15) after `context`.
    pub fn new(message: &'a [u8], bits: u8, context: Option<&SlidingWindow>) -> Compressing<'a> {
        let mut state = take_compressor(bits);
        if let Some(SlidingWindow(bytes)) = context
            && !bytes.is_empty()
        {
            // zlib refuses a dictionary only in the middle of its input.
            let _ = state.set_dictionary(bytes);
        }
        // A result that does not fit here is no shorter than the message.
        let out = Vec::with_capacity(message.len() + TAIL.len());
        Compressing { state, bits, rest: message, out, is_over: false, is_worth_it: false }
    }

    /// Compresses some KiB. Returns true once [`Self::finish`] has the result.
    pub fn step(&mut self) -> bool {
        if self.is_over {
            return true;
        }
        let (piece, _) = self.rest.split_at(self.rest.len().min(STEP_BYTES));
        let is_last = piece.len() == self.rest.len();
        let flush = if is_last { FlushCompress::Sync } else { FlushCompress::None };
        let before = self.state.total_in();
        let compressed = self.state.compress_vec(piece, &mut self.out, flush);
        let count = usize::try_from(self.state.total_in() - before).unwrap_or(usize::MAX);
        self.rest = self.rest.get(count..).unwrap_or_default();
        let is_full = self.out.len() == self.out.capacity();
        // zlib does not fail here; then the message goes as it is.
        self.is_over = compressed.is_err() || is_full || is_last;
        self.is_worth_it = compressed.is_ok() && !is_full && is_last;
        self.is_over
    }

    /// The compressed message (RFC 7692 7.2.1); none if it would be no shorter.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        keep(&COMPRESSORS, (self.bits, self.state));
        let is_whole = self.is_worth_it && self.out.ends_with(&TAIL);
        self.out.truncate(self.out.len().saturating_sub(TAIL.len()));
        is_whole.then_some(self.out)
    }
}

/// The whole message at once; see [`Compressing`].
pub fn compress(message: &[u8], bits: u8, context: Option<&SlidingWindow>) -> Option<Vec<u8>> {
    let mut compressing = Compressing::new(message, bits, context);
    while !compressing.step() {}
    compressing.finish()
}

/// Whether a message of `bytes` is compressed by [`Compressing`] without a context, before the connection is locked.
pub fn is_compressed_alone(agreement: &Agreement, bytes: usize) -> bool {
    bytes >= LEAST_BYTES && (!agreement.sent_takeover || bytes > MOST_BYTES_IN_CONTEXT)
}

/// The failure of a message that is inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InflateError {
    /// The message would be longer than the limit.
    TooBig,
    /// The bytes are not DEFLATE, refer to bytes before the window, or end within a block.
    Corrupt,
}

/// A message on its way through an inflater.
pub struct Inflating {
    state: Decompress,
    /// The last block had the bit for the last one, and nothing came after it (RFC 7692 7.2.3.4).
    is_ended: bool,
}

impl std::fmt::Debug for Inflating {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inflating").finish_non_exhaustive()
    }
}

impl Inflating {
    /// Begins a message, after `context` where the client keeps it.
    pub fn new(context: Option<&SlidingWindow>) -> Inflating {
        let mut state =
            lock(&INFLATERS).pop().unwrap_or_else(|| Decompress::new_with_window_bits(false, INFLATING_BITS));
        set_dictionary(&mut state, context.map_or(&[][..], |SlidingWindow(bytes)| bytes));
        Inflating { state, is_ended: false }
    }

    /// Inflates `input`, the next part of the message, to the end of `message`. Returns the work in bytes.
    ///
    /// # Errors
    /// [`InflateError::TooBig`] at the first byte over `limit`, which is not kept.
    pub fn inflate(
        &mut self,
        mut input: &[u8],
        message: &mut Vec<u8>,
        limit: usize,
        context: Option<&SlidingWindow>,
    ) -> Result<usize, InflateError> {
        let mut work = input.len();
        while !input.is_empty() {
            self.is_ended = false;
            let (read, written, status) = self.inflate_some(input, message, limit)?;
            input = input.get(read..).unwrap_or_default();
            work += written;
            if status == Status::StreamEnd {
                // The client may go on with further blocks (RFC 7692 7.2.3.5).
                work += self.begin_again(message, context);
            } else if read == 0 && written == 0 {
                return Err(InflateError::Corrupt);
            }
        }
        // Output that had no room is still in the state.
        while !self.is_ended && message.len() == message.capacity() {
            let (_, written, _) = self.inflate_some(&[], message, limit)?;
            work += written;
            if written == 0 {
                break;
            }
        }
        Ok(work)
    }

    /// Ends the message (RFC 7692 7.2.2).
    ///
    /// # Errors
    /// [`InflateError::Corrupt`] if it ends within a block.
    pub fn finish(mut self) -> Result<(), InflateError> {
        if !self.is_ended {
            // Nothing but the end of an empty block may be missing.
            let mut nothing = Vec::new();
            self.inflate_some(&TAIL, &mut nothing, 0).map_err(|_| InflateError::Corrupt)?;
            let (read, _, status) =
                self.inflate_some(&LAST_BLOCK, &mut nothing, 0).map_err(|_| InflateError::Corrupt)?;
            if status != Status::StreamEnd || read != LAST_BLOCK.len() {
                return Err(InflateError::Corrupt);
            }
        }
        self.state.reset(false);
        keep(&INFLATERS, self.state);
        Ok(())
    }

    /// One call of zlib. Returns the bytes read and written.
    fn inflate_some(
        &mut self,
        input: &[u8],
        message: &mut Vec<u8>,
        limit: usize,
    ) -> Result<(usize, usize, Status), InflateError> {
        let before = (self.state.total_in(), self.state.total_out());
        let status = if message.len() < limit {
            if message.len() == message.capacity() {
                let wanted = message.capacity().saturating_mul(2).max(FIRST_BYTES).min(limit);
                message.reserve_exact(wanted - message.len());
            }
            self.state.decompress_vec(input, message, FlushDecompress::None)
        } else {
            // The end of a message of just the limit still has to be read.
            let status = self.state.decompress(input, &mut [0], FlushDecompress::None);
            if self.state.total_out() > before.1 {
                return Err(InflateError::TooBig);
            }
            status
        };
        let status = status.map_err(|_| InflateError::Corrupt)?;
        let difference = |after: u64, before: u64| usize::try_from(after - before).unwrap_or(usize::MAX);
        Ok((difference(self.state.total_in(), before.0), difference(self.state.total_out(), before.1), status))
    }

    /// Begins a new stream within the message. Returns the work in bytes.
    fn begin_again(&mut self, message: &[u8], context: Option<&SlidingWindow>) -> usize {
        let mut window = SlidingWindow::default();
        if let Some(SlidingWindow(bytes)) = context {
            window.add(bytes, INFLATING_BITS);
        }
        window.add(message, INFLATING_BITS);
        self.state.reset(false);
        set_dictionary(&mut self.state, &window.0);
        self.is_ended = true;
        window.0.len()
    }
}

fn set_dictionary(state: &mut Decompress, bytes: &[u8]) {
    if !bytes.is_empty() {
        // Without a header zlib takes every dictionary.
        let _ = state.set_dictionary(bytes);
    }
}

fn take_compressor(bits: u8) -> Compress {
    let mut kept = lock(&COMPRESSORS);
    if let Some(index) = kept.iter().position(|(other, _)| *other == bits) {
        let (_, mut state) = kept.swap_remove(index);
        drop(kept);
        state.reset();
        return state;
    }
    drop(kept);
    Compress::new_with_window_bits(Level::new(LEVEL), false, bits)
}

/// Keeps a state for the next message.
fn keep<T>(states: &Mutex<Vec<T>>, state: T) {
    let mut kept = lock(states);
    let surplus = if kept.len() < KEPT_STATES { None } else { Some(kept.remove(0)) };
    kept.push(state);
    drop(kept);
    drop(surplus);
}

#[cfg(test)]
mod tests;
