//! The Python face of the engine: the module `rmeinheld._rmeinheld`.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::event_loop::Interest;
use crate::interp::{self, Coroutine, CoroutineExit};
use crate::server::Server;
use crate::wsgi::{FileWrapper, Input, StartResponse};

/// Run `func(*args, **kwargs)` in a coroutine of its own; returns its `Coroutine`.
///
/// From a coroutine or any OS thread. The first call of a process starts the loop.
/// Raises TypeError if `func` is not callable, RuntimeError in a child forked from a process that uses coroutines.
#[pyfunction]
#[pyo3(signature = (func, /, *args, **kwargs))]
fn spawn<'py>(
    func: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, Coroutine>> {
    interp::spawn(func, args, kwargs)
}

/// Park the coroutine for `seconds`; 0 lets everything else that is ready run. Outside a coroutine, `time.sleep`.
///
/// Raises ValueError for a negative or non-finite value, CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (seconds, /))]
fn sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    interp::sleep(py, seconds)
}

/// The `Coroutine` that the caller runs in, or None in an OS thread.
#[pyfunction]
fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Coroutine>>> {
    interp::current(py)
}

/// Wait until `fd` can be read, at most `timeout` seconds (None: for ever). Returns whether it can.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
/// that is closed meanwhile is not noticed: the wait goes on until its timeout.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
fn wait_readable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Read, timeout)
}

/// Wait until `fd` can be written, at most `timeout` seconds (None: for ever). Returns whether it can.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
/// that is closed meanwhile is not noticed: the wait goes on until its timeout.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
fn wait_writable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Write, timeout)
}

#[pyfunction]
fn _stop_at_exit(py: Python<'_>) {
    interp::stop(py);
}

#[pyfunction]
fn _forget_in_child() {
    interp::forget_in_child();
}

#[pymodule(gil_used = true)]
fn _rmeinheld(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("CoroutineExit", py.get_type::<CoroutineExit>())?;
    module.add_class::<Coroutine>()?;
    module.add_class::<FileWrapper>()?;
    module.add_class::<Input>()?;
    module.add_class::<Server>()?;
    module.add_class::<StartResponse>()?;
    for function in [
        wrap_pyfunction!(spawn, module)?,
        wrap_pyfunction!(sleep, module)?,
        wrap_pyfunction!(current, module)?,
        wrap_pyfunction!(wait_readable, module)?,
        wrap_pyfunction!(wait_writable, module)?,
    ] {
        module.add_function(function)?;
    }
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(_stop_at_exit, module)?,))?;
    let hooks = PyDict::new(py);
    hooks.set_item("after_in_child", wrap_pyfunction!(_forget_in_child, module)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}
