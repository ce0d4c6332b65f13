//! The lock of `_thread`, for coroutines and OS threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::{Patience, join_line};
use crate::interp::{self, Line, Waiter};

/// A mutual exclusion lock. It is handed to those who wait in the order in which they came, so that a coroutine that
/// takes it again and again cannot starve them. Any coroutine or thread may release it.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
#[derive(Default)]
pub struct Lock {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    locked: bool,
    waiters: VecDeque<Arc<Waiter>>,
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Lock {
        Lock::default()
    }

    /// Take the lock; returns whether that was possible within `timeout` seconds (-1: wait for ever).
    ///
    /// Raises ValueError for a timeout of a call that does not block or a negative one, OverflowError for one beyond
    /// `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    pub(super) fn acquire(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let patience = Patience::new(blocking, timeout)?;
        patience.give_way(py)?;
        if self.try_acquire() {
            return Ok(true);
        }
        match patience {
            Patience::Try => Ok(false),
            Patience::Until(deadline) => interp::take(py, deadline, self),
        }
    }

    /// Give the lock to the one who has waited longest, or nobody. Raises RuntimeError if it is not locked.
    fn release(&self) -> PyResult<()> {
        if self.release_now() { Ok(()) } else { Err(PyRuntimeError::new_err("release unlocked lock")) }
    }

    /// Whether somebody has it.
    fn locked(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.inner().locked
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, -1.0)
    }

    fn __exit__(&self, _type: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release()
    }

    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire_lock(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        self.acquire(py, blocking, timeout)
    }

    fn release_lock(&self) -> PyResult<()> {
        self.release()
    }

    fn locked_lock(&self, py: Python<'_>) -> bool {
        self.locked(py)
    }

    /// For `threading.Condition`, which would call `release` and `acquire` otherwise.
    fn _release_save(&self) -> PyResult<()> {
        self.release()
    }

    /// For `threading.Condition`: takes it back, whatever is raised meanwhile; that comes at the caller's next wait. The
    /// block that it is in ends with giving the lock back.
    #[expect(unused_variables, reason = "what `_release_save` has returned")]
    fn _acquire_restore(&self, py: Python<'_>, saved: &Bound<'_, PyAny>) -> PyResult<()> {
        interp::insist(py, self)
    }

    /// Unlocks it in a forked child, where those who waited for it do not exist.
    fn _at_fork_reinit(&self) {
        *self.inner() = Inner::default();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().inner().locked { "locked" } else { "unlocked" };
        format!("<{state} rmeinheld.coroutine.Lock object at {:p}>", slf.as_ptr())
    }
}

impl Line for Lock {
    fn attempt(&self) -> bool {
        self.try_acquire()
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        join_line(&mut self.inner().waiters, waiter, again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.inner().waiters.retain(|other| !Arc::ptr_eq(other, waiter));
    }
}

impl Lock {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_acquire(&self) -> bool {
        !std::mem::replace(&mut self.inner().locked, true)
    }

    /// Returns whether it was locked. Whoever waits has it at once.
    fn release_now(&self) -> bool {
        let mut inner = self.inner();
        while let Some(waiter) = inner.waiters.pop_front() {
            if waiter.notify() {
                return true;
            }
        }
        std::mem::replace(&mut inner.locked, false)
    }
}
