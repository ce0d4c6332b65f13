//! The number of references to an object.

#![expect(unsafe_code, reason = "pyo3 has no safe wrapper for the count of references")]

use pyo3::ffi;
use pyo3::prelude::*;

/// How many references there are to `object`. An object with one reference belongs to its holder alone.
pub fn reference_count<T>(object: &Bound<'_, T>) -> isize {
    // SAFETY: attached, and `object` is a live object, as `Bound` says.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}
