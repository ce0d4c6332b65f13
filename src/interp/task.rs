//! Coroutines as Python sees them: spawn, join, sleep, waits on descriptors.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{CoroutineExit, Level, in_fresh_context, log, runtime, wake_error};
use crate::event_loop::{self, Interest, Message, Wake, Waker};

/// How long an OS thread blocks before it looks for signals: one that arrives just before poll(2) does not interrupt it.
const SIGNAL_CHECK: Duration = Duration::from_millis(250);

static NEXT_IDENT: AtomicU64 = AtomicU64::new(1);

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
}

#[derive(Default)]
struct Progress {
    outcome: Option<PyResult<Py<PyAny>>>,
    waiters: Vec<Waiter>,
}

/// Someone in `join`.
enum Waiter {
    Coroutine(Waker),
    Thread(Arc<OwnedFd>),
}

impl Waiter {
    fn wake(self) {
        match self {
            Waiter::Coroutine(waker) => waker.wake(Wake::Ready),
            Waiter::Thread(bell) => {
                let _ = rustix::io::write(&*bell, &1_u64.to_ne_bytes());
            }
        }
    }
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
        if this.is_done() {
            return Ok(true);
        }
        if this.is_current(py)? {
            return Err(PyRuntimeError::new_err("a coroutine cannot join itself"));
        }
        if runtime::is_forked() {
            return Err(PyRuntimeError::new_err("this coroutine belongs to the process that this one was forked from"));
        }
        if event_loop::can_park() { this.join_in_coroutine(deadline) } else { this.join_in_thread(py, deadline) }
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
    fn done(&self) -> bool {
        self.is_done()
    }

    fn __repr__(&self) -> String {
        let state = if self.is_done() { "done" } else { "running" };
        format!("<Coroutine {} {:?} {state}>", self.ident, self.name)
    }
}

impl Coroutine {
    fn new(name: String) -> Coroutine {
        let ident = NEXT_IDENT.fetch_add(1, Ordering::Relaxed);
        Coroutine { ident, name, progress: Mutex::default() }
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
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
        for waiter in waiters {
            waiter.wake();
        }
    }

    /// Adds a waiter, unless it has ended meanwhile.
    fn add_waiter(&self, waiter: Waiter) -> bool {
        let mut progress = self.progress();
        if progress.outcome.is_none() {
            progress.waiters.push(waiter);
        }
        progress.outcome.is_none()
    }

    /// # Parks
    fn join_in_coroutine(&self, deadline: Option<Instant>) -> PyResult<bool> {
        loop {
            let wake = event_loop::wait_for_wake(deadline, |waker| self.add_waiter(Waiter::Coroutine(waker)));
            match wake {
                _ if self.is_done() => return Ok(true),
                Wake::Ready => {}
                Wake::TimedOut => return Ok(false),
                Wake::Closed | Wake::Killed => return Err(wake_error(wake)),
            }
        }
    }

    fn join_in_thread(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<bool> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(std::io::Error::from)?);
        if !self.add_waiter(Waiter::Thread(Arc::clone(&bell))) {
            return Ok(true);
        }
        loop {
            if block(py, bell.as_fd(), PollFlags::IN, deadline)? || self.is_done() {
                return Ok(true);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(false);
            }
        }
    }
}

