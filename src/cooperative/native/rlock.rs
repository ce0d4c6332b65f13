//! `_thread.RLock`. CPython takes the loop thread for its owner, so all coroutines would own it at once. The owning
//! coroutine is noted in here.

use std::cell::RefCell;
use std::collections::HashMap;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::call::NativeCall;
use super::holders;
use super::lines::{self, Claim};
use super::lock::{acquire_wait, boolean};
use super::method::{Exchanged, Wakes, exchanged};
use crate::cooperative::timeouts::AcquireWait;
use crate::event_loop::reasons::Reason;
use crate::interp::identity;

exchanged!(Acquire, "acquire", Wakes::None, Some(acquire));
exchanged!(Enter, "__enter__", Wakes::None, Some(acquire));
exchanged!(Release, "release", Wakes::First, Some(release));
exchanged!(Exit, "__exit__", Wakes::First, Some(release));
exchanged!(IsOwned, "_is_owned", Wakes::None, Some(is_owned));
exchanged!(RecursionCount, "_recursion_count", Wakes::None, Some(recursion_count));
exchanged!(ReleaseSave, "_release_save", Wakes::First, Some(release_save));
exchanged!(AcquireRestore, "_acquire_restore", Wakes::None, Some(acquire_restore));
exchanged!(AtForkReinit, "_at_fork_reinit", Wakes::First, None);

thread_local! {
    /// The owners of the locks that the loop thread holds, by the addresses of the locks. An entry counts only while
    /// CPython takes the lock for this thread's. Otherwise its lock was destroyed, or unlocked by `_at_fork_reinit`.
    static OWNERS: RefCell<HashMap<usize, usize>> = RefCell::default();
}

/// # Parks
fn acquire(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let py = call.py();
    let Some(wait) = acquire_wait(call)? else { return call.original() };
    wait.give_way(py)?;
    let (lock, own) = (call.object(), identity::thread_state(py));
    let AcquireWait::Until(deadline) = wait else { return attempt(lock, own).map(|taken| boolean(py, taken)) };
    if (!lines::is_awaited(lock.as_ptr().addr()) || is_own(lock, own)?) && attempt(lock, own)? {
        return Ok(boolean(py, true));
    }
    let claim = Claim::new(lock, Reason::NativeLock, |ahead| if ahead == 0 { attempt(lock, own) } else { Ok(false) });
    claim.wait(py, deadline).map(|taken| boolean(py, taken))
}

fn release(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    check_own(call)?;
    let result = call.original()?;
    if !is_this_threads(call.object())? {
        OWNERS.with_borrow_mut(|owners| owners.remove(&call.object().as_ptr().addr()));
    }
    Ok(result)
}

fn is_owned(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    is_own(call.object(), identity::thread_state(call.py())).map(|own| boolean(call.py(), own))
}

fn recursion_count(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    if is_own(call.object(), identity::thread_state(call.py()))? {
        call.original()
    } else {
        Ok(0_u64.into_pyobject(call.py())?.into_any().unbind())
    }
}

fn release_save(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    check_own(call)?;
    let result = call.original()?;
    OWNERS.with_borrow_mut(|owners| owners.remove(&call.object().as_ptr().addr()));
    Ok(result)
}

/// # Parks
fn acquire_restore(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let py = call.py();
    let Some([Some(state)]) = call.arguments(["state"])? else { return call.original() };
    let Ok((count, _)) = state.extract::<(u64, u64)>() else { return call.original() };
    let (lock, own) = (call.object(), identity::thread_state(py));
    Claim::new(lock, Reason::NativeLock, |ahead| if ahead == 0 { attempt(lock, own) } else { Ok(false) }).insist(py)?;
    for _ in 1..count {
        take(lock)?;
    }
    Ok(py.None())
}

/// Takes the lock, or takes it once more if the caller has it. Returns whether it did.
fn attempt(lock: &Bound<'_, PyAny>, own: usize) -> PyResult<bool> {
    // CPython would let any coroutine in.
    if is_this_threads(lock)? && !is_own(lock, own)? {
        return Ok(false);
    }
    let taken = take(lock)?;
    if taken {
        OWNERS.with_borrow_mut(|owners| owners.insert(lock.as_ptr().addr(), own));
        holders::note(lock.as_ptr().addr(), identity::ident(lock.py()));
    }
    Ok(taken)
}

fn take(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    Acquire::method().invoke(lock, &[PyBool::new(lock.py(), false).as_any()])?.is_truthy()
}

fn is_this_threads(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    IsOwned::method().invoke(lock, &[])?.is_truthy()
}

/// Whether the caller has the lock. A lock that the thread took before it knew coroutines belongs to all of its
/// coroutines, as before.
fn is_own(lock: &Bound<'_, PyAny>, own: usize) -> PyResult<bool> {
    let owner = OWNERS.with_borrow(|owners| owners.get(&lock.as_ptr().addr()).copied());
    Ok(is_this_threads(lock)? && owner.is_none_or(|owner| owner == own))
}

fn check_own(call: &NativeCall<'_>) -> PyResult<()> {
    if is_own(call.object(), identity::thread_state(call.py()))? {
        Ok(())
    } else {
        Err(PyRuntimeError::new_err("cannot release un-acquired lock"))
    }
}
