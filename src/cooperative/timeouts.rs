//! Time limits of locks, queues and events, as their methods take them.

use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

use crate::interp;

/// The longest time that a lock can be waited for, in seconds: `threading.TIMEOUT_MAX`, 2^63 nanoseconds.
const LONGEST_TIMEOUT: f64 = 9_223_372_036.0;

/// The time `timeout` seconds from now; None waits for ever, and a negative timeout ends now.
///
/// # Errors
/// ValueError for NaN, OverflowError for more than CPython takes.
pub fn deadline_of(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    if timeout == Some(f64::INFINITY) {
        return Err(PyOverflowError::new_err("timeout value is too large"));
    }
    // `max(0.0)` would turn NaN into 0.
    timeout.map(|seconds| interp::deadline_after("timeout", if seconds < 0.0 { 0.0 } else { seconds })).transpose()
}

/// A chance to switch. Only a call that may wait (`block`) raises what is thrown into its coroutine.
///
/// # Errors
/// The errors of a wait.
///
/// # Parks
pub fn give_way(py: Python<'_>, block: bool) -> PyResult<()> {
    if block {
        return interp::give_way(py);
    }
    interp::give_way_quietly(py);
    Ok(())
}

/// How long `acquire(blocking, timeout)` of a lock waits.
#[derive(Clone, Copy)]
pub enum AcquireWait {
    /// It does not wait.
    Try,
    /// It waits until then; None waits for ever.
    Until(Option<Instant>),
}

impl AcquireWait {
    /// Reads the arguments of `acquire`.
    ///
    /// # Errors
    /// ValueError and OverflowError, as `_thread.lock.acquire` raises them.
    pub fn new(blocking: bool, timeout: f64) -> PyResult<AcquireWait> {
        #[expect(clippy::float_cmp, reason = "-1 is a flag here, as in _thread.lock.acquire")]
        let for_ever = timeout == -1.0;
        match (blocking, for_ever) {
            (false, true) => Ok(AcquireWait::Try),
            (false, false) => Err(PyValueError::new_err("can't specify a timeout for a non-blocking call")),
            (true, true) => Ok(AcquireWait::Until(None)),
            (true, false) if timeout < 0.0 || timeout.is_nan() => {
                Err(PyValueError::new_err("timeout value must be a non-negative number"))
            }
            (true, false) if timeout > LONGEST_TIMEOUT => Err(PyOverflowError::new_err("timeout value is too large")),
            (true, false) if timeout == 0.0 => Ok(AcquireWait::Try),
            (true, false) => Ok(AcquireWait::Until(Some(Instant::now() + Duration::from_secs_f64(timeout)))),
        }
    }

    /// The chance to switch of a call that waits so.
    ///
    /// # Errors
    /// The errors of a wait.
    ///
    /// # Parks
    pub fn give_way(self, py: Python<'_>) -> PyResult<()> {
        give_way(py, matches!(self, AcquireWait::Until(_)))
    }
}
