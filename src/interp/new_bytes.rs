//! A `bytes` object that is filled before Python sees it.

#![expect(unsafe_code, reason = "pyo3 has bytes objects of unwritten memory only for one call that fills them whole")]

use std::convert::Infallible;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A new `bytes` object of a fixed size. Memory that nothing was written to costs nothing but addresses.
pub struct NewBytes {
    /// No other reference to it exists, since `finish` alone gives one away.
    object: Py<PyBytes>,
    size: usize,
    /// The first bytes, this many, have been written.
    filled: usize,
}

impl NewBytes {
    /// An object of this many bytes.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(py: Python<'_>, size: usize) -> PyResult<NewBytes> {
        let length = ffi::Py_ssize_t::try_from(size)?;
        // SAFETY: attached. Without bytes to copy, CPython makes an object whose content its caller is to write.
        let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), length) };
        // SAFETY: a new reference to a bytes object, or null with an exception set.
        let object = unsafe { Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked::<PyBytes>() };
        Ok(NewBytes { object: object.unbind(), size, filled: 0 })
    }

    /// Whether every byte has been written.
    pub fn is_full(&self) -> bool {
        self.filled == self.size
    }

    /// The bytes that have been written.
    pub fn filled<'a>(&'a self, py: Python<'a>) -> &'a [u8] {
        // SAFETY: the object has `size` bytes, and the first `filled` have been written. Writing borrows `self`
        // exclusively.
        unsafe { std::slice::from_raw_parts(self.start(py), self.filled) }
    }

    /// Lets `fill` write to the memory that is not yet written. `fill` returns the part that it wrote, which begins where
    /// its argument does, and may run detached.
    ///
    /// # Errors
    /// The error of `fill`. Nothing counts as written then.
    pub fn fill<E>(
        &mut self,
        py: Python<'_>,
        fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], E>,
    ) -> Result<(), E> {
        let rest = self.size - self.filled;
        let start = self.start(py).wrapping_add(self.filled);
        // SAFETY: `rest` bytes of the object follow `start`. The object lives as long as `self`, which has the
        // only reference to it and is borrowed exclusively, so that no other slice of it exists.
        let written = fill(unsafe { std::slice::from_raw_parts_mut(start.cast(), rest) })?;
        // A slice of bytes has been written. Another one than the argument's start is not counted.
        if written.as_ptr() == start.cast_const() {
            self.filled += written.len().min(rest);
        }
        Ok(())
    }

    /// Writes as much of `data` as there is room for.
    pub fn append(&mut self, py: Python<'_>, data: &[u8]) {
        let Ok(()) = self.fill(py, |memory| {
            let count = data.len().min(memory.len());
            let data = data.get(..count).unwrap_or_default();
            Ok::<_, Infallible>(memory.get_mut(..count).unwrap_or_default().write_copy_of_slice(data))
        });
    }

    /// The object, with the bytes that have been written.
    pub fn finish(self, py: Python<'_>) -> Bound<'_, PyBytes> {
        if self.is_full() { self.object.into_bound(py) } else { PyBytes::new(py, self.filled(py)) }
    }

    fn start(&self, _py: Python<'_>) -> *mut u8 {
        // SAFETY: attached, and the object is a bytes object, which keeps its memory for its whole life.
        unsafe { ffi::PyBytes_AsString(self.object.as_ptr()) }.cast()
    }
}
