//! Coroutines as Python sees them: spawn, join, throw.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PySystemExit, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::application_waits::deadline_after;
use super::errors::wake_error;
use super::exceptions::{CoroutineExit, exception_of};
use super::followed::{followed, set_followed};
use super::interruptions::{self, Current, Interruptions};
use super::log::{Level, log};
use super::subject::Subject;
use super::swallowed::work_has_ended;
use super::waiter::WaitReason;
use super::waiters::Waiters;
use super::{deferred, give_way, identity, process_loop, thread_state, waiter};
use crate::event_loop::notes::OwnWork;
use crate::event_loop::reasons::Reason;
use crate::event_loop::{self, LoopMessage, Wake, WorkId, deadlines, interrupts, notes};
use crate::sync::lock;

/// A function that runs, or ran, in a coroutine of its own. `spawn()` makes it; `current()` returns the caller's.
#[pyclass(frozen, module = "rmeinheld.coroutine", weakref)]
pub struct Coroutine {
    /// A number that no other coroutine of this process has.
    #[pyo3(get)]
    ident: u64,
    /// The qualified name of the function, or "request" for the coroutine of a request.
    #[pyo3(get)]
    name: String,
    completion: Mutex<Completion>,
    interruptions: Interruptions,
    /// The deadline that was set before the coroutine started, on the clock of `records`; 0 for none.
    deadline: AtomicU64,
}

/// How a coroutine ended, and the callers of `join`.
#[derive(Default)]
struct Completion {
    outcome: Option<PyResult<Py<PyAny>>>,
    joiners: Waiters,
}

#[pymethods]
impl Coroutine {
    /// Wait until the coroutine has ended. Returns whether it has.
    ///
    /// `timeout` is the longest wait in seconds; None (the default) waits for ever, 0 only looks. A coroutine that
    /// joins parks, an OS thread blocks.
    ///
    /// Raises ValueError for a negative timeout. Raises RuntimeError for a coroutine that joins itself, in a forked
    /// child, and in the master of a service, which runs no coroutine.
    #[pyo3(signature = (timeout = None))]
    fn join(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
        let py = slf.py();
        let this = slf.get();
        if timeout == Some(0.0) {
            give_way::give_way_quietly(py);
        }
        if this.is_done() {
            return Ok(true);
        }
        if this.is_current(py)? {
            return Err(PyRuntimeError::new_err("a coroutine cannot join itself"));
        }
        if process_loop::is_forked() {
            return Err(PyRuntimeError::new_err("this coroutine belongs to the process that this one was forked from"));
        }
        if timeout == Some(0.0) {
            return Ok(false);
        }
        if deferred::is_deferring() {
            return Err(deferred::wait_in_master());
        }
        waiter::wait(
            py,
            WaitReason::number(Reason::Join, this.ident),
            deadline,
            |waiter| this.completion().joiners.join(waiter, (), false),
            |waiter| this.completion().joiners.leave(waiter),
        )
    }

    /// Raise `exception` in the coroutine, where it waits now or will wait next. Returns whether it had not ended yet.
    ///
    /// `exception` is an instance or a class. A coroutine that has not started never calls its function. May be called
    /// from any thread.
    ///
    /// Raises TypeError if `exception` is no exception.
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
        this.interruptions.lock().throw(error);
        Ok(true)
    }

    /// Raise CoroutineExit in the coroutine: `throw(CoroutineExit("killed"))`. Returns whether it had not ended yet.
    ///
    /// Does not wait for the end; `join()` does.
    fn kill(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Coroutine::throw(slf, CoroutineExit::new_err("killed").value(slf.py()).as_any())
    }

    /// The value that the function returned.
    ///
    /// Raises the exception that the function raised, and RuntimeError until the coroutine has ended.
    #[getter]
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match &self.completion().outcome {
            Some(Ok(value)) => Ok(value.clone_ref(py)),
            Some(Err(error)) => Err(error.clone_ref(py)),
            None => Err(PyRuntimeError::new_err("the coroutine has not ended: join() it first")),
        }
    }

    /// Whether the coroutine has ended, by returning or by an exception.
    #[getter]
    fn done(&self, py: Python<'_>) -> bool {
        give_way::give_way_quietly(py);
        self.is_done()
    }

    fn __repr__(&self) -> String {
        let state = if self.is_done() { "done" } else { "running" };
        format!("<Coroutine {} {:?} {state}>", self.ident, self.name)
    }
}

