//! Functions that look into the running coroutines.

use std::os::fd::{AsFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::event_loop::notes;
use crate::event_loop::reasons::Reason;
use crate::interp::inspection::{self, ListOptions};
use crate::interp::{identity, os_error};
use crate::kernel::LentDescriptor;
use crate::output;

/// Return a list of dictionaries, one for each coroutine that has work. May be called from any thread.
///
/// docs/inspecting.md describes the keys. `stacks` adds the Python stacks, innermost frame first. `redact` replaces the
/// values of query strings and the credentials in targets. Runs no Python code meanwhile.
#[pyfunction]
#[pyo3(signature = (*, stacks = true, redact = true))]
pub fn inspect_coroutines(py: Python<'_>, stacks: bool, redact: bool) -> PyResult<Bound<'_, PyList>> {
    inspection::list_coroutines(py, ListOptions { stacks, redact })
}

/// Return the stack of the piece of work with this number as (file, line, function), innermost frame first.
///
/// Returns None if the work has ended. May be called from any thread.
#[pyfunction]
#[pyo3(signature = (work, /))]
pub fn stack_of(py: Python<'_>, work: u64) -> PyResult<Option<Vec<Bound<'_, PyTuple>>>> {
    let stack = inspection::stack_of(py, work);
    stack.map(|stack| stack.iter().map(|frame| inspection::as_tuple(py, frame)).collect()).transpose()
}

/// Return the innermost frame of each coroutine that runs Python code, by the coroutine's ident.
#[pyfunction]
pub fn coroutine_frames(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    inspection::frame_objects(py)
}

/// Call `function(*args)`, which waits for `reason`, and return its result. A dump then names the reason.
///
/// `reason` is one of the names in docs/inspecting.md, and `detail` the number that belongs to it, such as a process.
///
/// Raises ValueError for another name.
#[pyfunction]
#[pyo3(signature = (reason, detail, function, /, *args))]
pub fn waiting_for<'py>(
    reason: &str,
    detail: u64,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let known = Reason::named(reason).filter(|reason| !reason.has_object());
    let known = known.ok_or_else(|| PyValueError::new_err(format!("{reason:?} is not a reason of a wait")))?;
    notes::because(known, [detail, 0], || function.call1(args))
}

/// Return the number of the OS thread that runs the coroutines, or None before the first one.
#[pyfunction]
pub fn loop_thread_ident() -> Option<u64> {
    identity::loop_thread()
}

/// Write `text` to a descriptor, from an OS thread of its own and without waiting for the end of it.
///
/// For text that a pipe without a reader may not take. After five seconds without progress the rest is lost. Raises
/// OSError if the descriptor is not open.
#[pyfunction]
#[pyo3(signature = (fd, text, /))]
pub fn write_in_background(fd: RawFd, text: String) -> PyResult<()> {
    let descriptor = LentDescriptor::new(fd).and_then(|lent| rustix::io::fcntl_dupfd_cloexec(lent.as_fd(), 3));
    output::write_in_background(descriptor.map_err(os_error)?, text);
    Ok(())
}
