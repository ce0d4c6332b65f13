//! Asynchronous exceptions: those that CPython raises in a thread state while it computes.
//!
//! `PyThreadState_SetAsyncExc` looks for a thread state by the number of its thread. From CPython 3.14 on, all
//! coroutines have the number of their OS thread. The thread state that is meant therefore bears another number for the
//! length of the call. The interpreter is held meanwhile, so no Python code sees that number.
//!
//! Thread states are named by their addresses, which come from records (`event_loop::records`) and endings. A record has
//! 0 before its thread state is deleted, and an ending is forgotten before the end of its work. Both happen while the
//! interpreter is held, and so do all calls here: an address that is not 0 is that of a living thread state.

#![expect(unsafe_code, reason = "thread states have no safe interface")]

use std::ffi::c_ulong;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::identity;

/// Has the thread state `state` raise `class` as soon as it runs Python code again; `None` withdraws an exception that
/// it has not raised. Returns whether CPython found the thread state.
pub fn set(py: Python<'_>, state: usize, class: Option<&Bound<'_, PyType>>) -> bool {
    if state == 0 {
        return false;
    }
    let state = state as *mut ffi::PyThreadState;
    // No thread and no coroutine has such a number: those of threads are addresses, and those of coroutines are small.
    let own: c_ulong = state as c_ulong | 1;
    // SAFETY: the thread state lives (see above), and the interpreter is held, as the token shows.
    let previous = unsafe { identity::exchange(py, state, own) };
    let Some(previous) = previous else { return false };
    let exception = class.map_or(std::ptr::null_mut(), Bound::as_ptr);
    // SAFETY: attached; the exception is a class or null. An older exception that this drops is a class, too, and the
    // caller has another reference to it, so no Python code runs.
    let found = unsafe { ffi::PyThreadState_SetAsyncExc(own.cast_signed(), exception) };
    // SAFETY: as above.
    unsafe { identity::exchange(py, state, previous) };
    found > 0
}
