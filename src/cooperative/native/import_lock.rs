//! The locks of imports.
//!
//! The import lock is held while finders run. It is reentrant for an OS thread, so it would exclude no coroutine, and a
//! fork would not wait until another coroutine has released it. The lock of each module is importlib's own
//! (`_ModuleLock`); its owner is a number of `_thread.get_ident`, which is the same in all coroutines.

use std::cell::Cell;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::call::NativeCall;
use super::lines::{self, Claim};
use super::method::{Exchanged, Wakes, exchanged};
use crate::event_loop::{self, reasons::Reason};
use crate::interp::identity;

exchanged!(Acquire, "acquire_lock", Wakes::None, Some(acquire));
exchanged!(Release, "release_lock", Wakes::First, Some(release));
exchanged!(Held, "lock_held", Wakes::None, Some(held));

thread_local! {
    /// The owner on the loop thread, and the number of times that it has taken the lock.
    static OWNER: Cell<(usize, u32)> = const { Cell::new((0, 0)) };
}

fn held(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    call.original()
}

/// # Parks
fn acquire(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let (module, own) = (call.object(), identity::thread_state(call.py()));
    let (owner, count) = OWNER.get();
    if (count == 0 || owner != own) && (lines::is_awaited(module.as_ptr().addr()) || !is_free(module, own)?) {
        // Interruptions are deferred, because importlib expects none here.
        Claim::new(module, Reason::Import, |ahead| Ok(ahead == 0 && is_free(module, own)?)).insist(call.py())?;
    }
    let result = call.original()?;
    OWNER.set((own, if OWNER.get().0 == own { OWNER.get().1 + 1 } else { 1 }));
    Ok(result)
}

fn release(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let (owner, count) = OWNER.get();
    if count == 0 || owner != identity::thread_state(call.py()) {
        return Err(PyRuntimeError::new_err("not holding the import lock"));
    }
    let result = call.original()?;
    OWNER.set(if count == 1 { (0, 0) } else { (owner, count - 1) });
    Ok(result)
}

/// Gives importlib a `get_ident` that tells coroutines apart. Without it, a coroutine that imports a module would get
/// the unfinished module of another coroutine whose import waits.
///
/// # Errors
/// AttributeError from an importlib unlike that of CPython 3.12 to 3.15.
pub fn tell_coroutines_apart(py: Python<'_>) -> PyResult<()> {
    let bootstrap = py.import("_frozen_importlib")?;
    let original = bootstrap.getattr("_thread")?.cast_into::<PyModule>()?;
    let replacement = PyModule::new(py, "_thread")?;
    replacement.dict().update(original.dict().as_mapping())?;
    let get_ident =
        PyCFunction::new_closure(py, Some(c"get_ident"), None, |arguments, _| identity::ident(arguments.py()))?;
    replacement.setattr("get_ident", get_ident)?;
    bootstrap.setattr("_thread", replacement)
}

/// Waits until no other coroutine or thread has the import lock. A fork would copy the holder's unfinished work.
///
/// # Parks
pub fn wait_until_free(py: Python<'_>) {
    let own = identity::thread_state(py);
    let wait = || -> PyResult<()> {
        let module = py.import("_imp")?.into_any();
        if is_free(&module, own)? {
            return Ok(());
        }
        Claim::new(&module, Reason::Import, |_| is_free(&module, own)).insist(py)
    };
    if event_loop::can_park()
        && let Err(error) = wait()
    {
        error.write_unraisable(py, None);
    }
}

/// Whether the caller may take the lock: it is free or the caller's.
fn is_free(module: &Bound<'_, PyAny>, own: usize) -> PyResult<bool> {
    match OWNER.get() {
        (_, 0) => Ok(!Held::method().invoke(module, &[])?.is_truthy()?),
        (owner, _) => Ok(owner == own),
    }
}
