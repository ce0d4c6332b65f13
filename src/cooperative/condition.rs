//! `Condition`: a condition variable.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};

use super::lock::Lock;
use super::rlock::RLock;
use super::timeouts::deadline_of;
use crate::event_loop::{self, reasons::Reason};
use crate::interp::{self, WaitReason, Waiter};
use crate::sync::lock;

/// A condition variable for coroutines and OS threads, like `threading.Condition`.
///
/// `lock` is any object with `acquire` and `release`; None (the default) makes a new `RLock`.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
pub struct Condition {
    lock: Py<PyAny>,
    places: Mutex<VecDeque<Arc<WaitPlace>>>,
}

/// A place in the queue. It is taken before the lock is released: a lock written in Python may let others run while it
/// is being released, and they may notify.
#[derive(Default)]
struct WaitPlace {
    stage: Mutex<PlaceStage>,
}

#[derive(Default)]
enum PlaceStage {
    #[default]
    Taken,
    Waiting(Arc<Waiter>),
    Notified,
    Gone,
}

impl WaitPlace {
    fn stage(&self) -> MutexGuard<'_, PlaceStage> {
        lock(&self.stage)
    }

    fn is_notified(&self) -> bool {
        matches!(*self.stage(), PlaceStage::Notified)
    }

    /// Notifies the waiter. Returns whether it was still waiting.
    fn notify(&self) -> bool {
        let mut stage = self.stage();
        match &*stage {
            PlaceStage::Taken => {
                *stage = PlaceStage::Notified;
                true
            }
            PlaceStage::Waiting(waiter) => waiter.notify(),
            PlaceStage::Notified | PlaceStage::Gone => false,
        }
    }
}

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (lock = None))]
    fn new(py: Python<'_>, lock: Option<Py<PyAny>>) -> PyResult<Condition> {
        let lock = match lock {
            Some(lock) => lock,
            None => Py::new(py, RLock::default())?.into_any(),
        };
        Ok(Condition { lock, places: Mutex::default() })
    }

    /// Call `acquire` of the lock with the same arguments.
    #[pyo3(signature = (*args))]
    fn acquire<'py>(&self, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.lock.bind(args.py()).call_method1(intern!(args.py(), "acquire"), args)
    }

    /// Call `release` of the lock.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.lock.bind(py).call_method0(intern!(py, "release")).map(drop)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.lock.bind(py).call_method0(intern!(py, "__enter__"))
    }

    #[pyo3(signature = (*args))]
    fn __exit__<'py>(&self, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.lock.bind(args.py()).call_method1(intern!(args.py(), "__exit__"), args)
    }

    /// Release the lock, wait for a notification, and re-acquire the lock. Returns whether a notification came.
    ///
    /// `timeout` is the longest wait in seconds; None (the default) waits for ever.
    ///
    /// Raises RuntimeError if the caller does not hold the lock.
    #[pyo3(signature = (timeout = None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        Condition::wait_until(slf, deadline_of(timeout)?)
    }

    /// Wait until `predicate()` is true. Returns its last value.
    ///
    /// `timeout` is the longest wait in seconds; None (the default) waits for ever.
    ///
    /// Raises RuntimeError if the caller does not hold the lock.
    #[pyo3(signature = (predicate, timeout = None))]
    fn wait_for<'py>(
        slf: &Bound<'py, Self>,
        predicate: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let deadline = deadline_of(timeout)?;
        loop {
            let result = predicate.call0()?;
            if result.is_truthy()? || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(result);
            }
            Condition::wait_until(slf, deadline)?;
        }
    }

    /// Wake the `n` longest waiters (1 by default).
    ///
    /// Raises RuntimeError if the caller does not hold the lock.
    #[pyo3(signature = (n = 1))]
    fn notify(&self, py: Python<'_>, n: usize) -> PyResult<()> {
        self.check_owned(py, "cannot notify on un-acquired lock")?;
        self.notify_first(n);
        Ok(())
    }

    /// Wake all waiters.
    ///
    /// Raises RuntimeError if the caller does not hold the lock.
    fn notify_all(&self, py: Python<'_>) -> PyResult<()> {
        self.notify(py, usize::MAX)
    }

    /// Forget the waiters in a forked child, where they do not exist, and unlock the lock.
    fn _at_fork_reinit(&self, py: Python<'_>) -> PyResult<()> {
        self.places().clear();
        self.lock.bind(py).call_method0(intern!(py, "_at_fork_reinit")).map(drop)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let lock = slf.get().lock.bind(slf.py()).repr()?;
        let waiting = slf.get().places().len();
        Ok(format!("<rmeinheld.coroutine.Condition({lock}, {waiting})>"))
    }
}

