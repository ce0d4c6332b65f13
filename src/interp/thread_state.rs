//! A thread state for every unit.
//!
//! A thread state is made on the loop thread, attached, used, cleared and deleted there. It is detached at every wait.
//! One that is left behind at the end of its loop (`event_loop::ends`) stays detached for ever. CPython 3.12 and later
//! keep the "current thread state of this OS thread" in step with attaching (gh-59956), so that `PyGILState_Ensure` in
//! C extensions finds the unit's own.

#![expect(unsafe_code, reason = "thread states have no safe interface")]

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::{identity, recursion};
use crate::event_loop::{self, Host, notes};
use crate::output;

/// Gives each unit a thread state of the interpreter that started the loop.
pub struct PythonHost {
    interpreter: *mut ffi::PyInterpreterState,
}

// SAFETY: the pointer is to the interpreter that this module lives in, which outlives every loop
// (`process_loop::stop_at_exit` ends it, or the process); PyThreadState_New takes it from any thread.
unsafe impl Send for PythonHost {}
// SAFETY: as above; nothing is written through it here.
unsafe impl Sync for PythonHost {}

impl PythonHost {
    /// A host for the current interpreter.
    ///
    /// # Errors
    /// RuntimeError if the interpreter does not keep several thread states on one OS thread apart, or cannot bound
    /// recursion.
    pub fn new(py: Python<'_>) -> PyResult<PythonHost> {
        recursion::check().map_err(PyRuntimeError::new_err)?;
        // SAFETY: attached, as the token shows.
        let host = PythonHost { interpreter: unsafe { ffi::PyInterpreterState_Get() } };
        if py.detach(|| host.self_test()) {
            Ok(host)
        } else {
            Err(PyRuntimeError::new_err(
                "this Python does not keep thread states apart that share an OS thread; rmeinheld needs CPython 3.12 to \
                 3.15, not free-threaded",
            ))
        }
    }

    /// Tries two thread states by turns on an OS thread of their own. Returns whether each was the current one when
    /// attached.
    fn self_test(&self) -> bool {
        std::thread::scope(|scope| scope.spawn(|| self.two_by_turns()).join().unwrap_or(false))
    }

    fn two_by_turns(&self) -> bool {
        // SAFETY: this thread has no thread state and is detached; each state is made, attached, detached and deleted
        // here, and only one is attached at a time.
        unsafe {
            let first = ffi::PyThreadState_New(self.interpreter);
            let second = ffi::PyThreadState_New(self.interpreter);
            if first.is_null() || second.is_null() {
                return false;
            }
            if !identity::find(first) {
                return false;
            }
            let is_current = |state| ffi::PyGILState_GetThisThreadState() == state && ffi::PyGILState_Check() == 1;
            ffi::PyEval_RestoreThread(first);
            let mut well = is_current(first);
            ffi::PyEval_SaveThread();
            ffi::PyEval_RestoreThread(second);
            let ensured = ffi::PyGILState_Ensure();
            well &= is_current(second);
            ffi::PyGILState_Release(ensured);
            ffi::PyThreadState_Clear(second);
            ffi::PyThreadState_DeleteCurrent();
            ffi::PyEval_RestoreThread(first);
            well &= is_current(first);
            ffi::PyThreadState_Clear(first);
            ffi::PyThreadState_DeleteCurrent();
            well
        }
    }
}

impl Host for PythonHost {
    fn enter(&self, life: &mut dyn FnMut()) {
        // SAFETY: PyThreadState_New needs no attached thread state. The interpreter outlives the loop.
        let state = unsafe { ffi::PyThreadState_New(self.interpreter) };
        if state.is_null() {
            output::say("no memory for a thread state; the process ends");
            std::process::abort();
        }
        // SAFETY: just made, on this thread. No thread state is attached: a new unit starts from the scheduler, whose
        // other units are all parked, and a unit is detached when it parks.
        unsafe { begin(state, identity::next()) };
        identity::note_loop_thread();
        Python::attach(|py| {
            apply_trace_hooks(py);
            life();
        });
        notes::set_thread_state(0);
        let remains = Remains(state);
        if event_loop::is_ending() {
            // Only OS threads are left to wait for, so destructors may block.
            remains.end_in_place();
            return;
        }
        // SAFETY: attached to `state`, since `begin`.
        unsafe { ffi::PyEval_SaveThread() };
        // In another unit, because this one may not park any more.
        event_loop::spawn(Box::new(move || Python::attach(|py| remains.end(py))));
    }

    fn released(&self, blocking: &mut dyn FnMut()) {
        // SAFETY: the unit is attached since `enter`, and each release before has ended. This is cheaper than `attach`.
        let py = unsafe { Python::assume_attached() };
        detached(py, || {
            // SAFETY: always callable.
            debug_assert_eq!(unsafe { ffi::PyGILState_Check() }, 0, "attached while the unit waits");
            blocking();
        });
    }
}

