//! `_thread.lock`, which `threading.Lock()` makes without the patch.

use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::call::NativeCall;
use super::holders;
use super::lines::{self, Claim};
use super::method::{Exchanged, Wakes, exchanged};
use crate::cooperative::timeouts::AcquireWait;
use crate::event_loop::reasons::Reason;
use crate::interp::{self, identity};

exchanged!(Acquire, "acquire", Wakes::None, Some(acquire));
exchanged!(AcquireLock, "acquire_lock", Wakes::None, Some(acquire));
exchanged!(Enter, "__enter__", Wakes::None, Some(acquire));
exchanged!(Release, "release", Wakes::First, None);
exchanged!(ReleaseLock, "release_lock", Wakes::First, None);
exchanged!(Exit, "__exit__", Wakes::First, None);
exchanged!(Locked, "locked", Wakes::None, Some(look));
exchanged!(LockedLock, "locked_lock", Wakes::None, Some(look));
exchanged!(AtForkReinit, "_at_fork_reinit", Wakes::First, None);

/// # Parks
fn acquire(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let py = call.py();
    let Some(wait) = acquire_wait(call)? else { return call.original() };
    wait.give_way(py)?;
    let lock = call.object();
    let AcquireWait::Until(deadline) = wait else { return attempt(lock).map(|taken| boolean(py, taken)) };
    if !lines::is_awaited(lock.as_ptr().addr()) && attempt(lock)? {
        return Ok(boolean(py, true));
    }
    let is_own = holders::holder(lock.as_ptr().addr()) == Some(identity::ident(py));
    let reason = if is_own { Reason::Condition } else { Reason::NativeLock };
    let claim = Claim::new(lock, reason, |ahead| if ahead == 0 { attempt(lock) } else { Ok(false) });
    claim.wait(py, deadline).map(|taken| boolean(py, taken))
}

/// A look at an object, with a chance to switch: code may look in a loop.
pub(super) fn look(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    interp::give_way_quietly(call.py());
    call.original()
}

fn attempt(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    let taken = Acquire::method().invoke(lock, &[PyBool::new(lock.py(), false).as_any()])?.is_truthy()?;
    if taken {
        holders::note(lock.as_ptr().addr(), identity::ident(lock.py()));
    }
    Ok(taken)
}

/// Converts to a Python bool.
pub(super) fn boolean(py: Python<'_>, value: bool) -> Py<PyAny> {
    PyBool::new(py, value).to_owned().into_any().unbind()
}

/// Reads the arguments of `acquire(blocking=True, timeout=-1)`. None for arguments that the original refuses.
pub(super) fn acquire_wait(call: &NativeCall<'_>) -> PyResult<Option<AcquireWait>> {
    if call.is_bare() {
        return Ok(Some(AcquireWait::Until(None)));
    }
    let Some([blocking, timeout]) = call.arguments(["blocking", "timeout"])? else { return Ok(None) };
    let blocking = blocking.map_or(Ok(true), |blocking| blocking.is_truthy())?;
    let Ok(timeout) = timeout.map_or(Ok(-1.0), |timeout| timeout.extract::<f64>()) else { return Ok(None) };
    Ok(AcquireWait::new(blocking, timeout).ok())
}
