//! Deep recursion ends in RecursionError on a coroutine's stack.
//!
//! - CPython 3.12 and 3.13 count C calls for each thread state, against a limit made for stacks of 8 MiB. The count is
//!   scaled.
//! - CPython 3.14 and later compare the stack pointer with the bounds of the OS thread's stack.
//!   `PyUnstable_ThreadState_SetStackProtection` sets those of the coroutine's stack. It came with 3.14.1, so it is
//!   looked up at run time.

#![expect(unsafe_code, reason = "two fields of PyThreadState, and a function that older interpreters lack")]

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pyo3::ffi;

use crate::coroutine::{DEFAULT_STACK_BYTES, StackBounds};

/// The part of a stack that stays free at the limit, for C code that counts nothing: one large frame (`select` has up
/// to 75 KB), the resolver, OpenSSL's start. The margins of CPython 3.14 (32 KiB) are added.
const RESERVE_BYTES: usize = 96 * 1024;

/// The stack that one counted C call may use, for 3.12 and 3.13 on stacks under 8 MiB. The largest known use is that of
/// `sorted(key=f)` with `f` calling `sorted`. GCC's CPython 3.12.1 takes 1.4 KB and 3.13.0 takes 1.1 KB. Other
/// recursions through C use 0.2 to 0.5 KB. A quarter is left to other compilers.
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
        // SAFETY: dlsym(3) gets a valid handle and a string that ends with a zero byte.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"PyUnstable_ThreadState_SetStackProtection".as_ptr()) };
        // SAFETY: the documented signature (CPython 3.15, Doc/c-api/init.rst; in 3.14 since 3.14.1).
        (!address.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, SetStackProtection>(address) })
    })
}

/// The interpreter's version as `0xMMmmpp`.
pub fn version() -> std::ffi::c_ulong {
    // SAFETY: the interpreter exports this constant since 3.11, and no code writes it.
    unsafe { Py_Version >> 8 }
}

unsafe extern "C" {
    /// CPython 3.11 and later: the run-time PY_VERSION_HEX.
    static Py_Version: std::ffi::c_ulong;
}

/// Checks that this interpreter can bound recursion in coroutines.
///
/// # Errors
/// The reason why it cannot, for the user.
pub fn check() -> Result<(), String> {
    if version() >= 0x03_0e_00 && set_stack_protection().is_none() {
        return Err("Python 3.14.0 cannot guard the stacks of coroutines against deep recursion \
                    (PyUnstable_ThreadState_SetStackProtection is missing): use 3.14.1 or later"
            .to_owned());
    }
    Ok(())
}

/// Adapts the limits of `state` to the stack that it runs on.
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
                    // The stack is too small for the margins, and has no limit then.
                    // SAFETY: attached, as the caller promises.
                    unsafe { ffi::PyErr_Clear() };
                }
            }
        }
        // With slack, because the guard takes a page.
        _ if bytes + 64 * 1024 >= DEFAULT_STACK_BYTES => {}
        version => {
            let scaled = c_int::try_from(bytes.saturating_sub(RESERVE_BYTES) / BYTES_PER_C_CALL).unwrap_or(c_int::MAX);
            // SAFETY: the structs have the layout of this minor version, which patch releases keep, and `state` is
            // valid. Only addresses are taken here; the value of the limit is checked before anything is written.
            let (limit, remaining) = unsafe {
                if version >= 0x03_0d_00 {
                    let state = state.cast::<ThreadState313>();
                    (&raw const (*state).py_recursion_limit, &raw mut (*state).c_recursion_remaining)
                } else {
                    let state = state.cast::<ThreadState312>();
                    (&raw const (*state).py_recursion_limit, &raw mut (*state).c_recursion_remaining)
                }
            };
            // SAFETY: both point into the thread state, which is attached and therefore this thread's. The same goes
            // for Py_GetRecursionLimit, which needs an attached thread.
            unsafe {
                if *limit == ffi::Py_GetRecursionLimit() && *remaining > scaled {
                    *remaining = scaled;
                }
            }
        }
    }
}
