//! Attributes of classes in C, which Python code cannot set.

#![expect(unsafe_code, reason = "the flag that keeps Python code from setting attributes of a class")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyType};

/// Sets an attribute of a class, including a class that is marked as immutable. Existing objects find it, too.
///
/// `type.__setattr__` does the work. It updates the slots of the class and its subclasses, and every cache of methods.
///
/// # Errors
/// TypeError for a class that is not allocated on the heap, and the errors of `setattr`.
pub fn set_attribute(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let _mutable = Mutable::new(class);
    class.setattr(name, value)
}

/// A class whose attributes can be set until this is dropped.
struct Mutable<'a, 'py> {
    class: &'a Bound<'py, PyType>,
    was_immutable: bool,
}

impl<'a, 'py> Mutable<'a, 'py> {
    fn new(class: &'a Bound<'py, PyType>) -> Mutable<'a, 'py> {
        let heap = ffi::Py_TPFLAGS_HEAPTYPE | ffi::Py_TPFLAGS_IMMUTABLETYPE;
        // SAFETY: attached, as `class` shows. All reads and writes of the flags happen under the interpreter's lock,
        // and this reference ends before the lock can be released.
        let flags = unsafe { &mut (*class.as_type_ptr()).tp_flags };
        // A static class is shared by all interpreters, and its slots cannot be updated: setattr refuses it.
        let was_immutable = *flags & heap == heap;
        if was_immutable {
            *flags &= !ffi::Py_TPFLAGS_IMMUTABLETYPE;
        }
        Mutable { class, was_immutable }
    }
}

impl Drop for Mutable<'_, '_> {
    fn drop(&mut self) {
        if self.was_immutable {
            // SAFETY: as in `new`; `class` is borrowed for as long as this lives.
            unsafe { (*self.class.as_type_ptr()).tp_flags |= ffi::Py_TPFLAGS_IMMUTABLETYPE };
        }
    }
}
