//! Bytes received from clients and sent to them, counted for the whole process, encrypted where the connection is.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::event_loop;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static RECEIVED: ByteCount = ByteCount::new();
static SENT: ByteCount = ByteCount::new();

/// A count with a part of its own for the loop thread, which needs no locked instruction.
struct ByteCount {
    by_loop: AtomicU64,
    by_others: AtomicU64,
}

/// The bytes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// Begins to count, for the rest of the process.
pub fn count_traffic() {
    IS_COUNTING.store(true, Ordering::Relaxed);
}

/// The bytes that were counted so far.
pub fn traffic() -> Traffic {
    Traffic { received: RECEIVED.total(), sent: SENT.total() }
}

pub(super) fn note_received(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        RECEIVED.add(bytes as u64);
    }
}

pub(super) fn note_sent(bytes: usize) {
    if IS_COUNTING.load(Ordering::Relaxed) {
        SENT.add(bytes as u64);
    }
}

impl ByteCount {
    const fn new() -> ByteCount {
        ByteCount { by_loop: AtomicU64::new(0), by_others: AtomicU64::new(0) }
    }

    fn add(&self, bytes: u64) {
        if event_loop::is_loop_thread() {
            self.by_loop.store(self.by_loop.load(Ordering::Relaxed).wrapping_add(bytes), Ordering::Relaxed);
        } else {
            self.by_others.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn total(&self) -> u64 {
        self.by_loop.load(Ordering::Relaxed).wrapping_add(self.by_others.load(Ordering::Relaxed))
    }
}
