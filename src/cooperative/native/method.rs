//! Methods of CPython's own types, exchanged in place.
//!
//! A built-in method is an entry of a static table (`PyMethodDef`). Every bound method, every descriptor and every warm
//! call site reads the entry at each call. Exchanging the function in the entry therefore reaches older objects, bound
//! methods and compiled code, and no module or class changes. Both structures are public (Include/methodobject.h and
//! Include/cpython/methodobject.h).

#![expect(unsafe_code, reason = "functions of CPython's are called by their pointers")]

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
use pyo3::prelude::*;
use rustix::pipe::{PipeFlags, pipe_with};

use super::call::{CFunction, CONVENTION, FAST_KEYWORDS, KEYWORDS, METHOD, NativeCall, RawArguments};
use super::{holders, lines};
use crate::event_loop;

thread_local! {
    /// The number of calls of exchanged methods on this thread during the self-test.
    static PROBED: Cell<u32> = const { Cell::new(0) };
}

static PROBING: AtomicBool = AtomicBool::new(false);

/// The waiter that a call wakes when it has returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wakes {
    /// No waiter.
    None,
    /// The first coroutine that waits for the object, unless it is awake already.
    First,
    /// The first coroutine that waits for the object and is not awake.
    Next,
}

/// The function that replaces a method on the loop thread.
pub type Here = fn(&NativeCall<'_>) -> PyResult<Py<PyAny>>;

/// An exchanged method.
pub struct Method {
    name: &'static str,
    wakes: Wakes,
    here: Option<Here>,
    original: OnceLock<CFunction>,
}

impl Method {
    /// `here` is called instead of the original on the loop thread.
    pub const fn new(name: &'static str, wakes: Wakes, here: Option<Here>) -> Method {
        Method { name, wakes, here, original: OnceLock::new() }
    }

    /// Calls the original with other arguments.
    ///
    /// # Errors
    /// The errors of the original.
    pub fn invoke<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        arguments: &[&Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let original = self.original.get().ok_or_else(|| PySystemError::new_err("this method was not exchanged"))?;
        original.invoke(object, arguments)
    }
}

/// A type that stands for one exchanged method, so that each has a C function of its own.
pub trait Exchanged {
    /// The method.
    fn method() -> &'static Method;
}

/// `exchanged!(Type, "name", Wakes, here)`: declares an [`Exchanged`].
macro_rules! exchanged {
    ($type:ident, $name:literal, $wakes:expr, $here:expr) => {
        pub struct $type;

        impl $crate::cooperative::native::method::Exchanged for $type {
            fn method() -> &'static $crate::cooperative::native::method::Method {
                static METHOD: $crate::cooperative::native::method::Method =
                    $crate::cooperative::native::method::Method::new($name, $wakes, $here);
                &METHOD
            }
        }
    };
}
pub(super) use exchanged;

/// The body of all exchanged functions. Off the loop thread it calls the original, and then wakes a waiting coroutine.
///
/// # Safety
/// The interpreter calls it: attached, with arguments in the method's convention.
#[inline]
unsafe fn enter<M: Exchanged>(object: *mut ffi::PyObject, raw: RawArguments) -> *mut ffi::PyObject {
    let method = M::method();
    let Some(original) = method.original.get() else { return ptr::null_mut() };
    let is_here = event_loop::is_loop_thread();
    let result = match method.here {
        // SAFETY: as the caller promises.
        Some(here) if is_here => unsafe { enter_here(here, object, raw, original) },
        // SAFETY: as the caller promises.
        _ => unsafe { original.call(object, raw) },
    };
    if method.wakes != Wakes::None {
        holders::forget(object.addr());
        if lines::is_anyone_waiting() && !result.is_null() {
            lines::wake(object.addr(), method.wakes == Wakes::Next);
        }
    }
    if PROBING.load(Ordering::Relaxed) {
        PROBED.set(PROBED.get() + 1);
    }
    result
}

/// # Safety
/// As for [`enter`].
unsafe fn enter_here(
    here: Here,
    object: *mut ffi::PyObject,
    raw: RawArguments,
    original: &'static CFunction,
) -> *mut ffi::PyObject {
    Python::attach(|py| {
        // SAFETY: attached; the caller holds the object for the length of the call.
        let object = unsafe { Bound::from_borrowed_ptr(py, object) };
        // SAFETY: as the caller promises; the interpreter's call returns after this one.
        let call = unsafe { NativeCall::new(object, raw, original) };
        match here(&call) {
            Ok(result) => result.into_ptr(),
            Err(error) => {
                error.restore(py);
                ptr::null_mut()
            }
        }
    })
}

