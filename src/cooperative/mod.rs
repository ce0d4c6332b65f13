//! What blocks in Python, made to park: locks and what is built on them, sockets.
//!
//! Each of these works between coroutines and OS threads, in both directions: a coroutine that waits parks, an OS thread
//! blocks ([`crate::interp::wait`]). Their mutexes are held for moments, in which no Python code runs and no Python object
//! is dropped; none is held across a wait.

mod buffer;
mod builtin;
mod classes;
mod condition;
mod descriptor;
mod event;
mod file_methods;
mod jobs;
mod lock;
pub mod native;
mod queue;
mod rlock;
mod semaphore;
pub mod socket;
mod socket_fields;

pub use buffer::as_method;
pub use builtin::as_builtin;
pub use classes::set_attribute;
pub use condition::Condition;
pub use descriptor::{is_fifo, may_wait};
pub use event::Event;
pub use file_methods::{detour, in_turn};
pub use jobs::Jobs;
pub use lock::Lock;
pub use queue::{LifoQueue, Queue, ShutDown, SimpleQueue};
pub use rlock::RLock;
pub use semaphore::{BoundedSemaphore, Semaphore};

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use crate::interp;

/// The longest time a lock can be waited for, in seconds: `threading.TIMEOUT_MAX`, 2^63 nanoseconds.
const LONGEST_TIMEOUT: f64 = 9_223_372_036.0;

/// `timeout` seconds from now; None is for ever, and what has passed already is now.
///
/// # Errors
/// ValueError for what is not a number, OverflowError for more than CPython takes.
fn deadline_of(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    if timeout == Some(f64::INFINITY) {
        return Err(PyOverflowError::new_err("timeout value is too large"));
    }
    // Not `max(0.0)`, which would make 0 of what is not a number.
    timeout.map(|seconds| interp::deadline_after("timeout", if seconds < 0.0 { 0.0 } else { seconds })).transpose()
}

/// A chance to switch; one that raises what is thrown into the coroutine only if the call may wait.
///
/// # Errors
/// What is raised in a coroutine that waits.
///
/// # Parks
fn give_way(py: Python<'_>, block: bool) -> PyResult<()> {
    if block {
        return interp::give_way(py);
    }
    interp::give_way_quietly(py);
    Ok(())
}

/// Puts a waiter at the end of a line, or back at its head.
fn join_line<T>(line: &mut VecDeque<T>, waiter: T, again: bool) {
    if again {
        line.push_front(waiter);
    } else {
        line.push_back(waiter);
    }
}

/// How long `acquire(blocking, timeout)` waits.
enum Patience {
    /// Not at all.
    Try,
    /// Until then; none is for ever.
    Until(Option<Instant>),
}

impl Patience {
    /// The chance to switch of a call that waits so: one that does not cannot be interrupted either.
    ///
    /// # Errors
    /// What is raised in a coroutine that waits.
    ///
    /// # Parks
    fn give_way(&self, py: Python<'_>) -> PyResult<()> {
        give_way(py, matches!(self, Patience::Until(_)))
    }

    /// # Errors
    /// Those of `_thread.lock.acquire`, ValueError and OverflowError.
    fn new(blocking: bool, timeout: f64) -> PyResult<Patience> {
        #[expect(clippy::float_cmp, reason = "-1 is a flag here, as in _thread.lock.acquire")]
        let for_ever = timeout == -1.0;
        match (blocking, for_ever) {
            (false, true) => Ok(Patience::Try),
            (false, false) => Err(PyValueError::new_err("can't specify a timeout for a non-blocking call")),
            (true, true) => Ok(Patience::Until(None)),
            (true, false) if timeout < 0.0 || timeout.is_nan() => {
                Err(PyValueError::new_err("timeout value must be a non-negative number"))
            }
            (true, false) if timeout > LONGEST_TIMEOUT => Err(PyOverflowError::new_err("timeout value is too large")),
            (true, false) if timeout == 0.0 => Ok(Patience::Try),
            (true, false) => Ok(Patience::Until(Some(Instant::now() + Duration::from_secs_f64(timeout)))),
        }
    }
}
