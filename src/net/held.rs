//! Output that is held back for at most a millisecond, so that several items of a response share a write.
//!
//! PEP 3333 forbids to delay an item unless another thread is sure to send it. The [`sender`] is this thread, an OS thread
//! that needs no interpreter: it sends what has been held for half a millisecond to one, whatever the loop does. One stream
//! at a time is held back, that of the running turn, whose owner sends what is held before the turn ends.
//!
//! Encrypted streams are never held back. A fork sends what is held first, and the child drops the rest.
//!
//! `answers` has complete answers, which outlive their turn.

mod answers;
mod sender;

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Stream, forks};
use crate::sync::lock;

use answers::{Answers, is_any_kept, kept_since, send};
pub use answers::{are_late, is_owed, is_unsent, keep_in_turn, may_keep};

/// Bytes from which held output should be sent.
pub const FULL: usize = 64 * 1024;

struct HeldOutput {
    stream: Option<Arc<Stream>>,
    bytes: Vec<u8>,
    answers: Answers,
}

static HELD: Mutex<HeldOutput> = Mutex::new(HeldOutput { stream: None, bytes: Vec::new(), answers: Answers::new() });

/// The address of the stream that is held back; 0 for none.
static HOLDER: AtomicUsize = AtomicUsize::new(0);

/// When the output that is held back began to be held, in nanoseconds of the monotonic clock, if there is any.
static HOLD_SINCE: AtomicU64 = AtomicU64::new(0);

const WATCHED: sender::Watched = sender::Watched { since: oldest, send: send_now, before_fork: || _ = send_now() };

/// Holds `parts` back, behind what is held already. Returns the number of bytes held; `None` if the caller has to send
/// them itself: on an encrypted stream, in a forked child, without a thread for the sender.
pub fn hold(stream: &Arc<Stream>, parts: &[&[u8]]) -> Option<usize> {
    let address = Arc::as_ptr(stream) as usize;
    let holder = HOLDER.load(Ordering::Relaxed);
    if (holder != 0 && holder != address) || stream.is_encrypted() || forks::is_child() || !sender::runs(WATCHED) {
        return None;
    }
    let mut held = lock(&HELD);
    // The sender may have sent the output of before.
    let is_first = held.bytes.is_empty();
    for part in parts {
        held.bytes.extend_from_slice(part);
    }
    let count = held.bytes.len();
    if held.stream.is_none() {
        held.stream = Some(Arc::clone(stream));
    }
    drop(held);
    if is_first {
        let since = sender::now();
        HOLD_SINCE.store(since, Ordering::SeqCst);
        HOLDER.store(address, Ordering::SeqCst);
        sender::watch(since, !is_any_kept());
    }
    Some(count)
}

/// Whether the running turn holds output back.
#[inline]
pub fn is_any_held() -> bool {
    HOLDER.load(Ordering::Relaxed) != 0
}

/// Whether output of `stream` is held back.
#[inline]
pub fn is_held(stream: &Stream) -> bool {
    HOLDER.load(Ordering::Relaxed) == std::ptr::from_ref(stream) as usize
}

/// Takes the output of `stream` that is held back, which the caller sends before anything else. `None` if there is
/// none. [`give_back`] takes the emptied buffer.
pub fn take(stream: &Stream) -> Option<Vec<u8>> {
    if !is_held(stream) || forks::is_child() {
        return None;
    }
    let mut held = lock(&HELD);
    HOLDER.store(0, Ordering::SeqCst);
    let owner = held.stream.take();
    let bytes = std::mem::take(&mut held.bytes);
    drop(held);
    drop(owner);
    Some(bytes)
}

/// Keeps the buffer of [`take`] for the next output.
pub fn give_back(mut bytes: Vec<u8>) {
    if forks::is_child() {
        return;
    }
    bytes.clear();
    let mut held = lock(&HELD);
    if held.bytes.capacity() == 0 && bytes.capacity() <= 2 * FULL {
        held.bytes = bytes;
    }
}

/// Keeps the output of `stream` that the running turn holds back, a complete answer, beyond the turn. Returns false if
/// that may not be, or is not held any more: the caller sends it.
pub fn keep(stream: &Stream) -> bool {
    if !may_keep() || !is_held(stream) || forks::is_child() {
        return false;
    }
    let mut held = lock(&HELD);
    let HeldOutput { stream: holder, bytes, answers } = &mut *held;
    let is_kept = holder.as_ref().is_some_and(|holder| answers.keep(holder, bytes));
    if is_kept {
        *holder = None;
        HOLDER.store(0, Ordering::SeqCst);
    }
    is_kept
}

/// Sends the answers that are kept. On the loop thread.
#[inline]
pub fn send_answers() {
    if is_any_kept() && !forks::is_child() {
        lock(&HELD).answers.send_all();
    }
}

/// Sends the answers that are kept. Takes the rest of that on `stream`, which the caller sends before anything else;
/// `None` if there is none.
pub fn take_owed(stream: &Stream) -> Option<Vec<u8>> {
    send_answers();
    if !is_owed(stream) || forks::is_child() {
        return None;
    }
    lock(&HELD).answers.take_owed(stream)
}

/// When the oldest of the output that is held began to be held; `None` if nothing is held.
fn oldest() -> Option<u64> {
    let output = (HOLDER.load(Ordering::SeqCst) != 0).then(|| HOLD_SINCE.load(Ordering::SeqCst));
    output.into_iter().chain(kept_since()).min()
}

/// Sends what the sockets accept now. Returns whether something is left, which every error leaves to the owner of the
/// output.
pub fn send_now() -> bool {
    if forks::is_child() {
        return false;
    }
    let mut held = lock(&HELD);
    let HeldOutput { stream, bytes, answers } = &mut *held;
    let is_answer_left = answers.send_now();
    if let Some(stream) = stream {
        send(stream, bytes);
    }
    is_answer_left || !bytes.is_empty()
}