impl Condition {
    fn places(&self) -> MutexGuard<'_, VecDeque<Arc<WaitPlace>>> {
        lock(&self.places)
    }

    fn notify_first(&self, n: usize) {
        let mut places = self.places();
        let mut left = n;
        while left > 0
            && let Some(place) = places.pop_front()
        {
            left -= usize::from(place.notify());
        }
    }

    /// Removes a place from the queue. Returns whether it was notified before.
    fn leave(&self, place: &Arc<WaitPlace>) -> bool {
        let notified = matches!(std::mem::replace(&mut *place.stage(), PlaceStage::Gone), PlaceStage::Notified);
        self.places().retain(|other| !Arc::ptr_eq(other, place));
        notified
    }

    /// Checks that the caller holds the lock. A lock without `_is_owned` counts as held if it cannot be taken, as in
    /// `threading.Condition`.
    fn check_owned(&self, py: Python<'_>, otherwise: &'static str) -> PyResult<()> {
        let lock = self.lock.bind(py);
        let owned = if let Ok(asked) = lock.getattr(intern!(py, "_is_owned")) {
            asked.call0()?.is_truthy()?
        } else {
            let taken = lock.call_method1(intern!(py, "acquire"), (false,))?.is_truthy()?;
            if taken {
                lock.call_method0(intern!(py, "release"))?;
            }
            !taken
        };
        if owned { Ok(()) } else { Err(PyRuntimeError::new_err(otherwise)) }
    }

    /// # Parks
    fn wait_until(slf: &Bound<'_, Self>, deadline: Option<Instant>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        this.check_owned(py, "cannot wait on un-acquired lock")?;
        let lock = this.lock.bind(py);
        let place = Arc::<WaitPlace>::default();
        this.places().push_back(Arc::clone(&place));
        let released = match lock.getattr(intern!(py, "_release_save")) {
            Ok(release_save) => release_save.call0().map(Some),
            Err(_) => lock.call_method0(intern!(py, "release")).map(|_| None),
        };
        let saved = released.inspect_err(|_| {
            this.leave(&place);
        })?;
        let woken = if place.is_notified() {
            Ok(true)
        } else {
            let reason = WaitReason::object(Reason::Condition, slf);
            interp::wait(py, reason, deadline, |waiter| *place.stage() = PlaceStage::Waiting(waiter), |_| ())
        };
        let notified = matches!(woken, Ok(true)) || this.leave(&place);
        let result = this.take_again(saved.as_ref(), py).and(woken);
        if notified && result.is_err() {
            // A cancelled waiter does not consume a notification (POSIX, pthread_cond_wait).
            this.notify_first(1);
        }
        result
    }

    /// Re-acquires the lock, and raises interruptions afterwards: the caller's block expects to hold it. Returns
    /// without the lock only where the caller can wait no more.
    ///
    /// # Errors
    /// The last error of a wait.
    ///
    /// # Parks
    fn take_again(&self, saved: Option<&Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<()> {
        let mut interrupted = None;
        loop {
            match self.try_taking_again(saved, py) {
                Ok(()) => return interrupted.map_or(Ok(()), Err),
                Err(error) if cannot_wait() => return Err(error),
                Err(error) => interrupted = Some(error),
            }
        }
    }

    /// Re-acquires the lock, or raises the interruption of the caller. `_acquire_restore` of our own locks would defer
    /// the interruption, as `threading.Condition` needs it.
    ///
    /// # Parks
    fn try_taking_again(&self, saved: Option<&Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<()> {
        let lock = self.lock.bind(py);
        if let Ok(lock) = lock.cast::<Lock>() {
            return Lock::acquire(lock, true, -1.0).map(drop);
        }
        match saved {
            Some(saved) => match lock.cast_exact::<RLock>() {
                Ok(lock) => RLock::restore(lock, saved.extract()?),
                Err(_) => lock.call_method1(intern!(py, "_acquire_restore"), (saved,)).map(drop),
            },
            None => lock.call_method0(intern!(py, "acquire")).map(drop),
        }
    }
}

/// Whether a wait would never end: on the loop thread, where the caller may not park.
fn cannot_wait() -> bool {
    event_loop::is_loop_thread() && !event_loop::can_park()
}
