//! The buffer protocol: memory that a Python object lends for the length of a call.

#![expect(
    unsafe_code,
    reason = "pyo3's wrapper takes buffers of single elements only, sockets take any contiguous memory"
)]

use std::ffi::c_int;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;

/// A contiguous buffer. Its owner does not move or free it until this is dropped.
pub struct Lent {
    view: Box<ffi::Py_buffer>,
}

impl Lent {
    /// Borrows the memory of `object` to read from it.
    ///
    /// # Errors
    /// TypeError or BufferError for an object without a contiguous buffer.
    pub fn readable(object: &Bound<'_, PyAny>) -> PyResult<Lent> {
        Lent::new(object, ffi::PyBUF_SIMPLE)
    }

    /// Borrows the memory of `object` to write to it.
    ///
    /// # Errors
    /// TypeError or BufferError for an object without a contiguous, writable buffer.
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

    /// The number of bytes.
    pub fn length(&self) -> usize {
        usize::try_from(self.view.len).unwrap_or_default()
    }

    /// The bytes, for the length of a system call.
    pub fn bytes(&self, _py: Python<'_>) -> &[u8] {
        if self.length() == 0 {
            return &[];
        }
        // SAFETY: the exporter keeps `len` bytes there until the release. Python code in another thread could change
        // them only while this thread is detached, and the slice, which the token bounds, is used for one system call.
        unsafe { std::slice::from_raw_parts(self.view.buf.cast::<u8>(), self.length()) }
    }

    /// The bytes as a place to write to, for the length of a system call.
    pub fn bytes_mut(&mut self, _py: Python<'_>) -> &mut [u8] {
        if self.length() == 0 {
            return &mut [];
        }
        // SAFETY: as in `bytes`; the buffer was requested as writable.
        unsafe { std::slice::from_raw_parts_mut(self.view.buf.cast::<u8>(), self.length()) }
    }
}

impl Lent {
    /// Copies `data` to the start of the memory, as far as there is room. Returns the number of bytes.
    pub fn fill(&mut self, py: Python<'_>, data: &[u8]) -> usize {
        let count = data.len().min(self.length());
        if let (Some(room), Some(data)) = (self.bytes_mut(py).get_mut(..count), data.get(..count)) {
            room.copy_from_slice(data);
        }
        count
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: `Lent` is not Send, since the view holds pointers, so it is dropped by the call that made it, which
        // is attached; it is released once.
        unsafe { ffi::PyBuffer_Release(&raw mut *self.view) };
    }
}
