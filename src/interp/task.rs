//! Coroutines as Python sees them: spawn, join, throw.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::pending::{Pending, exception_of};
use super::waiter::{self, Waiter};
use super::waits::deadline_after;
use super::{CoroutineExit, Level, identity, log, runtime, thread_state, wake_error};
use crate::event_loop::{self, Message, Wake, WorkId, interrupts};

/// A function running, or having run, in a coroutine of its own. Made by `spawn()`; `current()` gives the caller's.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
pub struct Coroutine {
    /// A number that no other coroutine of this process has.
    #[pyo3(get)]
    ident: u64,
    /// What it runs: the function's qualified name, or "request".
    #[pyo3(get)]
    name: String,
    progress: Mutex<Progress>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Progress {
    outcome: Option<PyResult<Py<PyAny>>>,
    /// Those in `join`.
    waiters: Vec<Arc<Waiter>>,
}

#[pymethods]
impl Coroutine {
    /// Wait until it has ended, at most `timeout` seconds (None: for ever; 0: only look).
    ///
    /// Returns whether it has ended. Works in coroutines, which park, and in OS threads, which block.
    /// Raises ValueError for a negative timeout and RuntimeError for a coroutine that joins itself.
    #[pyo3(signature = (timeout = None))]
    fn join(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        let py = slf.py();
        let this = slf.get();
        if timeout == Some(0.0) {
            super::give_way_quietly(py);
        }
        if this.is_done() {
            return Ok(true);
        }
        if this.is_current(py)? {
            return Err(PyRuntimeError::new_err("a coroutine cannot join itself"));
        }
        if runtime::is_forked() {
            return Err(PyRuntimeError::new_err("this coroutine belongs to the process that this one was forked from"));
        }
        if timeout == Some(0.0) {
            return Ok(false);
        }
        waiter::wait(
            py,
            deadline,
            |waiter| this.progress().waiters.push(waiter),
            |waiter| this.progress().waiters.retain(|other| !Arc::ptr_eq(other, waiter)),
        )
    }

    /// Raise `exception` (an instance or a class) in the coroutine, where it waits or will wait next.
    ///
    /// In one that has not started, the function is not called. Returns whether it had not ended. From any thread.
    /// Raises TypeError for what is no exception.
    #[pyo3(signature = (exception, /))]
    fn throw(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
        let error = exception_of(exception)?;
        let this = slf.get();
        if this.is_done() {
            return Ok(false);
        }
        if this.is_current(slf.py())? {
            return Err(PyErr::from_value(error.into_bound(slf.py()).into_any()));
        }
        this.pending().throw(error);
        Ok(true)
    }

    /// Raise CoroutineExit in the coroutine: `throw(CoroutineExit("killed"))`. Does not wait: `join()` does.
    ///
    /// Returns whether it had not ended.
    fn kill(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Coroutine::throw(slf, CoroutineExit::new_err("killed").value(slf.py()).as_any())
    }

    /// What the function returned; raises what it raised, or RuntimeError while it has not ended.
    #[getter]
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.progress().outcome {
            Some(Ok(value)) => Ok(value.clone_ref(py)),
            Some(Err(error)) => Err(error.clone_ref(py)),
            None => Err(PyRuntimeError::new_err("the coroutine has not ended: join() it first")),
        }
    }

    /// Whether it has ended, in whatever way.
    #[getter]
    fn done(&self, py: Python<'_>) -> bool {
        super::give_way_quietly(py);
        self.is_done()
    }

    fn __repr__(&self) -> String {
        let state = if self.is_done() { "done" } else { "running" };
        format!("<Coroutine {} {:?} {state}>", self.ident, self.name)
    }
}

