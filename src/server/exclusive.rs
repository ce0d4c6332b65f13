//! One server at a time in a process.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How often a cleanup is called that exceptions cut short: each signal handler that raises does so once.
const CLEANUP_ATTEMPTS: usize = 10;

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Calls `function`, then `cleanup`, as the only server of the process. Both take no arguments.
///
/// An exception can be raised between any two instructions of Python code: by Ctrl-C, or another signal handler that
/// raises. Python code alone would now and then leave a server behind that "runs". Here the mark is always taken away, and
/// `cleanup`, which must bear it, is called again if it was cut short.
///
/// # Errors
/// RuntimeError if a server is running; what `function` raises, otherwise what `cleanup` has raised.
pub fn exclusively<'py>(function: &Bound<'py, PyAny>, cleanup: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            IS_RUNNING.store(false, Ordering::Release);
        }
    }
    if IS_RUNNING.swap(true, Ordering::AcqRel) {
        return Err(PyRuntimeError::new_err("a server is running in this process already; stop() it first"));
    }
    let _mark = Mark;
    let result = function.call0();
    let mut failure = None;
    for _ in 0..CLEANUP_ATTEMPTS {
        match cleanup.call0() {
            Ok(_) => break,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match (result, failure) {
        (Ok(_), Some(failure)) => Err(failure),
        (result, _) => result,
    }
}

/// Called in the child after a fork: the server is the parent's.
pub fn forget_in_child() {
    IS_RUNNING.store(false, Ordering::Release);
}
