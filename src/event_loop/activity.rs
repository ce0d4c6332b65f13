//! Whether the loop waits for events, or since when its turn runs, for observers on other OS threads.
//!
//! The loop thread stores one number for each turn and each poll. An observer reads that number without a lock. While
//! nothing happens the observer sleeps without a time limit, and the next turn wakes it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::Thread;

use rustix::time::{ClockId, clock_gettime};

use crate::sync::lock;

/// The bit of a number that stands for a poll instead of a time.
const POLL: u64 = 1 << 63;

/// 0 while the loop waits for events. Otherwise the start of the running turn on the coarse clock, or [`POLL`] with the
/// number of the poll that has returned. No turn has begun since then: the loop may wait for the interpreter.
static NOW: AtomicU64 = AtomicU64::new(0);

/// The number of polls so far. The loop thread alone writes it.
static POLLS: AtomicU64 = AtomicU64::new(0);

/// The time of polls is kept.
static KEEPS_POLLS: AtomicBool = AtomicBool::new(false);

/// When the last poll returned, on the coarse clock, if that is kept.
static LAST_POLL: AtomicU64 = AtomicU64::new(0);

/// The loop's OS thread; 0 without a loop.
static THREAD: AtomicI32 = AtomicI32::new(0);

/// The observer asks to be woken by the next turn.
static IS_AWAITED: AtomicBool = AtomicBool::new(false);

/// The thread to wake.
static OBSERVER: Mutex<Option<Thread>> = Mutex::new(None);

/// The activity of the loop at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// The loop waits for events, or there is no loop.
    Waits,
    /// A turn runs since this time, in nanoseconds on the coarse clock.
    Turns(u64),
    /// A poll, of this number, has returned, and no turn has begun since.
    Polled(u64),
}

/// The activity of the loop now. From any thread.
pub fn activity() -> Activity {
    match NOW.load(Ordering::Relaxed) {
        0 => Activity::Waits,
        number if number & POLL != 0 => Activity::Polled(number & !POLL),
        begun => Activity::Turns(begun),
    }
}

/// The start of the running turn on the coarse clock, for the loop thread. In the future where no turn has begun since
/// the last poll.
pub(super) fn turn_begun() -> u64 {
    NOW.load(Ordering::Relaxed)
}

/// Nanoseconds on the coarse clock. A look costs no more than a read of memory; the clock ticks every 1 to 10 ms.
pub fn coarse_now() -> u64 {
    nanoseconds(ClockId::MonotonicCoarse)
}

/// Nanoseconds on the clock that the coarse clock follows. The coarse clock is up to a tick behind.
pub fn precise_now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

/// The number of the loop's OS thread in the kernel. `None` without a loop.
pub fn loop_thread() -> Option<i32> {
    Some(THREAD.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
}

/// Asks the loop to wake the calling thread when its next turn begins. A turn that begins at the same moment may miss
/// the request. A caller that finds the loop waiting some milliseconds later can sleep: stores of other processors
/// arrive within microseconds, and a fence in each turn would cost more.
pub fn wake_me_at_the_next_turn() {
    *lock(&OBSERVER) = Some(std::thread::current());
    IS_AWAITED.store(true, Ordering::SeqCst);
}

/// Whether the request of [`wake_me_at_the_next_turn`] still stands.
pub fn will_be_woken() -> bool {
    IS_AWAITED.load(Ordering::SeqCst)
}

/// Notes that the calling thread runs the loop from now on.
pub(super) fn begin() {
    NOW.store(0, Ordering::Relaxed);
    THREAD.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
}

/// Notes that the loop is over.
pub(super) fn end() {
    THREAD.store(0, Ordering::Relaxed);
    NOW.store(0, Ordering::Relaxed);
}

/// Notes that a turn begins at `time`, on the coarse clock.
pub(super) fn note_turn(time: u64) {
    NOW.store(time, Ordering::Relaxed);
}

/// Notes that the loop waits for events.
pub(super) fn note_wait() {
    NOW.store(0, Ordering::Relaxed);
}

/// Notes that a poll has returned, and wakes an observer that sleeps.
pub(super) fn note_poll() {
    let polls = POLLS.load(Ordering::Relaxed).wrapping_add(1);
    POLLS.store(polls, Ordering::Relaxed);
    NOW.store(polls | POLL, Ordering::Relaxed);
    if IS_AWAITED.load(Ordering::Relaxed) {
        wake_observer();
    }
}

/// Keeps the time of polls from now on.
pub fn keep_polls() {
    KEEPS_POLLS.store(true, Ordering::Relaxed);
}

/// Notes the time of a poll that has returned, if that is kept.
pub(super) fn note_time_of_poll() {
    if KEEPS_POLLS.load(Ordering::Relaxed) {
        LAST_POLL.store(coarse_now(), Ordering::Relaxed);
    }
}

/// When the last poll returned, on the coarse clock; 0 if that is not kept.
pub(super) fn last_poll() -> u64 {
    LAST_POLL.load(Ordering::Relaxed)
}

#[cold]
fn wake_observer() {
    IS_AWAITED.store(false, Ordering::Relaxed);
    if let Some(observer) = lock(&OBSERVER).take() {
        observer.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poll_wakes_the_observer_that_sleeps() {
        let observer = std::thread::spawn(|| {
            wake_me_at_the_next_turn();
            while will_be_woken() {
                std::thread::park();
            }
        });
        while !observer.is_finished() {
            note_poll();
            std::thread::yield_now();
        }
        observer.join().unwrap();
    }
}
