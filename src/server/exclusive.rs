//! One server at a time in a process.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::crew;

/// How often a cleanup is called that exceptions cut short: each raising signal handler does so once.
const CLEANUP_ATTEMPTS: usize = 10;

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Calls `function`, then `cleanup`, as the only server of the process. Both take no arguments.
///
/// An exception can be raised between any two instructions of Python code, by Ctrl-C or by another signal handler that
/// raises. Python code alone would now and then leave a server behind that "runs". Here the mark is always removed.
/// `cleanup` is called again if it was cut short, and must permit that.
///
/// # Errors
/// RuntimeError if a server is running; the exception of `function`, otherwise that of `cleanup`.
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

/// Forgets the server in the child of a fork: it belongs to the parent.
pub fn forget_in_child() {
    IS_RUNNING.store(false, Ordering::Release);
    crew::seat::forget_in_child();
}
