//! Complete answers that are held while other ready requests of the same poll run.
//!
//! A client with many connections is woken once for a batch of answers instead of once for each answer. The server
//! decides which turns may keep their answer. The loop sends these answers before it polls and before any other work.
//! The sender sends what has been kept for half a millisecond to one, whatever the running turn does.
//!
//! The bytes that a socket does not accept, and every error of it, go back to the loop: it serves the connection, which
//! sends the rest ([`take_owed`](super::take_owed)) before anything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::SendFlags;

use super::sender::now;
use crate::event_loop::{self, streams};
use crate::net::{Stream, traffic};

/// The most bytes of an answer that is kept.
const ANSWER_BYTES: usize = 16 * 1024;

/// Empty buffers that are kept for the next answers.
const SPARE: usize = 32;

/// Nothing of an answer is left to send.
const NOTHING: u8 = 0;

/// An answer is kept.
const KEPT: u8 = 1;

/// The connection has to send the rest of an answer.
const OWED: u8 = 2;

/// No turn may keep its answer.
const NO_TURN: u64 = u64::MAX;

/// When the first of the answers was kept, in nanoseconds of the monotonic clock; 0 for none.
static SINCE: AtomicU64 = AtomicU64::new(0);

/// The number of parks while the turn runs that may keep its answer; [`NO_TURN`] for none. After a park another turn
/// runs.
static TURN: AtomicU64 = AtomicU64::new(NO_TURN);

/// The answers.
pub(super) struct Answers {
    /// The complete answers that are held, in their order.
    kept: Vec<(Arc<Stream>, Vec<u8>)>,
    /// Rests that their sockets have not accepted. The connections send them.
    owed: Vec<(Arc<Stream>, Vec<u8>)>,
    /// Empty buffers.
    spare: Vec<Vec<u8>>,
}

impl Answers {
    pub(super) const fn new() -> Answers {
        Answers { kept: Vec::new(), owed: Vec::new(), spare: Vec::new() }
    }

    /// Keeps an answer, if it is short enough, and leaves an empty buffer for the next one. Returns whether it is kept.
    pub(super) fn keep(&mut self, stream: &Arc<Stream>, bytes: &mut Vec<u8>) -> bool {
        if bytes.len() > ANSWER_BYTES {
            return false;
        }
        // The sender may have sent it.
        if !bytes.is_empty() {
            stream.unsent.store(KEPT, Ordering::Relaxed);
            let next = self.spare.pop().unwrap_or_default();
            self.kept.push((Arc::clone(stream), std::mem::replace(bytes, next)));
            if !is_any_kept() {
                SINCE.store(now(), Ordering::SeqCst);
            }
        }
        true
    }

    /// Sends what the sockets accept now. Returns whether something is left.
    pub(super) fn send_now(&mut self) -> bool {
        let mut is_left = false;
        for (stream, bytes) in self.kept.iter_mut().filter(|(_, bytes)| !bytes.is_empty()) {
            send(stream, bytes);
            is_left |= !bytes.is_empty();
        }
        is_left
    }

    /// Sends the answers. The loop serves the connections of those that are not sent whole. On the loop thread.
    pub(super) fn send_all(&mut self) {
        SINCE.store(0, Ordering::SeqCst);
        // The others have lost their connections.
        self.owed.retain(|(stream, _)| Arc::strong_count(stream) > 1);
        for (stream, mut bytes) in self.kept.drain(..) {
            if !bytes.is_empty() {
                send(&stream, &mut bytes);
            }
            if !bytes.is_empty() {
                stream.unsent.store(OWED, Ordering::Relaxed);
                streams::serve_first(stream.source());
                self.owed.push((stream, bytes));
                continue;
            }
            stream.unsent.store(NOTHING, Ordering::Relaxed);
            if self.spare.len() < SPARE && bytes.capacity() <= ANSWER_BYTES {
                self.spare.push(bytes);
            }
        }
    }

    /// Takes the rest of the answer on `stream`.
    pub(super) fn take_owed(&mut self, stream: &Stream) -> Option<Vec<u8>> {
        stream.unsent.store(NOTHING, Ordering::Relaxed);
        let index = self.owed.iter().position(|(owner, _)| std::ptr::eq(Arc::as_ptr(owner), stream))?;
        Some(self.owed.swap_remove(index).1)
    }
}

/// Sends what the socket accepts now, and leaves the rest in `bytes`.
pub(super) fn send(stream: &Stream, bytes: &mut Vec<u8>) {
    if let Ok(sent) = rustix::net::send(stream, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
        traffic::note_sent(sent);
        bytes.drain(..sent.min(bytes.len()));
    }
}

/// Lets the running turn keep its answer until it parks, or forbids that.
pub fn keep_in_turn(may_keep: bool) {
    TURN.store(if may_keep { event_loop::number_of_parks() } else { NO_TURN }, Ordering::Relaxed);
}

/// Whether the running turn may keep its answer.
#[inline]
pub fn may_keep() -> bool {
    let turn = TURN.load(Ordering::Relaxed);
    turn != NO_TURN && turn == event_loop::number_of_parks() && event_loop::can_park()
}

/// Whether an answer is kept.
#[inline]
pub(super) fn is_any_kept() -> bool {
    SINCE.load(Ordering::SeqCst) != 0
}

/// When the first of the answers was kept; `None` if there is none.
pub(super) fn kept_since() -> Option<u64> {
    Some(SINCE.load(Ordering::SeqCst)).filter(|&since| since != 0)
}

/// Whether the first of the answers was kept `time` ago or earlier.
#[inline]
pub fn are_late(time: Duration) -> bool {
    let since = SINCE.load(Ordering::Relaxed);
    since != 0 && u128::from(now().saturating_sub(since)) >= time.as_nanos()
}

/// Whether a part of an answer on `stream` is still to be sent.
#[inline]
pub fn is_unsent(stream: &Stream) -> bool {
    stream.unsent.load(Ordering::Relaxed) != NOTHING
}

/// Whether the connection has to send the rest of an answer on `stream`.
#[inline]
pub fn is_owed(stream: &Stream) -> bool {
    stream.unsent.load(Ordering::Relaxed) == OWED
}
