//! `Lock`: the lock of `_thread`, for coroutines and OS threads.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::permits::Permits;
use super::timeouts::AcquireWait;
use crate::event_loop::reasons::Reason;
use crate::interp::{self, WaitReason, identity};

/// A mutual exclusion lock for coroutines and OS threads, like `threading.Lock`.
///
/// It goes to the waiter that has waited longest, so a coroutine that takes it again and again cannot starve others.
/// Any coroutine or thread may release it.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
pub struct Lock {
    /// One permit, which the holder of the lock has.
    permit: Permits,
    /// The ident of the holder, for reports; 0 while there is none, or while the lock changes hands.
    holder: AtomicU64,
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Lock {
        Lock { permit: Permits::new(1), holder: AtomicU64::new(0) }
    }

    /// Take the lock. Returns whether it was taken.
    ///
    /// With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; -1 (the default) waits
    /// for ever.
    ///
    /// Raises ValueError for a negative timeout and for a timeout of a call that does not wait, OverflowError for a
    /// timeout above `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    pub(super) fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let wait = AcquireWait::new(blocking, timeout)?;
        wait.give_way(py)?;
        let taken = this.permit.try_take()
            || match wait {
                AcquireWait::Try => false,
                AcquireWait::Until(deadline) => {
                    // `threading.Condition.wait` takes a lock of its own twice, and `notify` releases it.
                    let is_own = this.holder() == Some(identity::ident(py));
                    let reason = if is_own { Reason::Condition } else { Reason::Lock };
                    interp::take(py, WaitReason::object(reason, slf), deadline, &this.permit)?
                }
            };
        if taken {
            this.note_holder(py);
        }
        Ok(taken)
    }

    /// Give the lock to the waiter that has waited longest, or unlock it.
    ///
    /// Raises RuntimeError if the lock is not locked.
    fn release(&self) -> PyResult<()> {
        self.holder.store(0, Ordering::Relaxed);
        if self.permit.give_back(1, Some(1)) { Ok(()) } else { Err(PyRuntimeError::new_err("release unlocked lock")) }
    }

    /// Return whether the lock is locked.
    fn locked(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.is_locked()
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Lock::acquire(slf, true, -1.0)
    }

    fn __exit__(&self, _type: &Bound<'_, PyAny>, _value: &Bound<'_, PyAny>, _trace: &Bound<'_, PyAny>) -> PyResult<()> {
        self.release()
    }

    /// `acquire`, by its old name in `_thread`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire_lock(slf: &Bound<'_, Self>, blocking: bool, timeout: f64) -> PyResult<bool> {
        Lock::acquire(slf, blocking, timeout)
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
    fn _acquire_restore(slf: &Bound<'_, Self>, saved: &Bound<'_, PyAny>) -> PyResult<()> {
        interp::insist(slf.py(), WaitReason::object(Reason::Lock, slf), &slf.get().permit)?;
        slf.get().note_holder(slf.py());
        Ok(())
    }

    /// Unlock the lock in a forked child, where its waiters do not exist.
    fn _at_fork_reinit(&self) {
        self.holder.store(0, Ordering::Relaxed);
        self.permit.reset(1);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().is_locked() { "locked" } else { "unlocked" };
        format!("<{state} rmeinheld.coroutine.Lock object at {:p}>", slf.as_ptr())
    }
}

impl Lock {
    /// The ident of the coroutine or thread that holds the lock. `None` without one, and while the lock changes hands.
    pub(super) fn holder(&self) -> Option<u64> {
        Some(self.holder.load(Ordering::Relaxed)).filter(|&holder| holder > 0 && self.is_locked())
    }

    fn note_holder(&self, py: Python<'_>) {
        self.holder.store(identity::ident(py), Ordering::Relaxed);
    }

    fn is_locked(&self) -> bool {
        self.permit.free() == 0
    }
}
