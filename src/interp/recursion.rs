//! Making a deep recursion end in RecursionError on a coroutine's stack.
//!
//! - CPython 3.12 and 3.13 count C calls per thread state, against a limit made for 8 MiB stacks: the count is scaled.
//! - CPython 3.14 and later compare the stack pointer with bounds that they take from the OS thread, whose stack this is
//!   not: `PyUnstable_ThreadState_SetStackProtection` tells them. It came with 3.14.1, so it is looked up at run time.

#![expect(unsafe_code, reason = "two fields of PyThreadState, and a function that older interpreters lack")]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::ffi;

use crate::coroutine::{DEFAULT_STACK_BYTES, StackBounds};

/// What must stay free for C code that counts nothing, when the limit is reached: one fat frame (`select` has up to
/// 75 KB), the resolver, OpenSSL's start. CPython 3.14's own margins (32 KiB) come on top.
const RESERVE_BYTES: usize = 96 * 1024;

/// Stack that one counted C call may use, for 3.12 and 3.13 on stacks under 8 MiB. `sorted(key=f)` with `f` calling
/// `sorted` is the hungriest known: 1.4 KB in CPython 3.12.1 and 1.1 KB in 3.13.0 as GCC compiles them, other recursions
/// through C 0.2 to 0.5 KB. A quarter is left to other compilers.
const BYTES_PER_C_CALL: usize = 1792;

/// The start of `struct _ts` in CPython 3.12 (Include/cpython/pystate.h).
#[repr(C)]
struct ThreadState312 {
    links: [*mut c_void; 3],
    status: u32,
    py_recursion_remaining: c_int,
    py_recursion_limit: c_int,
    c_recursion_remaining: c_int,
}

/// The start of `struct _ts` in CPython 3.13 (Include/cpython/pystate.h).
#[repr(C)]
struct ThreadState313 {
    links: [*mut c_void; 3],
    eval_breaker: usize,
    status: u32,
    whence: c_int,
    state: c_int,
    py_recursion_remaining: c_int,
    py_recursion_limit: c_int,
    c_recursion_remaining: c_int,
}

type SetStackProtection = unsafe extern "C" fn(*mut ffi::PyThreadState, *mut c_void, usize) -> c_int;

fn set_stack_protection() -> Option<SetStackProtection> {
    static FOUND: OnceLock<Option<SetStackProtection>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: a lookup by name among the symbols of the process.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyUnstable_ThreadState_SetStackProtection".as_ptr()) };
        // SAFETY: the documented signature (CPython 3.15, Doc/c-api/init.rst; in 3.14 since 3.14.1).
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SetStackProtection>(address) })
    })
}

/// The interpreter's version as `0xMMmmpp`.
pub fn version() -> std::ffi::c_ulong {
    // SAFETY: a constant that the interpreter exports.
    unsafe { Py_Version >> 8 }
}

unsafe extern "C" {
    /// CPython 3.11 and later: the run-time PY_VERSION_HEX.
    static Py_Version: std::ffi::c_ulong;
}

/// Says why this interpreter cannot bound recursion in coroutines, if it cannot.
///
/// # Errors
/// The reason, for the user.
pub fn check() -> Result<(), String> {
    if version() >= 0x03_0e_00 && set_stack_protection().is_none() {
        return Err("Python 3.14.0 cannot guard the stacks of coroutines against deep recursion \
                    (PyUnstable_ThreadState_SetStackProtection is missing): use 3.14.1 or later"
            .to_owned());
    }
    Ok(())
}

/// Adapts the limits of `state` to the stack that it will run on. Call it attached to `state`.
///
/// # Safety
/// `state` is the attached thread state, and runs on the stack with these bounds.
pub unsafe fn bound_recursion(state: *mut ffi::PyThreadState, stack: StackBounds) {
    let bytes = stack.top - stack.bottom;
    match version() {
        0x03_0e_00.. => {
            if let Some(protect) = set_stack_protection() {
                let start = std::ptr::without_provenance_mut(stack.bottom + RESERVE_BYTES);
                // SAFETY: the caller's promise; the range lies within the stack.
                if unsafe { protect(state, start, bytes - RESERVE_BYTES) } != 0 {
                    // SAFETY: attached. The stack is too small for the margins: nothing to do but go without.
                    unsafe { ffi::PyErr_Clear() };
                }
            }
        }
        // A page is lost to the guard: compare with some slack.
        _ if bytes + 64 * 1024 >= DEFAULT_STACK_BYTES => {}
        version => {
            let scaled = c_int::try_from(bytes.saturating_sub(RESERVE_BYTES) / BYTES_PER_C_CALL).unwrap_or(c_int::MAX);
            // SAFETY: the layout of this minor version, which patch releases keep; checked below before it is used.
            let (limit, remaining) = unsafe {
                if version >= 0x03_0d_00 {
                    let state = state.cast::<ThreadState313>();
                    (&raw const (*state).py_recursion_limit, &raw mut (*state).c_recursion_remaining)
                } else {
                    let state = state.cast::<ThreadState312>();
                    (&raw const (*state).py_recursion_limit, &raw mut (*state).c_recursion_remaining)
                }
            };
            // SAFETY: both point into the thread state; Py_GetRecursionLimit is callable when attached.
            unsafe {
                if *limit == ffi::Py_GetRecursionLimit() && *remaining > scaled {
                    *remaining = scaled;
                }
            }
        }
    }
}