unsafe extern "C" fn one<M: Exchanged>(object: *mut ffi::PyObject, argument: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention.
    unsafe { enter::<M>(object, RawArguments::One(argument)) }
}

unsafe extern "C" fn keywords<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention.
    unsafe { enter::<M>(object, RawArguments::Keywords(args, kwargs)) }
}

unsafe extern "C" fn fast<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention.
    unsafe { enter::<M>(object, RawArguments::Fast(args, count)) }
}

unsafe extern "C" fn fast_keywords<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention.
    unsafe { enter::<M>(object, RawArguments::FastKeywords(args, count, names)) }
}

unsafe extern "C" fn method<M: Exchanged>(
    object: *mut ffi::PyObject,
    class: *mut ffi::PyTypeObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention.
    unsafe { enter::<M>(object, RawArguments::Method(class, args, count, names)) }
}

/// The replacement of a function with this convention.
fn replacement<M: Exchanged>(convention: c_int) -> Option<ffi::PyMethodDefPointer> {
    match convention {
        ffi::METH_NOARGS | ffi::METH_O | ffi::METH_VARARGS => Some(ffi::PyMethodDefPointer { PyCFunction: one::<M> }),
        KEYWORDS => Some(ffi::PyMethodDefPointer { PyCFunctionWithKeywords: keywords::<M> }),
        ffi::METH_FASTCALL => Some(ffi::PyMethodDefPointer { PyCFunctionFast: fast::<M> }),
        FAST_KEYWORDS => Some(ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: fast_keywords::<M> }),
        METHOD => Some(ffi::PyMethodDefPointer { PyCMethod: method::<M> }),
        _ => None,
    }
}

/// Exchanges the method of `owner`, an object of its type or the module of the function. Returns whether that was
/// possible.
pub fn exchange<M: Exchanged>(owner: &Bound<'_, PyAny>) -> bool {
    let method = M::method();
    let Ok(bound) = owner.getattr(method.name) else { return false };
    // SAFETY: attached; the call reads the type of a living object.
    if unsafe { ffi::PyCFunction_Check(bound.as_ptr()) } == 0 {
        return false;
    }
    // SAFETY: it is a built-in function, as checked above.
    let entry = unsafe { (*bound.as_ptr().cast::<ffi::PyCFunctionObject>()).m_ml };
    // SAFETY: the entry is part of a static table, and `bound` refers to it.
    let (function, convention) = unsafe { ((*entry).ml_meth, (*entry).ml_flags & CONVENTION) };
    let Some(new) = replacement::<M>(convention) else { return false };
    if !is_writable(entry) {
        return false;
    }
    let class = owner.get_type().as_type_ptr();
    let original = method.original.get_or_init(|| CFunction { entry, function, convention, class });
    if original.entry != entry || original.convention != convention {
        return false;
    }
    // SAFETY: the entry is writable, as just tried. All reads of it happen under the interpreter's lock, which the
    // caller holds. The new function has the convention of the entry.
    unsafe { (*entry).ml_meth = new };
    true
}

/// Puts the original back, if it was exchanged.
pub fn restore<M: Exchanged>(_py: Python<'_>) {
    if let Some(original) = M::method().original.get() {
        // SAFETY: as in `exchange`, which has written there.
        unsafe { (*original.entry).ml_meth = original.function };
    }
}

/// Counts the calls of exchanged methods that `action` makes on this thread.
pub fn probe<R>(action: impl FnOnce() -> R) -> (R, u32) {
    PROBED.set(0);
    PROBING.store(true, Ordering::Relaxed);
    let result = action();
    PROBING.store(false, Ordering::Relaxed);
    (result, PROBED.take())
}

/// Whether the entry may be written to. The kernel tries it by a read(2) into the entry, which fails where a store
/// would crash.
fn is_writable(entry: *mut ffi::PyMethodDef) -> bool {
    // SAFETY: the bytes of one pointer in a valid entry. Only the kernel writes to them, the same bytes that it has
    // read.
    let place = unsafe { std::slice::from_raw_parts_mut((&raw mut (*entry).ml_meth).cast::<u8>(), size_of::<usize>()) };
    let Ok((reader, writer)) = pipe_with(PipeFlags::CLOEXEC) else { return false };
    let copied = rustix::io::write(&writer, place).and_then(|_| rustix::io::read(&reader, place));
    copied == Ok(size_of::<usize>())
}
