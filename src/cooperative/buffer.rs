//! Memory that a Python object lends for the length of a call.

#![expect(
    unsafe_code,
    reason = "the buffer protocol: pyo3's wrapper takes bytes only, sockets take any contiguous memory"
)]

use std::ffi::c_int;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;

/// A contiguous buffer, kept from being moved until it is dropped.
pub struct Lent {
    view: Box<ffi::Py_buffer>,
}

impl Lent {
    /// To read from.
    ///
    /// # Errors
    /// TypeError or BufferError for an object that lends none.
    pub fn readable(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
        Lent::new(object, ffi::PyBUF_SIMPLE)
    }

    /// To write to.
    ///
    /// # Errors
    /// TypeError or BufferError for an object that lends none, or none to be written.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
        Lent::new(object, ffi::PyBUF_WRITABLE)
    }

    fn new(object: &Bound<'_, PyAny>, flags: c_int) -> PyResult<Lent> {
        let mut view: Box<MaybeUninit<ffi::Py_buffer>> = Box::new_uninit();
        // SAFETY: attached, as the object shows; the view is written before it is used, or an exception is set.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) } != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        // SAFETY: PyObject_GetBuffer has filled it.
        Ok(Lent { view: unsafe { view.assume_init() } })
    }

    fn length(&self) -> usize {
        usize::try_from(self.view.len).unwrap_or_default()
    }

    /// Its bytes, for the length of a system call.
    pub fn bytes(&self, _py: Python<'_>) -> &[u8] {
        if self.length() == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes there until the release. Other threads that hold the interpreter may
        // change them, as with any buffer of Python's; the kernel only copies.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast::<u8>(), self.length()) }
    }

    /// Its bytes to be written, for the length of a system call.
    pub fn bytes_mut(&mut self, _py: Python<'_>) -> &mut [u8] {
        if self.length() == 0 {
            return &mut [];
        }
        // SAFETY: as above, and asked for as writable.
        unsafe { std::slice::from_raw_parts_mut(self.view.buf.cast::<u8>(), self.length()) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: dropped within the call that took it, attached; released once.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}

unsafe extern "C" {
    // Include/cpython/classobject.h; missing in pyo3-ffi.
    fn PyInstanceMethod_New(function: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Makes a callable a method: on a class it binds the instance, which a built-in function does not do.
///
/// # Errors
/// MemoryError.
pub fn as_method<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: attached, as the object shows; a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), PyInstanceMethod_New(function.as_ptr())) }
}