impl Coroutine {
    fn new(name: String) -> Coroutine {
        Coroutine {
            ident: identity::next(),
            name,
            completion: Mutex::default(),
            interruptions: Interruptions::default(),
            deadline: AtomicU64::new(0),
        }
    }

    /// Has the coroutine end at `at`, on the clock of `records`. On the loop thread.
    pub fn set_deadline(&self, at: u64) {
        self.deadline.store(at, Ordering::Relaxed);
        let work = self.interruptions.lock().work();
        if let Some(work) = work {
            deadlines::move_to(work, Some(at));
        }
    }

    fn completion(&self) -> MutexGuard<'_, Completion> {
        lock(&self.completion)
    }

    /// The exceptions that wait to be raised in the coroutine.
    pub(super) fn interruptions(&self) -> &Interruptions {
        &self.interruptions
    }

    fn is_done(&self) -> bool {
        self.completion().outcome.is_some()
    }

    fn is_current(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(current(py)?.is_some_and(|current| current.get().ident == self.ident))
    }

    /// Records how the coroutine ended, unless that is recorded already, and wakes the callers of `join`.
    fn finish(&self, outcome: PyResult<Py<PyAny>>) {
        let mut joiners = {
            let mut completion = self.completion();
            if completion.outcome.is_some() {
                return;
            }
            completion.outcome = Some(outcome);
            std::mem::take(&mut completion.joiners)
        };
        let pending = self.interruptions.lock().end();
        joiners.notify_all();
        drop(pending);
    }
}

/// A unit's reference to the coroutine whose work it runs. The coroutine ends when the work does.
struct CoroutineOwner(Py<Coroutine>);

impl Drop for CoroutineOwner {
    fn drop(&mut self) {
        Python::attach(|py| self.0.get().finish(Ok(py.None())));
    }
}

/// The entry of a unit that runs the work of `coroutine`.
fn entry_for(coroutine: &Bound<'_, Coroutine>) -> Current {
    Current {
        interruptions: coroutine.get().interruptions.clone(),
        owner: Box::new(CoroutineOwner(coroutine.clone().unbind())),
    }
}

/// The coroutine of a unit's entry.
fn coroutine_of(py: Python<'_>, entry: &Current) -> Option<Py<Coroutine>> {
    entry.owner.downcast_ref::<CoroutineOwner>().map(|CoroutineOwner(coroutine)| coroutine.clone_ref(py))
}

/// The coroutine that the caller runs in; None in an OS thread.
///
/// # Errors
/// MemoryError.
pub fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Coroutine>>> {
    if !event_loop::can_park() {
        return Ok(None);
    }
    if let Some(known) = interruptions::with_current(|entry| coroutine_of(py, entry)).flatten() {
        return Ok(Some(known.into_bound(py)));
    }
    // A request gets its object when it first asks for it.
    let made = Bound::new(py, Coroutine::new("request".to_owned()))?;
    set_current(&made);
    Ok(Some(made))
}

fn set_current(coroutine: &Bound<'_, Coroutine>) {
    coroutine.get().interruptions.lock().begin();
    let entry = entry_for(coroutine);
    event_loop::with_local(|local| *local = Some(Box::new(entry)));
}

/// Raises `error` in the coroutine that runs `work`, at its next wait. Returns the interruptions of the coroutine, from
/// which `error` can be taken back; `None` if the work has ended. On the loop thread.
///
/// # Errors
/// MemoryError.
pub fn throw_at(py: Python<'_>, work: WorkId, error: Py<PyBaseException>) -> PyResult<Option<Interruptions>> {
    let made = Bound::new(py, Coroutine::new("request".to_owned()))?;
    made.get().interruptions.lock().begin_in(work);
    let interruptions = event_loop::with_local_of(work, |local| {
        if let Some(known) = local.as_ref().and_then(|local| local.downcast_ref::<Current>()) {
            return known.interruptions.clone();
        }
        let entry = entry_for(&made);
        let interruptions = entry.interruptions.clone();
        *local = Some(Box::new(entry));
        interruptions
    });
    if let Some(interruptions) = &interruptions {
        interruptions.lock().throw(error);
    }
    Ok(interruptions)
}

/// Takes `error` back if it was thrown into the caller's coroutine but has not been raised.
pub fn take_back(error: &Bound<'_, PyBaseException>) {
    let interruptions = interruptions::with_current(|entry| entry.interruptions.clone());
    let taken = interruptions.and_then(|interruptions| interruptions.lock().take_back(error));
    drop(taken);
}

