//! `contextvars` contexts.

#![expect(unsafe_code, reason = "pyo3 has no safe wrapper for entering a context")]

use pyo3::ffi;
use pyo3::prelude::*;

/// Runs `action` in a fresh, empty `contextvars` context, as a new thread would.
///
/// # Errors
/// MemoryError; RuntimeError if `action` left another context entered.
pub fn in_fresh_context<R>(py: Python<'_>, action: impl FnOnce() -> R) -> PyResult<R> {
    // SAFETY: attached, as the token shows; PyContext_New returns a new reference, or null with an exception set.
    let context = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_New())? };
    // SAFETY: attached; `context` is a context object, as PyContext_New made it.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let result = action();
    // SAFETY: as above. If another context is the current one, PyContext_Exit checks that and fails.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        // The request is over all the same, and the next one starts in a fresh context.
        return Err(PyErr::fetch(py));
    }
    Ok(result)
}
