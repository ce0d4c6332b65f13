//! The identity of a coroutine: its number, and the number by which the interpreter knows its thread state.
//!
//! CPython writes the OS thread's into every thread state, and all coroutines share one OS thread: `sys._current_frames`
//! would show one of them, `PyThreadState_SetAsyncExc` reach one. Here each state gets the coroutine's own. The field is
//! public (`thread_id` in Include/cpython/pystate.h) but lies elsewhere in each version, so it is looked for once, by what
//! CPython has written there. CPython 3.14 and later use it as an address (faulthandler asks for the thread's name), so
//! there it stays as it is.

#![expect(unsafe_code, reason = "a field of PyThreadState")]

use std::cell::Cell;
use std::ffi::c_ulong;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::recursion;
use crate::event_loop;

/// Words of PyThreadState that are looked at. The field is the 20th to 25th in CPython 3.12 to 3.15, which have some
/// forty words at least.
const WORDS: usize = 36;

/// From this version on (3.14) the field is an address.
const SHOWN_BEFORE: c_ulong = 0x03_0e_00;

static FIELD: OnceLock<Option<usize>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static HIDDEN: Cell<Option<c_ulong>> = const { Cell::new(None) };
}

/// A number that no other coroutine of this process has; no thread either, since theirs are addresses.
pub fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Finds the field in `state`, which has just been made on this thread. Returns whether it is there.
///
/// # Safety
/// `state` is valid.
pub unsafe fn find(state: *mut ffi::PyThreadState) -> bool {
    let found = FIELD.get_or_init(|| {
        if recursion::version() >= SHOWN_BEFORE {
            return None;
        }
        // SAFETY: always callable.
        let own = unsafe { libc::pthread_self() };
        let native = c_ulong::from(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
        let words = state.cast::<c_ulong>();
        // SAFETY: the structure is longer than WORDS words, which are read as what they are: initialised memory.
        let word = |index: usize| unsafe { words.add(index).read() };
        let mut places = (0..WORDS - 1).filter(|&index| word(index) == own && word(index + 1) == native);
        places.next().filter(|_| places.next().is_none())
    });
    found.is_some() || recursion::version() >= SHOWN_BEFORE
}

/// Gives `state` the number `ident`, where the interpreter bears it.
///
/// # Safety
/// `state` is valid and belongs to this thread.
pub unsafe fn set(state: *mut ffi::PyThreadState, ident: u64) {
    if let Some(field) = FIELD.get().copied().flatten() {
        // SAFETY: `find` has found the field there in every state of this interpreter.
        unsafe { state.cast::<c_ulong>().add(field).write(ident) };
    }
}

/// The number of the caller: of its coroutine, or `threading.get_ident()` in an OS thread.
pub fn ident(_py: Python<'_>) -> u64 {
    // SAFETY: always callable.
    event_loop::ident().unwrap_or_else(|| unsafe { libc::pthread_self() })
}

/// The address of the caller's thread state: what owns a reentrant lock.
pub fn thread_state(_py: Python<'_>) -> usize {
    // SAFETY: attached, as the token shows.
    unsafe { ffi::PyThreadState_Get() as usize }
}

/// Puts the OS thread's number in place for a fork, where the interpreter's assertions are on: they want it there while
/// the child begins. Elsewhere the number stays, so that `threading` finds the forking thread by it in the child.
pub fn before_fork(py: Python<'_>) {
    if !py.import("sys").is_ok_and(|sys| sys.hasattr("gettotalrefcount").unwrap_or(false)) {
        return;
    }
    // SAFETY: always callable.
    let real = unsafe { libc::pthread_self() };
    let own = ident(py);
    if own != real && FIELD.get().is_some_and(Option::is_some) {
        HIDDEN.set(Some(own));
        // SAFETY: attached to it, on its thread.
        unsafe { set(ffi::PyThreadState_Get(), real) };
    }
}

/// Takes the OS thread's number away again. In the parent: in the child, `threading` knows the thread by it now.
pub fn after_fork(_py: Python<'_>) {
    if let Some(own) = HIDDEN.take() {
        // SAFETY: attached to it, on its thread.
        unsafe { set(ffi::PyThreadState_Get(), own) };
    }
}
