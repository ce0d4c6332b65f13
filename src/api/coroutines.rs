//! Functions about coroutines: `spawn`, `sleep`, `current` and chances to switch.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::event_loop;
use crate::interp::{self, Coroutine};

/// Run `func(*args, **kwargs)` in a coroutine of its own. Returns its `Coroutine`.
///
/// May be called from a coroutine or any OS thread. The first call of a process starts the loop. In the master of a
/// service, with `preload_app`, the call is kept, and runs in each worker when that begins.
///
/// Raises TypeError if `func` is not callable, and RuntimeError in a child forked from a process that uses coroutines.
#[pyfunction]
#[pyo3(signature = (func, /, *args, **kwargs))]
pub fn spawn<'py>(
    func: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, Coroutine>> {
    interp::spawn(func, args, kwargs)
}

/// Park the coroutine for `seconds`. Outside a coroutine it is `time.sleep`.
///
/// 0 lets everything else that is ready run first.
///
/// Raises ValueError for a negative or non-finite number, and CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (seconds, /))]
pub fn sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    interp::sleep(py, seconds)
}

/// Park the coroutine until `time.monotonic()` is `at`, or not at all if that time is past. In a coroutine only.
///
/// Sleepers wake in the order of their times, and sleepers of the same time in the order of their calls.
///
/// Raises CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (at, /))]
pub fn sleep_until(at: f64) -> PyResult<()> {
    interp::sleep_until(at)
}

/// Return the `Coroutine` that the caller runs in, or None in an OS thread.
#[pyfunction]
pub fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Coroutine>>> {
    interp::current(py)
}

/// Return the number by which the interpreter knows the caller: that of its coroutine, or of the OS thread outside one.
#[pyfunction]
pub fn get_ident(py: Python<'_>) -> u64 {
    interp::identity::ident(py)
}

/// Return whether the caller is in a coroutine that may park. Elsewhere every wait blocks the OS thread.
#[pyfunction]
pub fn can_park() -> bool {
    event_loop::can_park()
}

/// A chance to switch, for a call that may block. Does nothing outside a coroutine.
///
/// Once the coroutine's turn has lasted `turn_budget`, everything else that is ready runs first.
///
/// Raises an exception thrown into the coroutine, and CoroutineExit when the server stops.
#[pyfunction]
pub fn give_way(py: Python<'_>) -> PyResult<()> {
    interp::give_way(py)
}

/// A chance to switch, for a call that cannot block in CPython. Raises nothing, and does nothing outside a coroutine.
///
/// An exception thrown into the coroutine is raised at its next wait.
#[pyfunction]
pub fn give_way_quietly(py: Python<'_>) {
    interp::give_way_quietly(py);
}
