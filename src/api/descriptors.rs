//! Functions about file descriptors: waiting for them, and asking about them.

use std::path::PathBuf;

use pyo3::prelude::*;

use crate::cooperative;
use crate::event_loop::Interest;
use crate::interp;

/// Wait until `fd` is readable. Returns whether it is.
///
/// `timeout` is the longest wait in seconds; None (the default) waits for ever. The wait does not notice that the
/// descriptor was closed, and then goes on until its timeout.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
pub fn wait_readable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Read, timeout)
}

/// Wait until `fd` is writable. Returns whether it is.
///
/// `timeout` is the longest wait in seconds; None (the default) waits for ever. The wait does not notice that the
/// descriptor was closed, and then goes on until its timeout.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
pub fn wait_writable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Write, timeout)
}

/// Wait until `fd` is readable or writable. Returns whether it is; see `wait_readable`.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
pub fn wait_either(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Both, timeout)
}

/// Wait until one of several descriptors may be ready. Returns whether one may be. In a coroutine only.
///
/// `interests` are pairs of a descriptor and its events, those of `select.poll`. `seconds` is the longest wait.
///
/// Raises OSError for a bad descriptor, for one of the server's own, and for one that is closed during the wait.
#[pyfunction]
#[pyo3(signature = (interests, seconds, /))]
pub fn wait_any(interests: Vec<(i32, u32)>, seconds: f64) -> PyResult<bool> {
    interp::wait_any(&interests, seconds)
}

/// Return the events of `events` that `fd` is ready for now, and its errors. Never waits or switches.
///
/// The events are those of `select.poll`.
#[pyfunction]
#[pyo3(signature = (fd, events, /))]
pub fn events_now(fd: i32, events: u16) -> PyResult<u16> {
    interp::events_now(fd, events)
}

/// Wake every coroutine that waits for `fd` with OSError (EBADF), because `fd` is about to be closed.
///
/// Returns False on other threads than the coroutines': call it again there after closing the descriptor.
#[pyfunction]
#[pyo3(signature = (fd, /))]
pub fn descriptor_closes(py: Python<'_>, fd: i32) -> bool {
    interp::descriptor_closes(py, fd)
}

/// Return whether there is a FIFO at `path`.
#[pyfunction]
#[pyo3(signature = (path, /))]
pub fn is_fifo(path: PathBuf) -> bool {
    cooperative::is_fifo(&path)
}

/// Return whether a read or write of `fd` may wait for another program.
///
/// True only in a coroutine, for a blocking descriptor of anything but a file or a directory.
#[pyfunction]
#[pyo3(signature = (fd, /))]
pub fn may_wait(py: Python<'_>, fd: i32) -> bool {
    cooperative::may_wait(py, fd)
}
