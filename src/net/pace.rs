//! Time limits for a peer that receives slowly.

use crate::sync::lock;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// Checks of the peer's progress within one timeout. The kernel reports a socket as writable only when a good part of
/// its buffer is free, which may be megabytes.
const LOOKS: u32 = 4;

/// The time limit of one peer. No pause without a byte is longer than the timeout. Each byte received earns time, as
/// each byte of a request body does. The time left never exceeds the timeout, so an initial burst earns nothing for a
/// later trickle. Only waiting counts, so an application that sends slowly does its client no harm.
pub struct Pace {
    timeout: Option<Duration>,
    bytes_per_second: u32,
    left: Mutex<Option<Duration>>,
}

impl Pace {
    /// A peer may receive nothing for `timeout` (`None`: no limit). The peer must receive `bytes_per_second` on average
    /// (0: no minimum).
    pub fn new(timeout: Option<Duration>, bytes_per_second: u32) -> Pace {
        Pace { timeout, bytes_per_second, left: Mutex::new(timeout) }
    }

    /// The time to wait until the next check. `None`: no limit. Zero: the peer's time is used up.
    pub fn next_look(&self) -> Option<Duration> {
        let left = (*self.lock())?;
        Some(left.min(self.timeout? / LOOKS).max(Duration::from_millis(1)).min(left))
    }

    /// Whether the peer's time is used up.
    pub fn is_over(&self) -> bool {
        self.lock().is_some_and(|left| left.is_zero())
    }

    /// Records a wait of this length, during which the peer received `taken` bytes.
    pub fn note(&self, waited: Duration, taken: u64) {
        let Some(timeout) = self.timeout else { return };
        let mut left = self.lock();
        if taken > 0 && self.bytes_per_second == 0 {
            *left = Some(timeout);
            return;
        }
        let rate = u64::from(self.bytes_per_second.max(1));
        let bought = Duration::from_secs(taken / rate) + Duration::from_millis(taken % rate * 1000 / rate);
        *left = left.map(|left| left.saturating_add(bought).saturating_sub(waited).min(timeout));
    }

    /// Restores the full timeout, when the peer appears to receive.
    pub fn refresh(&self) {
        *self.lock() = self.timeout;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Duration>> {
        lock(&self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_peer_that_takes_nothing_is_waited_for_as_long_as_the_timeout() {
        let pace = Pace::new(Some(60 * SECOND), 500);
        for _ in 0..LOOKS {
            assert!(!pace.is_over());
            let look = pace.next_look().unwrap();
            assert_eq!(look, 15 * SECOND);
            pace.note(look, 0);
        }
        assert!(pace.is_over());
    }

    #[test]
    fn a_peer_at_the_rate_is_waited_for_for_ever_and_one_below_it_is_not() {
        let (steady, dripping) = (Pace::new(Some(60 * SECOND), 500), Pace::new(Some(60 * SECOND), 500));
        for _ in 0..100_000 {
            steady.note(15 * SECOND, 7500);
        }
        assert!(!steady.is_over());
        let mut waited = Duration::ZERO;
        while !dripping.is_over() {
            dripping.note(SECOND, 250);
            waited += SECOND;
        }
        assert_eq!(waited, 120 * SECOND);
    }

    #[test]
    fn a_burst_buys_no_more_than_the_timeout() {
        let pace = Pace::new(Some(60 * SECOND), 500);
        pace.note(SECOND, 1_000_000_000);
        pace.note(59 * SECOND, 0);
        assert!(!pace.is_over());
        pace.note(SECOND, 0);
        assert!(pace.is_over());
    }

    #[test]
    fn without_a_rate_any_byte_is_progress_and_without_a_timeout_there_is_no_end() {
        let pace = Pace::new(Some(60 * SECOND), 0);
        for _ in 0..100 {
            pace.note(59 * SECOND, 1);
        }
        assert!(!pace.is_over());
        pace.note(60 * SECOND, 0);
        assert!(pace.is_over());
        let endless = Pace::new(None, 500);
        endless.note(1000 * SECOND, 0);
        assert!(!endless.is_over() && endless.next_look().is_none());
    }
}
