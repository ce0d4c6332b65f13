//! `timeout(seconds)`: a time limit for a block of code.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::application_waits::deadline_after;
use super::interruptions;
use super::spawned;
use super::time_limit::TimeLimit;
use crate::event_loop::interrupts::Alarm;
use crate::sync::lock;

static NEXT_ALARM: AtomicU64 = AtomicU64::new(1);

/// A time limit for a block of code: `with timeout(5): ...` raises `Timeout` in it, where the coroutine waits.
///
/// `seconds` is the limit, 0 or more; None is no limit. `exception` is an instance or a class to raise instead of
/// `Timeout`; with False nothing is raised, and the block just ends. Code that computes is not interrupted. After a
/// timeout, the state of the resource that was waited for is unknown: close such a connection.
///
/// Raises ValueError for negative seconds. Entering it raises RuntimeError outside a coroutine and for a second time.
#[pyclass(frozen, name = "timeout", module = "rmeinheld.coroutine", weakref)]
pub struct TimeoutContext {
    limit: Arc<TimeLimit>,
    use_of: Mutex<TimeoutUse>,
}

/// The one use of a `timeout` object.
#[derive(Default)]
struct TimeoutUse {
    alarm: Option<(u64, Alarm)>,
    is_entered: bool,
}

#[pymethods]
impl TimeoutContext {
    #[new]
    #[pyo3(signature = (seconds, exception = None))]
    fn new(seconds: Option<f64>, exception: Option<Py<PyAny>>) -> PyResult<TimeoutContext> {
        if let Some(seconds) = seconds {
            deadline_after("seconds", seconds)?;
        }
        Ok(TimeoutContext { limit: Arc::new(TimeLimit::new(seconds, exception)), use_of: Mutex::default() })
    }

    /// The limit in seconds; None for no limit.
    #[getter]
    fn seconds(&self) -> Option<f64> {
        self.limit.seconds
    }

    /// Whether the limit was reached.
    #[getter]
    fn expired(&self) -> bool {
        self.limit.has_expired()
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        let coroutine = spawned::current(slf.py())?.ok_or_else(|| {
            PyRuntimeError::new_err("timeout() works in coroutines only: an OS thread cannot be interrupted")
        })?;
        if std::mem::replace(&mut this.use_of().is_entered, true) {
            return Err(PyRuntimeError::new_err("this timeout() has been entered before"));
        }
        let Some(seconds) = this.limit.seconds else { return Ok(slf.clone()) };
        let number = NEXT_ALARM.fetch_add(1, Ordering::Relaxed);
        coroutine.get().interruptions().lock().add_limit(number, Arc::clone(&this.limit));
        let alarm = Alarm::set(number, deadline_after("seconds", seconds)?);
        this.use_of().alarm = alarm.map(|alarm| (number, alarm));
        Ok(slf.clone())
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _type: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> bool {
        let this = slf.get();
        let alarm = this.use_of().alarm.take();
        if let Some((number, alarm)) = alarm
            && let Some(interruptions) = interruptions::with_current(|current| current.interruptions.clone())
        {
            alarm.cancel();
            let removed = interruptions.lock().remove_limit(number);
            drop(removed);
        }
        this.limit.swallows(value)
    }
}

impl TimeoutContext {
    fn use_of(&self) -> MutexGuard<'_, TimeoutUse> {
        lock(&self.use_of)
    }
}
