//! Chances to switch: Python code that could go on at once gives way to other work when its turn has lasted too long.

use pyo3::intern;
use pyo3::prelude::*;

use super::errors::wake_error;
use crate::event_loop::{Wake, turn};

/// A chance to switch at the beginning of a call that may block, whether it then waits or not.
///
/// # Errors
/// The errors of a wait.
///
/// # Parks
#[inline]
pub fn give_way(py: Python<'_>) -> PyResult<()> {
    if turn::is_spent() { give_way_now(py) } else { Ok(()) }
}

#[cold]
fn give_way_now(py: Python<'_>) -> PyResult<()> {
    if !must_give_way(py) {
        return Ok(());
    }
    match turn::give_way() {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}

/// A chance to switch in a call that cannot block in CPython and therefore cannot be interrupted. Exceptions thrown
/// into the coroutine are raised at its next wait.
///
/// # Parks
pub fn give_way_quietly(py: Python<'_>) {
    if turn::is_spent() && must_give_way(py) {
        turn::give_way_quietly();
    }
}

/// Whether the caller, whose turn is spent, may be interrupted by a switch.
fn must_give_way(py: Python<'_>) -> bool {
    let finalizes = is_in_finalizer(py);
    if finalizes {
        // The next look at the frames is a budget away.
        turn::begin();
    }
    !finalizes
}

/// Whether the caller runs in a `__del__`, which interrupts code that expects no switch.
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
    // Without a frame the caller is Rust code on a new thread state.
    search().unwrap_or(false)
}
