//! Interrupted waits: which exception they raise, and the time limits (`timeout()`) that interrupt them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::prelude::*;

use super::pending::exception_of;
use super::waits::deadline_after;
use super::{CoroutineExit, task};
use crate::event_loop::Wake;
use crate::event_loop::interrupts::{self, Alarm};

pyo3::create_exception!(
    rmeinheld.coroutine,
    Timeout,
    PyBaseException,
    "Raised by `timeout(seconds)` in its own block, where the coroutine waits. No subclass of Exception: code that \
     retries after an error of its own does not swallow it."
);

static NEXT_ALARM: AtomicU64 = AtomicU64::new(1);

/// The exception that an interrupted wait raises.
pub fn take(py: Python<'_>) -> PyErr {
    let Some(coroutine) = task::known_current(py) else { return CoroutineExit::new_err("interrupted") };
    let coroutine = coroutine.get();
    let error = coroutine.pending().take_thrown().map(|error| PyErr::from_value(error.into_bound(py).into_any()));
    let error = error.or_else(|| {
        interrupts::take_alarm().and_then(|number| {
            let context = coroutine.pending().timeout(py, number)?;
            context.bind(py).cast::<TimeoutContext>().ok().map(|context| context.get().expire(py))
        })
    });
    if coroutine.pending().has_thrown() || interrupts::has_alarm() {
        interrupts::postpone(Wake::Interrupted);
    }
    error.unwrap_or_else(|| CoroutineExit::new_err("interrupted"))
}

/// A time limit for a block of code: `with timeout(5): ...` raises `Timeout` in it, where the coroutine waits.
#[pyclass(frozen, name = "timeout", module = "rmeinheld.coroutine", weakref)]
pub struct TimeoutContext {
    /// Seconds; None for no limit.
    #[pyo3(get)]
    seconds: Option<f64>,
    exception: Option<Py<PyAny>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    alarm: Option<(u64, Alarm)>,
    raised: Option<Py<PyBaseException>>,
    entered: bool,
}

#[pymethods]
impl TimeoutContext {
    #[new]
    #[pyo3(signature = (seconds, exception = None))]
    fn new(seconds: Option<f64>, exception: Option<Py<PyAny>>) -> PyResult<TimeoutContext> {
        if let Some(seconds) = seconds {
            deadline_after("seconds", seconds)?;
        }
        Ok(TimeoutContext { seconds, exception, progress: Mutex::default() })
    }

    /// Whether the limit was reached.
    #[getter]
    fn expired(&self) -> bool {
        self.progress().raised.is_some()
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        let coroutine = task::current(slf.py())?.ok_or_else(|| {
            PyRuntimeError::new_err("timeout() works in coroutines: an OS thread cannot be interrupted")
        })?;
        if std::mem::replace(&mut this.progress().entered, true) {
            return Err(PyRuntimeError::new_err("this timeout() has been entered before"));
        }
        let Some(seconds) = this.seconds else { return Ok(slf.clone()) };
        let number = NEXT_ALARM.fetch_add(1, Ordering::Relaxed);
        coroutine.get().pending().add_timeout(number, slf.clone().into_any().unbind());
        let alarm = Alarm::set(number, deadline_after("seconds", seconds)?);
        this.progress().alarm = alarm.map(|alarm| (number, alarm));
        Ok(slf.clone())
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _type: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> bool {
        let py = slf.py();
        let this = slf.get();
        let alarm = this.progress().alarm.take();
        if let Some((number, alarm)) = alarm
            && let Some(coroutine) = task::known_current(py)
        {
            alarm.cancel();
            let mut pending = coroutine.get().pending();
            let own = pending.remove_timeout(number);
            if !pending.has_thrown() && !interrupts::has_alarm() {
                interrupts::forget();
            }
            drop(pending);
            drop(own);
        }
        let progress = this.progress();
        let is_own = progress.raised.as_ref().is_some_and(|raised| raised.as_ptr() == value.as_ptr());
        is_own && this.is_silent(py)
    }
}

impl TimeoutContext {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `exception=False`: the block just ends.
    fn is_silent(&self, py: Python<'_>) -> bool {
        self.exception.as_ref().is_some_and(|exception| exception.bind(py).is(pyo3::types::PyBool::new(py, false)))
    }

    /// The exception to raise, now that the time is up.
    fn expire(&self, py: Python<'_>) -> PyErr {
        let given = self.exception.as_ref().filter(|exception| !exception.is_none(py) && !self.is_silent(py));
        let made = match given {
            Some(exception) => exception_of(exception.bind(py)),
            None => {
                let message = format!("{} seconds", self.seconds.unwrap_or_default());
                Ok(Timeout::new_err(message).into_value(py))
            }
        };
        match made {
            Ok(error) => {
                self.progress().raised = Some(error.clone_ref(py));
                PyErr::from_value(error.into_bound(py).into_any())
            }
            Err(error) => error,
        }
    }
}