/// Blocks the OS thread on a descriptor. False when the deadline has passed, a signal was handled, or it is time to look
/// for one.
fn block(
    py: Python<'_>,
    descriptor: std::os::fd::BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Option<Instant>,
) -> PyResult<bool> {
    let ready = py.detach(|| {
        let left = deadline.map_or(SIGNAL_CHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.min(SIGNAL_CHECK);
        let timeout = Some(Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut polled = [PollFd::from_borrowed_fd(descriptor, flags)];
        poll(&mut polled, timeout.as_ref()).map(|count| (count, polled[0].revents()))
    });
    py.check_signals()?;
    match ready {
        Ok((_, revents)) if revents.contains(PollFlags::NVAL) => Err(wake_error(Wake::Closed)),
        Ok((count, _)) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(std::io::Error::from(error).into()),
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
    let known = event_loop::with_local(|local| {
        local.as_ref().and_then(|local| local.downcast_ref::<Current>()).map(|current| current.0.clone_ref(py))
    });
    if let Some(known) = known.flatten() {
        return Ok(Some(known.into_bound(py)));
    }
    // Requests get their object only when they ask for it.
    let made = Bound::new(py, Coroutine::new("request".to_owned()))?;
    set_current(&made);
    Ok(Some(made))
}

fn set_current(coroutine: &Bound<'_, Coroutine>) {
    let current = Current(coroutine.clone().unbind());
    event_loop::with_local(|local| *local = Some(Box::new(current)));
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
            let Some((function, args, kwargs)) = self.call.take() else { return };
            let coroutine = self.coroutine.bind(py).clone();
            set_current(&coroutine);
            let outcome = in_fresh_context(py, || {
                function.bind(py).call(args.bind(py), kwargs.as_ref().map(|kwargs| kwargs.bind(py))).map(Bound::unbind)
            });
            let outcome = outcome.and_then(|outcome| outcome);
            runtime::leave_if_forked(py, outcome.as_ref().err());
            // What the call held on to ends before those who wait for it go on.
            drop((function, args, kwargs));
            if let Err(error) = &outcome
                && !error.is_instance_of::<CoroutineExit>(py)
            {
                let message = format!("Exception in {}", coroutine.get().__repr__());
                log(py, Level::Error, &message, Some(error));
            }
            coroutine.get().finish(outcome);
        });
    }
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
/// TypeError if it is not callable; see also [`runtime::ensure_started`].
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

/// Parks for `seconds`; 0 lets everything else that is ready run first. Outside a coroutine, `time.sleep`.
///
/// # Errors
/// ValueError for a negative or non-finite value; [`CoroutineExit`] when the server stops.
pub fn sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let deadline = deadline_after("seconds", seconds)?;
    if !event_loop::can_park() {
        py.import("time")?.call_method1("sleep", (seconds,))?;
        return Ok(());
    }
    match if seconds == 0.0 { event_loop::after_next_poll() } else { event_loop::sleep(deadline) } {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}

/// Waits until a descriptor is ready, at most `timeout` seconds (None: for ever). Returns whether it is.
///
/// # Errors
/// ValueError for a negative timeout, OSError for a bad descriptor or one that is closed meanwhile, [`CoroutineExit`].
pub fn wait_descriptor(py: Python<'_>, number: RawFd, interest: Interest, timeout: Option<f64>) -> PyResult<bool> {
    let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
    if event_loop::can_park() {
        return match event_loop::wait_descriptor(number, interest, deadline)? {
            Wake::Ready => Ok(true),
            Wake::TimedOut => Ok(false),
            wake => Err(wake_error(wake)),
        };
    }
    if number < 0 {
        return Err(wake_error(Wake::Closed));
    }
    let flags = if interest == Interest::Write { PollFlags::OUT } else { PollFlags::IN };
    loop {
        if block(py, event_loop::borrow_descriptor(number), flags, deadline)? {
            return Ok(true);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// `seconds` from now.
///
/// # Errors
/// ValueError naming the argument and the value if it is negative, not a number or more than a hundred years.
fn deadline_after(name: &str, seconds: f64) -> PyResult<Instant> {
    const LONGEST: f64 = 100.0 * 366.0 * 86_400.0;
    if !(0.0..=LONGEST).contains(&seconds) {
        return Err(PyValueError::new_err(format!(
            "{name} must be a number of seconds >= 0, not {}",
            seconds.to_string().to_lowercase()
        )));
    }
    Ok(Instant::now() + Duration::from_secs_f64(seconds))
}
