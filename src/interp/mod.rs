//! The interpreter boundary: thread states, the process's runtime, coroutines as Python sees them, exceptions.
//!
//! Every unit of the event loop owns a `PyThreadState`; all of them live on the loop thread. A unit is attached while it
//! runs and detached whenever it waits, so that CPython sees threads that release the GIL in blocking calls. Attaching
//! happens in one place (`thread_state`); everything else gets its `Python` token from the caller.

mod chances;
mod exit;
pub mod identity;
mod interruption;
mod pending;
mod recursion;
mod runtime;
mod task;
mod thread_state;
mod waiter;
mod waits;

pub use chances::{give_way, give_way_quietly};
pub use exit::{arm_exit, disarm_exit};
pub use interruption::{Timeout, TimeoutContext};
pub use runtime::{
    descriptor_closes, end_awaited, ensure_started, forget_in_child, is_forked, leave_if_forked, prepare_with, stop,
    stop_at_exit,
};
pub use task::{Coroutine, current, spawn, take_back, throw_at};
pub use waiter::{Line, Waiter, insist, take, wait};
pub use waits::{deadline_after, events_now, sleep, sleep_until, wait_any, wait_descriptor};

use pyo3::exceptions::{PyBaseException, PyOSError, PyTimeoutError};
use pyo3::prelude::*;

use crate::event_loop::Wake;
use crate::net::Failure;

pyo3::create_exception!(
    rmeinheld.coroutine,
    CoroutineExit,
    PyBaseException,
    "Raised in a coroutine that is killed, or, once, still runs when its server stops. Let it pass; use `finally`."
);

/// OSError, or the subclass of it that the number stands for.
pub fn os_error(error: rustix::io::Errno) -> PyErr {
    let message = std::io::Error::from(error).to_string();
    let message = message.split(" (os error").next().unwrap_or_default().to_owned();
    PyOSError::new_err((error.raw_os_error(), message))
}

/// The Python exception for a wait that ended in another way than hoped for.
pub fn wake_error(wake: Wake) -> PyErr {
    match wake {
        Wake::TimedOut => PyTimeoutError::new_err("timed out"),
        Wake::Closed => os_error(rustix::io::Errno::BADF),
        Wake::Ready | Wake::Killed => CoroutineExit::new_err("the server stops"),
        Wake::Interrupted => Python::attach(interruption::take),
    }
}

/// The Python exception for a client's connection that failed.
pub fn failure_error(failure: Failure) -> PyErr {
    match failure {
        Failure::Gone(error) => error.into(),
        Failure::TimedOut => PyTimeoutError::new_err("the client took too long"),
        Failure::Killed => wake_error(Wake::Killed),
        Failure::Interrupted => wake_error(Wake::Interrupted),
    }
}

/// Runs `action` in a fresh, empty `contextvars` context, as a new thread would have.
///
/// # Errors
/// What `action` returns, or MemoryError.
#[expect(unsafe_code, reason = "pyo3 has no safe wrapper for entering a context")]
pub fn in_fresh_context<R>(py: Python<'_>, action: impl FnOnce() -> R) -> PyResult<R> {
    // SAFETY: attached, as the token shows; PyContext_New returns a new reference or null with an exception set.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, pyo3::ffi::PyContext_New())? };
    // SAFETY: a context object that nobody has entered.
    if unsafe { pyo3::ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = action();
    // SAFETY: entered above on this thread state, which the action has come back to.
    if unsafe { pyo3::ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        // The application has left another context entered. The request is over; its successor starts afresh.
        return Err(PyErr::fetch(py));
    }
    Ok(result)
}

/// Logs to `logging.getLogger("rmeinheld.error")`. A failure of logging itself goes to `sys.unraisablehook`.
pub fn log(py: Python<'_>, level: Level, message: &str, error: Option<&PyErr>) {
    let log = || -> PyResult<()> {
        let logger = py.import("logging")?.call_method1("getLogger", ("rmeinheld.error",))?;
        let kwargs = pyo3::types::PyDict::new(py);
        if let Some(error) = error {
            kwargs.set_item("exc_info", error.value(py))?;
        }
        logger.call_method(level.method(), ("%s", message), Some(&kwargs))?;
        Ok(())
    };
    if let Err(error) = log() {
        error.write_unraisable(py, None);
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the curious.
    Debug,
    /// Worth knowing.
    Info,
    /// Somebody should look at it.
    Warning,
    /// A request or a coroutine failed.
    Error,
}

impl Level {
    fn method(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}
