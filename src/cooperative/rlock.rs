//! The reentrant lock of `_thread`, owned by a coroutine or an OS thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::{Patience, join_line};
use crate::interp::{self, Line, Waiter, identity};

/// A reentrant lock. CPython's own takes all coroutines for one owner, since they share an OS thread; this one's owner is
/// the coroutine or the OS thread.
#[pyclass(frozen, subclass, module = "rmeinheld.coroutine", weakref)]
#[derive(Default)]
pub struct RLock {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The owner's thread state, by its address: in a forked child it is still the owner's. 0 for nobody.
    owner: usize,
    count: u64,
    waiters: VecDeque<(Arc<Waiter>, usize)>,
}

#[pymethods]
impl RLock {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> RLock {
        RLock::default()
    }

    /// Take the lock, once more if the caller has it; returns whether that was possible within `timeout` seconds (-1:
    /// wait for ever).
    ///
    /// Raises ValueError for a timeout of a call that does not block or a negative one, OverflowError for one beyond
    /// `threading.TIMEOUT_MAX`.
    #[pyo3(signature = (blocking = true, timeout = -1.0))]
    fn acquire(&self, py: Python<'_>, blocking: bool, timeout: f64) -> PyResult<bool> {
        let patience = Patience::new(blocking, timeout)?;
        patience.give_way(py)?;
        let own = identity::thread_state(py);
        if self.try_acquire(own) {
            return Ok(true);
        }
        match patience {
            Patience::Try => Ok(false),
            Patience::Until(deadline) => interp::take(py, deadline, &Claim { lock: self, own }),
        }
    }

    /// Give the lock back; after as many times as it was taken, to the one who has waited longest.
    ///
    /// Raises RuntimeError if the caller does not have it.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let mut inner = self.owned(py, "cannot release un-acquired lock")?;
        inner.count -= 1;
        if inner.count == 0 {
            inner.pass_on();
        }
        Ok(())
    }

    /// Whether somebody has it.
    fn locked(&self, py: Python<'_>) -> bool {
        interp::give_way_quietly(py);
        self.inner().count > 0
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.acquire(py, true, -1.0)
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

    fn _is_owned(&self, py: Python<'_>) -> bool {
        self.inner().owner == identity::thread_state(py)
    }

    fn _recursion_count(&self, py: Python<'_>) -> u64 {
        let inner = self.inner();
        if inner.owner == identity::thread_state(py) { inner.count } else { 0 }
    }

    /// For `threading.Condition`: gives it back however often it was taken.
    fn _release_save(&self, py: Python<'_>) -> PyResult<(u64, usize)> {
        let mut inner = self.owned(py, "cannot release un-acquired lock")?;
        let saved = (inner.count, inner.owner);
        inner.count = 0;
        inner.pass_on();
        Ok(saved)
    }

    /// For `threading.Condition`: takes it back as often, whatever is raised meanwhile; that comes at the caller's next
    /// wait. The block that it is in ends with giving the lock back.
    fn _acquire_restore(&self, py: Python<'_>, saved: (u64, usize)) -> PyResult<()> {
        let own = identity::thread_state(py);
        interp::insist(py, &Claim { lock: self, own })?;
        self.inner().count = saved.0;
        Ok(())
    }

    /// Unlocks it in a forked child, where those who waited for it do not exist.
    fn _at_fork_reinit(&self) {
        *self.inner() = Inner::default();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let (owner, count) = {
            let inner = slf.get().inner();
            (inner.owner, inner.count)
        };
        let state = if count > 0 { "locked" } else { "unlocked" };
        let name = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{state} {name} object owner={owner} count={count} at {:p}>", slf.as_ptr()))
    }
}

/// Someone who wants the lock.
struct Claim<'a> {
    lock: &'a RLock,
    own: usize,
}

impl Line for Claim<'_> {
    fn attempt(&self) -> bool {
        self.lock.try_acquire(self.own)
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        join_line(&mut self.lock.inner().waiters, (waiter, self.own), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.lock.inner().waiters.retain(|(other, _)| !Arc::ptr_eq(other, waiter));
    }
}

impl RLock {
    /// Takes back, as often, what `_release_save` gave back.
    ///
    /// # Errors
    /// What is raised in a coroutine that waits; then it has not been taken.
    ///
    /// # Parks
    pub(super) fn restore(&self, py: Python<'_>, saved: (u64, usize)) -> PyResult<()> {
        self.acquire(py, true, -1.0)?;
        self.inner().count = saved.0;
        Ok(())
    }

    /// Takes the lock, without a chance to switch where it is free: a finalizer may take it.
    ///
    /// # Errors
    /// What is raised in a coroutine that waits. RuntimeError when the interpreter ends, where its owner never runs again.
    ///
    /// # Parks
    pub(super) fn take(&self, py: Python<'_>) -> PyResult<()> {
        let own = identity::thread_state(py);
        if self.try_acquire(own) {
            return Ok(());
        }
        if py.import("sys")?.call_method0("is_finalizing")?.is_truthy()? {
            return Err(PyRuntimeError::new_err("in use by a coroutine or thread that has been left behind"));
        }
        interp::wait(
            py,
            None,
            |waiter| self.inner().waiters.push_back((waiter, own)),
            |waiter| self.inner().waiters.retain(|(other, _)| !Arc::ptr_eq(other, waiter)),
        )?;
        Ok(())
    }

    /// Gives back what the caller has taken.
    pub(super) fn give(&self, py: Python<'_>) {
        if let Ok(mut inner) = self.owned(py, "") {
            inner.count -= 1;
            if inner.count == 0 {
                inner.pass_on();
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_acquire(&self, own: usize) -> bool {
        let mut inner = self.inner();
        if inner.count == 0 || inner.owner == own {
            inner.owner = own;
            inner.count += 1;
            return true;
        }
        false
    }

    fn owned(&self, py: Python<'_>, otherwise: &'static str) -> PyResult<MutexGuard<'_, Inner>> {
        let inner = self.inner();
        if inner.count > 0 && inner.owner == identity::thread_state(py) {
            Ok(inner)
        } else {
            Err(PyRuntimeError::new_err(otherwise))
        }
    }
}

impl Inner {
    fn pass_on(&mut self) {
        while let Some((waiter, owner)) = self.waiters.pop_front() {
            if waiter.notify() {
                (self.owner, self.count) = (owner, 1);
                return;
            }
        }
        self.owner = 0;
    }
}
