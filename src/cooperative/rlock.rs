//! `RLock`: the reentrant lock of `_thread`, owned by a coroutine or an OS thread.

use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::timeouts::AcquireWait;
use crate::event_loop::reasons::Reason;
use crate::interp::{self, Line, WaitReason, Waiter, Waiters, identity};
use crate::sync::lock;

/// A reentrant lock for coroutines and OS threads, like `threading.RLock`. Its owner may take it again.
///
/// CPython's own sees one owner in all coroutines, since they share an OS thread. This lock's owner is the coroutine or
/// the OS thread. Arguments are ignored, as `threading.RLock` ignores them.
#[pyclass(frozen, subclass, module = "rmeinheld.coroutine", weakref)]
#[derive(Default)]
pub struct RLock {
    ownership: Mutex<Ownership>,
}

#[derive(Default)]
struct Ownership {
    /// The address of the owner's thread state, which is the same in a forked child; 0 without an owner.
    owner: usize,
    count: u64,
    /// Each with the address of its thread state.
    waiters: Waiters<usize>,
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> RLock {
        RLock::default()
    }

    /// Take the lock, or take it once more if the caller owns it. Returns whether it was taken.
    ///
    /// With `blocking` false the call does not wait. `timeout` is the longest wait in seconds; -1 (the default) waits
    /// for ever.
    ///
    /// Raises ValueError for a negative timeout and for a timeout of a call that does not wait, OverflowError for a
    /// timeout above `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire(slf: &Bound<'_, Self>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let wait = AcquireWait::new(blocking, timeout)?;
        wait.give_way(py)?;
        let own = identity::thread_state(py);
        if this.try_acquire(own) {
            return Ok(true);
        }
        let claim = OwnerClaim { lock: this, own };
        match wait {
            AcquireWait::Try => Ok(false),
            AcquireWait::Until(deadline) => interp::take(py, WaitReason::object(Reason::RLock, slf), deadline, &claim),
        }
    }

    /// Release the lock once. After as many releases as acquisitions it goes to the waiter that has waited longest.
    ///
    /// Raises RuntimeError if the caller does not own the lock.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.owned(py, "cannot release un-acquired lock")?.release_once();
        Ok(())
    }

    /// Return whether the lock has an owner.
    fn locked(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.ownership().count > 0
    }

    fn __enter__(slf: &Bound<'_, Self>) -> PyResult<bool> {
        RLock::acquire(slf, true, -1.0)
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release(py)
    }

    /// Return whether the caller owns the lock, for `threading.Condition`.
    fn _is_owned(&self, py: Python<'_>) -> bool {
        self.ownership().owner == identity::thread_state(py)
    }

    /// Return how often the caller has taken the lock, for `threading`.
    fn _recursion_count(&self, py: Python<'_>) -> u64 {
        let ownership = self.ownership();
        if ownership.owner == identity::thread_state(py) { ownership.count } else { 0 }
    }

    /// Release the lock completely for `threading.Condition.wait`. Returns its count and its owner.
    fn _release_save(&self, py: Python<'_>) -> PyResult<(u64, usize)> {
        let mut ownership = self.owned(py, "cannot release un-acquired lock")?;
        let saved = (ownership.count, ownership.owner);
        ownership.count = 0;
        ownership.pass_on();
        Ok(saved)
    }

    /// Re-acquire the lock as often, for `threading.Condition.wait`. Interruptions are deferred to the caller's next
    /// wait.
    fn _acquire_restore(slf: &Bound<'_, Self>, saved: (u64, usize)) -> PyResult<()> {
        let (this, own) = (slf.get(), identity::thread_state(slf.py()));
        interp::insist(slf.py(), WaitReason::object(Reason::RLock, slf), &OwnerClaim { lock: this, own })?;
        this.ownership().count = saved.0;
        Ok(())
    }

    /// Unlock the lock in a forked child, where its waiters do not exist.
    fn _at_fork_reinit(&self) {
        *self.ownership() = Ownership::default();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (owner, count) = {
            let ownership = slf.get().ownership();
            (ownership.owner, ownership.count)
        };
        let state = if count > 0 { "locked" } else { "unlocked" };
        let name = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{state} {name} object owner={owner} count={count} at {:p}>", slf.as_ptr()))
    }
}

/// The wish of one thread state to own the lock.
struct OwnerClaim<'a> {
    lock: &'a RLock,
    own: usize,
}

impl Line for OwnerClaim<'_> {
    fn attempt(&self) -> bool {
        self.lock.try_acquire(self.own)
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        self.lock.ownership().waiters.join(waiter, self.own, again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.lock.ownership().waiters.leave(waiter);
    }
}

impl RLock {
    /// Re-acquires the lock as often as `_release_save` released it.
    ///
    /// # Errors
    /// The errors of a wait; then the lock is not acquired.
    ///
    /// # Parks
    pub(super) fn restore(slf: &Bound<'_, Self>, saved: (u64, usize)) -> PyResult<()> {
        RLock::acquire(slf, true, -1.0)?;
        slf.get().ownership().count = saved.0;
        Ok(())
    }

    /// Takes the lock. A free lock is taken without a chance to switch, because a finalizer may take it.
    ///
    /// # Errors
    /// The errors of a wait. RuntimeError when the interpreter ends, where the owner never runs again.
    ///
    /// # Parks
    pub(super) fn take(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let own = identity::thread_state(py);
        if this.try_acquire(own) {
            return Ok(());
        }
        if py.import("sys")?.call_method0("is_finalizing")?.is_truthy()? {
            return Err(PyRuntimeError::new_err("in use by a coroutine or thread that has been left behind"));
        }
        interp::wait(
            py,
            WaitReason::object(Reason::RLock, slf),
            None,
            |waiter| this.ownership().waiters.join(waiter, own, false),
            |waiter| this.ownership().waiters.leave(waiter),
        )?;
        Ok(())
    }

    /// Releases what [`RLock::take`] has taken.
    pub(super) fn give(&self, py: Python<'_>) {
        if let Ok(mut ownership) = self.owned(py, "") {
            ownership.release_once();
        }
    }

    /// The address of the owner's thread state; `None` without an owner.
    pub(super) fn owner(&self) -> Option<usize> {
        let ownership = self.ownership();
        (ownership.count > 0).then_some(ownership.owner)
    }

    fn ownership(&self) -> MutexGuard<'_, Ownership> {
        lock(&self.ownership)
    }

    fn try_acquire(&self, own: usize) -> bool {
        let mut ownership = self.ownership();
        if ownership.count == 0 || ownership.owner == own {
            ownership.owner = own;
            ownership.count += 1;
            return true;
        }
        false
    }

    fn owned(&self, py: Python<'_>, otherwise: &'static str) -> PyResult<MutexGuard<'_, Ownership>> {
        let ownership = self.ownership();
        if ownership.count > 0 && ownership.owner == identity::thread_state(py) {
            Ok(ownership)
        } else {
            Err(PyRuntimeError::new_err(otherwise))
        }
    }
}

impl Ownership {
    fn release_once(&mut self) {
        self.count -= 1;
        if self.count == 0 {
            self.pass_on();
        }
    }

    /// Makes the longest waiter the owner, or nothing.
    fn pass_on(&mut self) {
        (self.owner, self.count) = self.waiters.notify_first().map_or((0, 0), |owner| (owner, 1));
    }
}