/// A call to run in a coroutine. If it is dropped before it starts, its coroutine counts as killed.
struct SpawnedCall {
    coroutine: Py<Coroutine>,
    call: Option<FunctionCall>,
    /// The request that log records of the call belong to.
    followed: Option<Py<PyAny>>,
}

type FunctionCall = (Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>);

impl SpawnedCall {
    /// # Parks
    fn run(mut self) {
        Python::attach(|py| {
            let Some(call) = self.call.take() else { return };
            let coroutine = self.coroutine.bind(py).clone();
            set_current(&coroutine);
            notes::name_spawned(&coroutine.get().name);
            let deadline = coroutine.get().deadline.load(Ordering::Relaxed);
            if deadline > 0 {
                coroutine.get().set_deadline(deadline);
            }
            let _subject = Subject::set(coroutine.clone().into_any());
            let thrown = coroutine.get().interruptions.lock().take_thrown();
            let outcome = match thrown {
                Some(error) => Err(PyErr::from_value(error.into_bound(py).into_any())),
                None => thread_state::in_fresh_state(py, coroutine.get().ident, |py| {
                    let followed = self.followed.as_ref().map_or(Ok(()), |request| set_followed(request.bind(py)));
                    let outcome = followed.and_then(|()| call_now(py, &coroutine, call));
                    if let Some(own) = OwnWork::current() {
                        // While the thread state lives: it may have an asynchronous exception to raise.
                        work_has_ended(py, &own, own.id().map_or(0, |work| work.number));
                    }
                    outcome
                }),
            };
            if let Some(work) = interrupts::current_work() {
                deadlines::forget(work.number);
            }
            coroutine.get().finish(outcome.and_then(|outcome| outcome));
        });
    }
}

fn call_now(py: Python<'_>, coroutine: &Bound<'_, Coroutine>, call: FunctionCall) -> PyResult<Py<PyAny>> {
    let (function, args, kwargs) = call;
    let kwargs = kwargs.as_ref().map(|kwargs| kwargs.bind(py));
    let outcome = function.bind(py).call(args.bind(py), kwargs).map(Bound::unbind);
    process_loop::leave_if_forked(py, outcome.as_ref().err());
    // SystemExit ends a thread silently (`threading.excepthook`, `_thread.start_new_thread`), and so it does a
    // coroutine. CoroutineExit is one.
    if let Err(error) = &outcome
        && !error.is_instance_of::<PySystemExit>(py)
    {
        let message = format!("Exception in {}", coroutine.get().__repr__());
        log(py, Level::Error, &message, Some(error));
    }
    outcome
}

impl Drop for SpawnedCall {
    fn drop(&mut self) {
        if self.call.is_some() {
            Python::attach(|py| {
                self.call = None;
                self.coroutine.bind(py).get().finish(Err(wake_error(Wake::Killed)));
            });
        }
    }
}

/// Runs `function(*args, **kwargs)` in a coroutine of its own, after the work that is ready now.
///
/// # Errors
/// TypeError if `function` is not callable. RuntimeError in a coroutine if there is no room for another stack; see also
/// [`process_loop::ensure_started`].
pub fn spawn<'py>(
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, Coroutine>> {
    let py = function.py();
    if !function.is_callable() {
        let message = format!("spawn() needs a callable, not {}", function.get_type().name()?);
        return Err(PyTypeError::new_err(message));
    }
    let name = function
        .getattr("__qualname__")
        .and_then(|name| name.extract::<String>())
        .or_else(|_| function.get_type().name().map(|name| name.to_string()))?;
    if event_loop::can_park() {
        event_loop::make_room().map_err(|error| PyRuntimeError::new_err(format!("can't start new thread: {error}")))?;
    }
    let coroutine = Bound::new(py, Coroutine::new(name))?;
    let call = SpawnedCall {
        coroutine: coroutine.clone().unbind(),
        call: Some((function.clone().unbind(), args.clone().unbind(), kwargs.map(|kwargs| kwargs.clone().unbind()))),
        followed: followed(py)?.map(Bound::unbind),
    };
    if event_loop::can_park() {
        event_loop::spawn(Box::new(move || call.run()));
    } else if deferred::is_deferring() {
        deferred::keep(Box::new(move || call.run()));
    } else {
        process_loop::ensure_started(py)?.send(LoopMessage::Task(Box::new(move || call.run())));
    }
    Ok(coroutine)
}
