//! Python functions in the place of built-in ones.
//!
//! A built-in function that is an attribute of a class binds no instance (`class A: sleep = time.sleep`). A function
//! written in Python becomes a method there, and gets the instance as its first argument. Therefore a built-in function
//! is replaced by another one. It has the name, the documentation and the module of the original, by which it is
//! pickled, too.

#![expect(unsafe_code, reason = "built-in functions are made and called through pointers")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

/// The number of functions that can be replaced: the places of [`FUNCTIONS`] and [`ENTRIES`]. The patches have some 50.
const MOST: usize = 96;

static FUNCTIONS: [OnceLock<Py<PyAny>>; MOST] = [const { OnceLock::new() }; MOST];
static USED: AtomicUsize = AtomicUsize::new(0);

macro_rules! entries {
    ($($number:literal)*) => { [$(enter::<$number>),*] };
}

static ENTRIES: [ffi::PyCFunctionFastWithKeywords; MOST] = entries!(
    0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
    32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63
    64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95
);

/// Makes a built-in function like `original` that calls `function`. Both live for ever.
///
/// # Errors
/// TypeError if `original` is no built-in function, RuntimeError if too many are replaced.
pub fn as_builtin<'py>(original: &Bound<'py, PyAny>, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, as the object shows; the call reads its type.
    if unsafe { ffi::PyCFunction_Check(original.as_ptr()) } == 0 {
        return Err(PyTypeError::new_err("not a built-in function"));
    }
    let number = USED.fetch_add(1, Ordering::Relaxed);
    let (Some(place), Some(&entry)) = (FUNCTIONS.get(number), ENTRIES.get(number)) else {
        return Err(PyRuntimeError::new_err("too many functions are replaced"));
    };
    let _ = place.set(function.clone().unbind());
    // SAFETY: attached, and the object is a built-in function, as checked above, whose definition lives as long as
    // itself.
    let (like, owner) = unsafe {
        let original = &*original.as_ptr().cast::<ffi::PyCFunctionObject>();
        (*original.m_ml, original.m_self)
    };
    // Leaked: a built-in function refers to its definition as long as it lives, which is for ever.
    let definition = Box::leak(Box::new(ffi::PyMethodDef {
        ml_name: like.ml_name,
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: entry },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: like.ml_doc,
    }));
    let module = original.getattr("__module__")?;
    // SAFETY: attached; all arguments are valid (the owner may be null). The result is a new reference, or null with an
    // exception set.
    unsafe { Bound::from_owned_ptr_or_err(original.py(), ffi::PyCFunction_NewEx(definition, owner, module.as_ptr())) }
}

/// The function in C that the interpreter calls for the replacement at place `NUMBER`.
unsafe extern "C" fn enter<const NUMBER: usize>(
    _owner: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let Some(function) = FUNCTIONS.get(NUMBER).and_then(OnceLock::get) else { return std::ptr::null_mut() };
    // SAFETY: the interpreter calls this function, attached and with arguments of its convention; `function` lives for
    // ever.
    unsafe { ffi::PyObject_Vectorcall(function.as_ptr(), args, count.cast_unsigned(), names) }
}

unsafe extern "C" {
    // Include/cpython/classobject.h; missing in pyo3-ffi.
    fn PyInstanceMethod_New(function: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Makes a callable a method: as an attribute of a class it binds the instance, which a built-in function does not.
///
/// # Errors
/// MemoryError.
pub fn as_method<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, as the object shows. The result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), PyInstanceMethod_New(function.as_ptr())) }
}
