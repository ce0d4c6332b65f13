//! `contextvars` contexts.

#![expect(unsafe_code, reason = "pyo3 has no safe wrapper for entering a context")]

use std::cell::Cell;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::references::reference_count;

thread_local! {
    /// A context that nothing refers to and that has no variables, owned here; null without one. Few requests set
    /// variables, so one context serves all that run one after the other. It is never released: at the end of the thread
    /// there may be no interpreter.
    static EMPTY: Cell<*mut ffi::PyObject> = const { Cell::new(ptr::null_mut()) };
}

/// Runs `action` in a fresh, empty `contextvars` context, as a new thread would.
///
/// # Errors
/// MemoryError; RuntimeError if `action` left another context entered.
pub fn in_fresh_context<R>(py: Python<'_>, action: impl FnOnce() -> R) -> PyResult<R> {
    let context = enter(py)?;
    let result = action();
    leave(py, context)?;
    Ok(result)
}

/// Enters an empty context.
// Not part of its caller: frames that coroutines wait in should be small.
#[inline(never)]
fn enter(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let context = empty_context(py)?;
    // SAFETY: attached, as the token shows; `context` is a context object, as PyContext_New made it.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(context)
}

#[inline(never)]
fn leave(py: Python<'_>, context: Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: attached, and a context object, as in `enter`. If another context is the current one, PyContext_Exit
    // checks that and fails.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        // The request is over all the same, and the next one starts in a fresh context.
        return Err(PyErr::fetch(py));
    }
    keep(context);
    Ok(())
}

fn empty_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let kept = EMPTY.replace(ptr::null_mut());
    // SAFETY: attached; PyContext_New returns a new reference, or null with an exception set. `kept` is null or a
    // reference that was owned by the cell, which has given it up.
    unsafe { Bound::from_owned_ptr_or_err(py, if kept.is_null() { ffi::PyContext_New() } else { kept }) }
}

/// Keeps a context that has been left, if it is as good as new: it is empty, and has no other reference.
fn keep(context: Bound<'_, PyAny>) {
    if reference_count(&context) == 1 && context.len().is_ok_and(|length| length == 0) && EMPTY.get().is_null() {
        EMPTY.set(context.into_ptr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::testing::with_python;

    /// The number of variables that a request finds, and its context, after which it does `work`.
    fn found(py: Python<'_>, work: &str) -> (usize, Py<PyAny>) {
        in_fresh_context(py, || {
            let locals = pyo3::types::PyDict::new(py);
            let code =
                std::ffi::CString::new(format!("import contextvars\ncontext = contextvars.copy_context()\n{work}"));
            py.run(&code.unwrap(), None, Some(&locals)).unwrap();
            let context = locals.get_item("context").unwrap().unwrap();
            (context.len().unwrap(), context.unbind())
        })
        .unwrap()
    }

    #[test]
    fn every_request_finds_an_empty_context() {
        with_python(|py| {
            for work in ["", "contextvars.ContextVar('a').set(1)", "token = contextvars.ContextVar('b').set(1)", ""] {
                assert_eq!(found(py, work).0, 0);
            }
        });
    }
}