/// Runs `action` on this thread while the interpreter is detached. `action` must not touch Python objects until it has
/// attached a thread state.
fn detached<R>(py: Python<'_>, action: impl FnOnce() -> R) -> R {
    struct OnThisThread<T>(T);
    // SAFETY: `Python::detach` calls its closure on the calling thread, so nothing is sent to another one. It asks for
    // Send only to keep Python objects out of the closure, and this function's callers attach before they use any.
    unsafe impl<T> Send for OnThisThread<T> {}
    let action = OnThisThread(action);
    let OnThisThread(result) = py.detach(move || {
        let OnThisThread(action) = { action };
        OnThisThread(action())
    });
    result
}

/// A thread state whose work is done, with the values of its `threading.local` objects. Their destructors may wait.
/// Another thread state is attached while they run, because a half-cleared one cannot be detached and attached again
/// (CPython's assertions say so).
struct Remains(*mut ffi::PyThreadState);

impl Remains {
    /// Clears and deletes the thread state, while another is attached.
    ///
    /// # Parks
    fn end(self, _py: Python<'_>) {
        let Remains(state) = self;
        std::mem::forget(self);
        // SAFETY: `self` is not Send, so this is the thread that the state was made on. The caller's own state is
        // attached, as its token shows; this one was detached before it was put in here. Nothing refers to it
        // afterwards.
        unsafe {
            ffi::PyThreadState_Clear(state);
            ffi::PyThreadState_Delete(state);
        }
    }

    /// Clears and deletes the thread state, while it is attached itself. Destructors block where they would park.
    fn end_in_place(self) {
        let Remains(state) = self;
        std::mem::forget(self);
        event_loop::without_parking(|| {
            // SAFETY: called by `enter` only, which has attached `state` on this thread; nothing refers to it
            // afterwards.
            unsafe {
                ffi::PyThreadState_Clear(state);
                ffi::PyThreadState_DeleteCurrent();
            }
        });
    }
}

impl Drop for Remains {
    /// Clears and deletes the thread state of a loop that ends before [`Remains::end`] gets its turn.
    fn drop(&mut self) {
        let Remains(state) = *self;
        Python::attach(|_| {
            // SAFETY: as in `end`; `attach` has attached another thread state, and a loop drops its tasks on its own
            // thread.
            event_loop::without_parking(|| unsafe {
                ffi::PyThreadState_Clear(state);
                ffi::PyThreadState_Delete(state);
            });
        });
    }
}

/// Attaches a new thread state.
///
/// # Safety
/// `state` was just made on this thread, and no thread state is attached here.
unsafe fn begin(state: *mut ffi::PyThreadState, ident: u64) {
    // SAFETY: as the caller promises; `PythonHost::new` has found the field that `set` writes.
    unsafe {
        identity::set(state, ident);
        ffi::PyEval_RestoreThread(state);
    }
    event_loop::set_ident(ident);
    notes::set_thread_state(state as usize);
    if let Some(stack) = event_loop::current_stack() {
        // SAFETY: attached to `state`, on this unit's stack.
        unsafe { recursion::bound_recursion(state, stack) };
    }
}

/// Runs `action` with a thread state of its own, known as `ident`. `action` finds the empty `threading.local`, context
/// and trace function of a new thread, and the values that it leaves there end with it.
///
/// # Errors
/// MemoryError.
///
/// # Parks
pub fn in_fresh_state<R>(py: Python<'_>, ident: u64, action: impl FnOnce(Python<'_>) -> R) -> PyResult<R> {
    // SAFETY: attached, as the token shows.
    let state = unsafe { ffi::PyThreadState_New(ffi::PyInterpreterState_Get()) };
    if state.is_null() {
        return Err(pyo3::exceptions::PyMemoryError::new_err("no memory for a thread state"));
    }
    let outer = event_loop::ident();
    let result = detached(py, || {
        // SAFETY: just made, for this thread; `detached` has detached the caller's.
        unsafe { begin(state, ident) };
        let result = Python::attach(|py| {
            apply_trace_hooks(py);
            action(py)
        });
        // SAFETY: attached to `state`, since `begin`.
        unsafe { ffi::PyEval_SaveThread() };
        result
    });
    notes::set_thread_state(identity::thread_state(py));
    Remains(state).end(py);
    if let Some(outer) = outer {
        event_loop::set_ident(outer);
    }
    Ok(result)
}

/// Installs the hooks of debuggers and coverage, as `threading` does for a new thread.
fn apply_trace_hooks(py: Python<'_>) {
    // The getters of `threading`, which a program may set hooks for at any time. To look the module up for each thread
    // state costs more than to make one.
    static GETTERS: PyOnceLock<[(Py<PyAny>, &str); 2]> = PyOnceLock::new();
    let apply = || -> PyResult<()> {
        let getters = GETTERS.get_or_try_init(py, || {
            let threading = py.import("threading")?;
            let getter = |name| threading.getattr(name).map(Bound::unbind);
            PyResult::Ok([(getter("gettrace")?, "settrace"), (getter("getprofile")?, "setprofile")])
        })?;
        for (getter, setter) in getters {
            let hook = getter.bind(py).call0()?;
            if !hook.is_none() {
                py.import("sys")?.call_method1(*setter, (hook,))?;
            }
        }
        Ok(())
    };
    if let Err(error) = apply() {
        error.write_unraisable(py, None);
    }
}
