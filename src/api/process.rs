//! Functions about the process: its one server and that server's log, its forks, its end.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::cooperative::native;
use crate::crew::exposition::Family;
use crate::crew::metrics::FAMILIES;
use crate::crew::sticky::StickyMode;
use crate::event_loop::ends;
use crate::net::held;
use crate::{interp, server};

/// Call `function()`, then `cleanup()`, as the only server of the process. Returns the result of `function`.
///
/// If an exception of a signal handler cuts `cleanup` short, it is called again.
///
/// Raises RuntimeError if another server runs.
#[pyfunction]
#[pyo3(signature = (function, cleanup, /))]
pub fn exclusively<'py>(function: &Bound<'py, PyAny>, cleanup: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    server::exclusively(function, cleanup)
}

/// Check the format of an access log.
///
/// Raises ValueError, with the part that is not understood.
#[pyfunction]
#[pyo3(signature = (text, /))]
pub fn check_access_log_format(text: &str) -> PyResult<()> {
    server::parse_access_log_format(text).map(drop).map_err(PyValueError::new_err)
}

/// Check the property of requests that names their session: the option `sticky`.
///
/// Raises ValueError, with the part that is not understood.
#[pyfunction]
#[pyo3(signature = (text, /))]
pub fn check_sticky(text: &str) -> PyResult<()> {
    StickyMode::parse(text).map(drop).map_err(PyValueError::new_err)
}

/// Have this process keep its coroutines for the workers that it forks.
#[pyfunction]
pub fn defer_spawned() {
    interp::defer_spawned();
}

/// Run the coroutines that the master of this process has kept. From now on coroutines run at once.
#[pyfunction]
pub fn start_spawned(py: Python<'_>) -> PyResult<()> {
    interp::start_spawned(py)
}

/// Return all metrics of `/metrics`, in their order: name, kind, unit, names of the labels, meaning.
///
/// The name is the one that the samples of the text format of Prometheus have. The kind is "counter", "gauge",
/// "histogram" or "info". The unit is empty for a number of things.
#[pyfunction]
pub fn metric_families() -> Vec<(String, &'static str, &'static str, Vec<&'static str>, &'static str)> {
    let row = |family: &Family| {
        let name = format!("{}{}", family.name, family.end());
        (name, family.kind.name(), family.unit, family.labels.to_vec(), family.help)
    };
    FAMILIES.iter().map(row).collect()
}

/// Have the server note the request of each context from now on, for `followed_request`.
#[pyfunction]
pub fn follow_requests() {
    interp::follow();
}

/// Return the request that the caller's code works for, or None.
#[pyfunction]
pub fn followed_request(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    interp::followed(py)
}

/// Forget the request in the caller's context, which works for others, too.
#[pyfunction]
pub fn forget_followed_request(py: Python<'_>) -> PyResult<()> {
    interp::forget_followed(py)
}

/// Return the line of the access log in `form`, json or readable, for the environ that an access logger gets.
///
/// Raises ValueError for another form, and KeyError for another environ.
#[pyfunction]
#[pyo3(signature = (form, environ, /))]
pub fn access_log_line(form: &str, environ: &Bound<'_, PyDict>) -> PyResult<String> {
    server::access_log_line(form, environ)
}

/// Raise CoroutineExit in the requests and in threads other than daemons, and wait two seconds at most for their end.
///
/// The loop goes on. Not for coroutines.
///
/// Raises RuntimeError, with the name of the request or coroutine, if one computes and keeps the loop from this.
#[pyfunction]
pub fn end_awaited(py: Python<'_>) -> PyResult<()> {
    interp::end_awaited(py)
}

/// Return whether the end of the server has raised CoroutineExit in the coroutine, or will at its next wait.
#[pyfunction]
pub fn is_killed() -> bool {
    ends::is_killed()
}

/// Raise CoroutineExit in all coroutines and end the loop. A coroutine that still waits two seconds later is abandoned.
///
/// Not for coroutines.
///
/// Raises RuntimeError, with the name of the request or coroutine, if one computes and keeps the loop from its end.
#[pyfunction]
pub fn end_loop(py: Python<'_>) -> PyResult<()> {
    interp::stop(py)
}

/// End the process with `status` after `seconds`, whichever thread holds the interpreter then. A later call replaces
/// it.
#[pyfunction]
pub fn arm_exit(seconds: f64, status: i32) {
    interp::arm_exit(Duration::try_from_secs_f64(seconds).unwrap_or_default(), status);
}

/// Cancel `arm_exit`, and the exit that `Server.run` has armed.
#[pyfunction]
pub fn disarm_exit() {
    interp::disarm_exit();
}

/// Have the kernel send SIGTERM to this process when its parent ends, however that ends.
///
/// A change of the process's user, or a fork, undoes it. Raises OSError if a filter of system calls forbids it.
#[pyfunction]
pub fn end_with_parent() -> PyResult<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(interp::os_error)
}

/// Have the end of the process wait for the caller's coroutine, as it waits for requests.
#[pyfunction]
pub fn set_awaited() {
    ends::set_awaited();
}

/// Ends the loop when the interpreter ends.
#[pyfunction]
pub fn stop_at_exit(py: Python<'_>) {
    interp::stop_at_exit(py);
}

/// Send the answers and items that are held back, as far as their clients take them now.
#[pyfunction]
pub fn send_held() {
    held::send_now();
}

/// Runs in the parent before a fork.
#[pyfunction]
pub fn before_fork(py: Python<'_>) {
    native::wait_for_import_lock(py);
    interp::identity::before_fork(py);
}

/// Runs in the parent after a fork.
#[pyfunction]
pub fn after_fork_in_parent(py: Python<'_>) {
    interp::identity::after_fork(py);
}

/// Runs in the child after a fork.
#[pyfunction]
pub fn forget_in_child() {
    native::forget_in_child();
    interp::forget_in_child();
    server::forget_in_child();
}
