//! Help for tests that need Python: an interpreter in the test's process, and coroutines on its loop.

use std::ffi::CString;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use super::process_loop;
use super::spawned::{self, Coroutine};
use crate::coroutine::tests::ONE_WORKER;
use crate::sync::lock;

/// Ends the process's loop, so that another test may use the one worker. Tests that fail do so too.
struct EndOfLoop;

impl Drop for EndOfLoop {
    fn drop(&mut self) {
        Python::attach(|py| process_loop::stop(py).expect("the loop ends"));
    }
}

/// Runs `test` attached to the interpreter of this process. One test at a time does so, with a loop of its own.
pub fn with_python<R>(test: impl FnOnce(Python<'_>) -> R) -> R {
    let _one = lock(&ONE_WORKER);
    Python::initialize();
    let _end = EndOfLoop;
    Python::attach(test)
}

/// Starts `action` in a coroutine.
pub fn start<'py, R>(
    py: Python<'py>,
    action: impl Fn(Python<'_>) -> PyResult<R> + Send + Sync + 'static,
) -> Bound<'py, Coroutine>
where
    R: for<'a> IntoPyObject<'a>,
{
    let function =
        PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            let py = args.py();
            action(py)?.into_py_any(py)
        });
    spawned::spawn(function.expect("a function").as_any(), &PyTuple::empty(py), None).expect("a coroutine")
}

/// Waits for a coroutine, ten seconds at most, and returns its result.
pub fn result_of<'py>(coroutine: &Bound<'py, Coroutine>) -> PyResult<Bound<'py, PyAny>> {
    assert!(coroutine.call_method1("join", (10,))?.is_truthy()?, "the coroutine did not end in time");
    coroutine.getattr("result")
}

/// Runs `action` in a coroutine and returns its result.
pub fn in_coroutine<'py, R>(
    py: Python<'py>,
    action: impl Fn(Python<'_>) -> PyResult<R> + Send + Sync + 'static,
) -> PyResult<Bound<'py, PyAny>>
where
    R: for<'a> IntoPyObject<'a>,
{
    result_of(&start(py, action))
}

/// Runs Python code with these names in its globals, and returns the globals.
pub fn run<'py>(py: Python<'py>, code: &str, names: &[(&str, &Bound<'py, PyAny>)]) -> PyResult<Bound<'py, PyDict>> {
    let globals = PyDict::new(py);
    for (name, value) in names {
        globals.set_item(name, value)?;
    }
    py.run(&CString::new(code).expect("no zero byte"), Some(&globals), None)?;
    Ok(globals)
}
