//! The numbers of coroutines that wait, by the reason, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::reasons::Reason;

/// The number of reasons.
pub const REASONS: usize = Reason::ALL.len();

/// Coroutines in a wait, by the number of the reason. The loop thread alone writes.
static WAITING: [AtomicU64; REASONS] = [const { AtomicU64::new(0) }; REASONS];

/// How often [`WAITING`] has changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// A wait that is counted, for as long as this lives.
pub(super) struct Waiting(Reason);

impl Waiting {
    /// Counts a wait of the current unit.
    pub fn begin(reason: Reason) -> Waiting {
        change(reason, 1);
        Waiting(reason)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        change(self.0, u64::MAX);
    }
}

/// The coroutines that wait, by the number of the reason.
pub fn by_reason() -> [u64; REASONS] {
    std::array::from_fn(|number| WAITING[number].load(Ordering::Relaxed))
}

/// A number that differs after each change of [`by_reason`].
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Relaxed)
}

/// Begins anew with a loop: coroutines that an earlier loop has left behind do not count, nor those of a parent process.
pub(super) fn begin() {
    WAITING.iter().for_each(|count| count.store(0, Ordering::Relaxed));
}

fn change(reason: Reason, by: u64) {
    if let Some(count) = WAITING.get(reason as usize) {
        count.store(count.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
    CHANGES.store(CHANGES.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
