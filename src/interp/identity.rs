//! The identity of a coroutine: its number, and the number by which the interpreter knows its thread state.
//!
//! CPython writes the number of the OS thread into every thread state, and all coroutines share one OS thread. With
//! that number `sys._current_frames` would show one coroutine only, and `PyThreadState_SetAsyncExc` reach one only.
//! Here each thread state gets the number of its coroutine. The field is public (`thread_id` in
//! Include/cpython/pystate.h), but its place differs between versions, so it is searched for once, by the value that
//! CPython has written there. CPython 3.14 and later use the field as an address (faulthandler reads the thread's
//! name). There it stays as it is, but for moments ([`exchange`]).

#![expect(unsafe_code, reason = "a field of PyThreadState")]

use std::cell::Cell;
use std::ffi::c_ulong;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::recursion;
use crate::event_loop;

/// The number of words of PyThreadState that are searched. The field is the 20th to 25th word in CPython 3.12 to 3.15,
/// and the structure has at least forty.
const WORDS: usize = 36;

/// The first version in which the field is an address (3.14).
const SHOWN_BEFORE: c_ulong = 0x03_0e_00;

static FIELD: OnceLock<Option<usize>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);
/// The number of the loop's OS thread, as `threading.get_ident` has it; 0 before the first loop.
static LOOP_THREAD: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static HIDDEN: Cell<Option<c_ulong>> = const { Cell::new(None) };
}

/// A number that no other coroutine of this process has, and no OS thread, since the numbers of threads are addresses.
pub fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Notes that the calling OS thread runs the loop.
pub fn note_loop_thread() {
    // SAFETY: pthread_self(3) cannot fail and has no conditions.
    LOOP_THREAD.store(unsafe { libc::pthread_self() }, Ordering::Relaxed);
}

/// The number of the OS thread of the loop, which CPython 3.14 and later give to all coroutines. `None` before the first
/// loop.
pub fn loop_thread() -> Option<u64> {
    Some(LOOP_THREAD.load(Ordering::Relaxed)).filter(|&ident| ident > 0)
}

/// Searches for the field in `state`, which was just made on this thread. Returns whether it was found.
///
/// # Safety
/// `state` is valid, and the interpreter is CPython 3.12 or later.
pub unsafe fn find(state: *mut ffi::PyThreadState) -> bool {
    let found = FIELD.get_or_init(|| {
        // SAFETY: pthread_self(3) cannot fail and has no conditions.
        let own = unsafe { libc::pthread_self() };
        let native = c_ulong::from(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned());
        let words = state.cast::<c_ulong>();
        // SAFETY: `index` is below WORDS, and the structure has more words than that in CPython 3.12 to 3.15, which
        // `recursion::check` lets pass. PyThreadState_New has initialised them, and `state` is valid, as the caller
        // promises.
        let word = |index: usize| unsafe { words.add(index).read() };
        let mut places = (0..WORDS - 1).filter(|&index| word(index) == own && word(index + 1) == native);
        places.next().filter(|_| places.next().is_none())
    });
    found.is_some()
}

/// Gives `state` another number for a moment. Returns the previous one; `None` where the field is not known.
///
/// # Safety
/// `state` is valid. The interpreter is held until the previous number is back.
pub unsafe fn exchange(_py: Python<'_>, state: *mut ffi::PyThreadState, number: c_ulong) -> Option<c_ulong> {
    let field = FIELD.get().copied().flatten()?;
    // SAFETY: `find` has found the field at this index, and its place is the same in all thread states of a process.
    // The caller promises that `state` is valid, and only holders of the interpreter write the field.
    unsafe {
        let place = state.cast::<c_ulong>().add(field);
        let previous = place.read();
        place.write(number);
        Some(previous)
    }
}

/// Gives `state` the number `ident`, unless the interpreter uses the field as an address.
///
/// # Safety
/// `state` is valid and belongs to this thread.
pub unsafe fn set(state: *mut ffi::PyThreadState, ident: u64) {
    if let Some(field) = FIELD.get().copied().flatten().filter(|_| recursion::version() < SHOWN_BEFORE) {
        // SAFETY: `find` has found the field at this index, and its place is the same in all thread states of a
        // process. The caller promises that `state` is valid and that no other thread writes to it.
        unsafe { state.cast::<c_ulong>().add(field).write(ident) };
    }
}

/// The number of the caller's coroutine, or `threading.get_ident()` in an OS thread.
pub fn ident(_py: Python<'_>) -> u64 {
    // SAFETY: pthread_self(3) cannot fail and has no conditions.
    event_loop::ident().unwrap_or_else(|| unsafe { libc::pthread_self() })
}

/// The address of the caller's thread state, by which a reentrant lock knows its owner.
pub fn thread_state(_py: Python<'_>) -> usize {
    // SAFETY: attached, as the token shows.
    unsafe { ffi::PyThreadState_Get() as usize }
}

/// Writes the OS thread's number into the thread state for a fork, in a debug build of CPython, whose assertions
/// require it while the child begins. In other builds the coroutine's number stays, by which `threading` finds the
/// forking thread in the child.
pub fn before_fork(py: Python<'_>) {
    if !py.import("sys").is_ok_and(|sys| sys.hasattr("gettotalrefcount").unwrap_or(false)) {
        return;
    }
    // SAFETY: pthread_self(3) cannot fail and has no conditions.
    let real = unsafe { libc::pthread_self() };
    let own = ident(py);
    if own != real && FIELD.get().is_some_and(Option::is_some) && recursion::version() < SHOWN_BEFORE {
        HIDDEN.set(Some(own));
        // SAFETY: the current thread state is valid and this thread's, as the token shows.
        unsafe { set(ffi::PyThreadState_Get(), real) };
    }
}

/// Puts the coroutine's number back, in the parent of a fork. In the child, `threading` knows the thread by the OS
/// thread's number from now on.
pub fn after_fork(_py: Python<'_>) {
    if let Some(own) = HIDDEN.take() {
        // SAFETY: the current thread state is valid and this thread's, as the token shows.
        unsafe { set(ffi::PyThreadState_Get(), own) };
    }
}
