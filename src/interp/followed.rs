//! The request that a log record belongs to, kept in a context variable while someone wants to know.
//!
//! A context variable follows the code of a request into `offload`, tasks of asyncio and copied contexts. A spawned
//! coroutine begins in an empty context, and gets the variable from the one that spawned it.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

/// Someone reads the variable.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Follows requests from now on.
pub fn follow() {
    IS_WANTED.store(true, Ordering::Relaxed);
}

/// Does anyone want to know the request of a log record?
#[inline]
pub fn is_followed() -> bool {
    IS_WANTED.load(Ordering::Relaxed)
}

fn variable(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    let make = || {
        let variable = py.import("contextvars")?.call_method1("ContextVar", ("rmeinheld.request",))?;
        PyResult::Ok(variable.unbind())
    };
    VARIABLE.get_or_try_init(py, make).map(|variable| variable.bind(py))
}

/// Notes the request in the current context.
///
/// # Errors
/// MemoryError.
pub fn set_followed(request: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = request.py();
    variable(py)?.call_method1(intern!(py, "set"), (request,)).map(drop)
}

/// The request of the current context; `None` if there is none, or none is followed.
///
/// # Errors
/// MemoryError.
pub fn followed(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    if !is_followed() {
        return Ok(None);
    }
    let found = variable(py)?.call_method1(intern!(py, "get"), (py.None(),))?;
    Ok((!found.is_none()).then_some(found))
}

/// Forgets the request in the current context: the code there works for others, too.
///
/// # Errors
/// MemoryError.
pub fn forget_followed(py: Python<'_>) -> PyResult<()> {
    if !is_followed() {
        return Ok(());
    }
    variable(py)?.call_method1(intern!(py, "set"), (py.None(),)).map(drop)
}
