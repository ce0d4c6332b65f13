//! Calls that block an OS thread, which the end of the interpreter may find there.

#![expect(unsafe_code, reason = "calls that the end of the interpreter may unwind")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// Stops its thread for ever when it is dropped.
struct HangThread;

impl Drop for HangThread {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Calls a function that blocks this OS thread.
///
/// Before Python 3.14, the end of the interpreter ends a daemon thread by pthread_exit(3), once the kernel returns to the
/// function. The exit unwinds the stack. Rust aborts the process when a function in C unwinds, unless that is declared.
/// The thread hangs instead, as it does in Python 3.14.
///
/// # Errors
/// The errors of the function.
pub fn call_on_thread<'py>(
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    // Read through a pointer that the compiler cannot see through. It would take the function for one that never unwinds,
    // because bindings declare it so elsewhere in the program.
    let call: UnwindingCall = std::hint::black_box(call_that_may_unwind);
    let guard = HangThread;
    // SAFETY: attached; both arguments are valid, and no keywords are passed.
    let result = unsafe { call(function.as_ptr(), arguments.as_ptr(), std::ptr::null_mut()) };
    std::mem::forget(guard);
    // SAFETY: attached; the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

type UnwindingCall =
    unsafe extern "C-unwind" fn(*mut ffi::PyObject, *mut ffi::PyObject, *mut ffi::PyObject) -> *mut ffi::PyObject;

unsafe extern "C-unwind" {
    #[link_name = "PyObject_Call"]
    fn call_that_may_unwind(
        function: *mut ffi::PyObject,
        arguments: *mut ffi::PyObject,
        keywords: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
}
