//! Chances to switch: where Python code could go on at once, it gives way to others when its turn has lasted too long.

use pyo3::intern;
use pyo3::prelude::*;

use super::errors::wake_error;
use crate::event_loop::{Wake, turn};

/// A chance to switch in a call that may block: called where it begins, also if it finds that it need not wait.
///
/// # Errors
/// What is raised in a coroutine that waits.
///
/// # Parks
pub fn give_way(py: Python<'_>) -> PyResult<()> {
    if !must_give_way(py) {
        return Ok(());
    }
    match turn::give_way() {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}

/// A chance to switch in a call that cannot block in CPython, and so cannot be interrupted either: what is thrown into
/// the coroutine meanwhile is raised where it next waits.
///
/// # Parks
pub fn give_way_quietly(py: Python<'_>) {
    if must_give_way(py) {
        turn::give_way_quietly();
    }
}

fn must_give_way(py: Python<'_>) -> bool {
    if !turn::is_spent() {
        return false;
    }
    let finalizes = is_in_finalizer(py);
    if finalizes {
        // The frames need not be looked at again soon.
        turn::begin();
    }
    !finalizes
}

/// Whether a `__del__` is among the caller's frames: it interrupts code that expects no switch there.
fn is_in_finalizer(py: Python<'_>) -> bool {
    let search = || -> PyResult<bool> {
        let mut frame = py.import(intern!(py, "sys"))?.call_method0(intern!(py, "_getframe"))?;
        while !frame.is_none() {
            if frame.getattr(intern!(py, "f_code"))?.getattr(intern!(py, "co_name"))?.eq(intern!(py, "__del__"))? {
                return Ok(true);
            }
            frame = frame.getattr(intern!(py, "f_back"))?;
        }
        Ok(false)
    };
    // Without a frame, the caller is native code of a new thread state.
    search().unwrap_or(false)
}
