//! Coroutines that take locks again and again without ever having to wait: now and then they let others run.
//!
//! Code written for threads may look into a queue in a loop until something is there. In a thread that is a waste; in a
//! coroutine nobody could ever put it there.

use std::cell::Cell;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::event_loop::{self, Wake};
use crate::interp::wake_error;

/// How long a coroutine may run while it takes locks. Beyond what a request computes between two waits, within what its
/// neighbours do not notice.
const SLICE: Duration = Duration::from_millis(20);

/// The clock is looked at once in so many locks.
const LOCKS_PER_LOOK: u32 = 128;

thread_local! {
    static LOCKS: Cell<u32> = const { Cell::new(0) };
    static LAST: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
}

/// Called where a lock is about to be taken.
///
/// # Errors
/// What is raised in a coroutine that waits.
///
/// # Parks
pub fn give_way(_py: Python<'_>) -> PyResult<()> {
    let count = LOCKS.get() + 1;
    LOCKS.set(count);
    if count < LOCKS_PER_LOOK {
        return Ok(());
    }
    LOCKS.set(0);
    if !event_loop::can_park() {
        return Ok(());
    }
    let (parks, now) = (event_loop::number_of_parks(), Instant::now());
    match LAST.get() {
        Some((before, since)) if before == parks => {
            if now - since < SLICE {
                return Ok(());
            }
        }
        _ => {
            LAST.set(Some((parks, now)));
            return Ok(());
        }
    }
    match event_loop::after_next_poll() {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}
