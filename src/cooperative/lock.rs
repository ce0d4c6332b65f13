//! `Lock`: the lock of `_thread`, for coroutines and OS threads.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::permits::Permits;
use super::timeouts::AcquireWait;
use crate::interp;

/// A mutual exclusion lock for coroutines and OS threads, like `threading.Lock`.
///
/// It goes to the waiter that has waited longest, so a coroutine that takes it again and again cannot starve others.
/// Any coroutine or thread may release it.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
pub struct Lock {
    /// One permit, which the holder of the lock has.
    permit: Permits,
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Lock {
        Lock { permit: Permits::new(1) }
    }

    /// Take the lock. Returns whether it was taken.
    ///
    /// With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; -1 (the default) waits
    /// for ever.
    ///
    /// Raises ValueError for a negative timeout and for a timeout of a call that does not wait, OverflowError for a
    /// timeout above `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    pub(super) fn acquire(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let wait = AcquireWait::new(blocking, timeout)?;
        wait.give_way(py)?;
        if self.permit.try_take() {
            return Ok(true);
        }
        match wait {
            AcquireWait::Try => Ok(false),
            AcquireWait::Until(deadline) => interp::take(py, deadline, &self.permit),
        }
    }

    /// Give the lock to the waiter that has waited longest, or unlock it.
    ///
    /// Raises RuntimeError if the lock is not locked.
    fn release(&self) -> PyResult<()> {
        if self.permit.give_back(1, Some(1)) { Ok(()) } else { Err(PyRuntimeError::new_err("release unlocked lock")) }
    }

    /// Return whether the lock is locked.
    fn locked(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.is_locked()
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, -1.0)
    }

    fn __exit__(&self, _type: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release()
    }

    /// `acquire`, by its old name in `_thread`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire_lock(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        self.acquire(py, blocking, timeout)
    }

    /// `release`, by its old name in `_thread`.
    fn release_lock(&self) -> PyResult<()> {
        self.release()
    }

    /// `locked`, by its old name in `_thread`.
    fn locked_lock(&self, py: Python<'_>) -> bool {
        self.locked(py)
    }

    /// Release the lock for `threading.Condition.wait`.
    fn _release_save(&self) -> PyResult<()> {
        self.release()
    }

    /// Re-acquire the lock for `threading.Condition.wait`. Interruptions are deferred to the caller's next wait.
    #[expect(unused_variables, reason = "the value that `_release_save` returned")]
    fn _acquire_restore(&self, py: Python<'_>, saved: &Bound<'_, PyAny>) -> PyResult<()> {
        interp::insist(py, &self.permit)
    }

    /// Unlock the lock in a forked child, where its waiters do not exist.
    fn _at_fork_reinit(&self) {
        self.permit.reset(1);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().is_locked() { "locked" } else { "unlocked" };
        format!("<{state} rmeinheld.coroutine.Lock object at {:p}>", slf.as_ptr())
    }
}

impl Lock {
    fn is_locked(&self) -> bool {
        self.permit.free() == 0
    }
}