impl Coroutine {
    fn new(name: String) -> Coroutine {
        Coroutine { ident: identity::next(), name, progress: Mutex::default(), pending: Mutex::default() }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be raised in it. Locked for moments, in which no Python code runs.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_done(&self) -> bool {
        self.progress().outcome.is_some()
    }

    fn is_current(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(current(py)?.is_some_and(|current| current.get().ident == self.ident))
    }

    /// Records how it ended, if nothing is recorded yet, and wakes those who wait for it.
    fn finish(&self, outcome: PyResult<Py<PyAny>>) {
        let waiters = {
            let mut progress = self.progress();
            if progress.outcome.is_some() {
                return;
            }
            progress.outcome = Some(outcome);
            std::mem::take(&mut progress.waiters)
        };
        let pending = self.pending().end();
        for waiter in waiters {
            waiter.notify();
        }
        drop(pending);
    }
}

/// What a unit keeps for `current()`. When the work ends, so does its coroutine.
struct Current(Py<Coroutine>);

impl Drop for Current {
    fn drop(&mut self) {
        Python::attach(|py| self.0.get().finish(Ok(py.None())));
    }
}

/// The coroutine that the caller runs in; none in an OS thread.
///
/// # Errors
/// MemoryError.
pub fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Coroutine>>> {
    if !event_loop::can_park() {
        return Ok(None);
    }
    if let Some(known) = known_current(py) {
        return Ok(Some(known));
    }
    // Requests get their object only when they ask for it.
    let made = Bound::new(py, Coroutine::new("request".to_owned()))?;
    set_current(&made);
    Ok(Some(made))
}

/// The same, if it has been asked for before or was spawned.
pub(super) fn known_current(py: Python<'_>) -> Option<Bound<'_, Coroutine>> {
    let known = event_loop::with_local(|local| {
        local.as_ref().and_then(|local| local.downcast_ref::<Current>()).map(|current| current.0.clone_ref(py))
    });
    Some(known.flatten()?.into_bound(py))
}

fn set_current(coroutine: &Bound<'_, Coroutine>) {
    coroutine.get().pending().begin();
    let current = Current(coroutine.clone().unbind());
    event_loop::with_local(|local| *local = Some(Box::new(current)));
}

/// Has `error` raised in the coroutine that runs `work`, at its next wait. On the loop thread. Work that has ended is left
/// alone.
///
/// # Errors
/// MemoryError.
pub fn throw_at(py: Python<'_>, work: WorkId, error: Py<PyBaseException>) -> PyResult<()> {
    let made = Bound::new(py, Coroutine::new("request".to_owned()))?;
    made.get().pending().begin_in(work);
    let coroutine = event_loop::with_local_of(work, |local| {
        if let Some(known) = local.as_ref().and_then(|local| local.downcast_ref::<Current>()) {
            return known.0.clone_ref(py);
        }
        *local = Some(Box::new(Current(made.clone().unbind())));
        made.clone().unbind()
    });
    if let Some(coroutine) = coroutine {
        coroutine.get().pending().throw(error);
    }
    Ok(())
}

/// Takes back an exception that was thrown into the caller's coroutine and not raised yet.
pub fn take_back(py: Python<'_>, error: &Bound<'_, PyBaseException>) {
    let Some(coroutine) = known_current(py) else { return };
    let mut pending = coroutine.get().pending();
    let taken = pending.take_back(error);
    if taken.is_some() && !pending.has_thrown() && !interrupts::has_alarm() {
        interrupts::forget();
    }
    drop(pending);
    drop(taken);
}

/// A call that has not started. Dropped without having started, its coroutine counts as killed.
struct Call {
    coroutine: Py<Coroutine>,
    call: Option<FunctionCall>,
}

type FunctionCall = (Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>);

impl Call {
    /// # Parks
    fn run(mut self) {
        Python::attach(|py| {
            let Some(call) = self.call.take() else { return };
            let coroutine = self.coroutine.bind(py).clone();
            set_current(&coroutine);
            let _subject = identity::Subject::set(coroutine.as_any());
            let thrown = coroutine.get().pending().take_thrown();
            let outcome = match thrown {
                Some(error) => Err(PyErr::from_value(error.into_bound(py).into_any())),
                None => thread_state::in_fresh_state(py, coroutine.get().ident, |py| call_now(py, &coroutine, call)),
            };
            coroutine.get().finish(outcome.and_then(|outcome| outcome));
        });
    }
}

fn call_now(py: Python<'_>, coroutine: &Bound<'_, Coroutine>, call: FunctionCall) -> PyResult<Py<PyAny>> {
    let (function, args, kwargs) = call;
    let kwargs = kwargs.as_ref().map(|kwargs| kwargs.bind(py));
    let outcome = function.bind(py).call(args.bind(py), kwargs).map(Bound::unbind);
    runtime::leave_if_forked(py, outcome.as_ref().err());
    if let Err(error) = &outcome
        && !error.is_instance_of::<CoroutineExit>(py)
    {
        let message = format!("Exception in {}", coroutine.get().__repr__());
        log(py, Level::Error, &message, Some(error));
    }
    outcome
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.call.is_some() {
            Python::attach(|py| {
                self.call = None;
                self.coroutine.bind(py).get().finish(Err(wake_error(Wake::Killed)));
            });
        }
    }
}

/// Runs `function(*args, **kwargs)` in a coroutine of its own, after what is ready now.
///
/// # Errors
/// TypeError if it is not callable; RuntimeError in a coroutine where there is no room for another one's stack; see also
/// [`runtime::ensure_started`].
pub fn spawn<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, Coroutine>> {
    let py = function.py();
    if !function.is_callable() {
        let message = format!("spawn() needs a callable, not {}", function.get_type().name()?);
        return Err(pyo3::exceptions::PyTypeError::new_err(message));
    }
    let name = function
        .getattr("__qualname__")
        .and_then(|name| name.extract::<String>())
        .or_else(|_| function.get_type().name().map(|name| name.to_string()))?;
    if event_loop::can_park() {
        event_loop::make_room().map_err(|error| PyRuntimeError::new_err(format!("can't start new thread: {error}")))?;
    }
    let coroutine = Bound::new(py, Coroutine::new(name))?;
    let call = Call {
        coroutine: coroutine.clone().unbind(),
        call: Some((function.clone().unbind(), args.clone().unbind(), kwargs.map(|kwargs| kwargs.clone().unbind()))),
    };
    if event_loop::can_park() {
        event_loop::spawn(Box::new(move || call.run()));
    } else {
        runtime::ensure_started(py)?.send(Message::Task(Box::new(move || call.run())));
    }
    Ok(coroutine)
}
