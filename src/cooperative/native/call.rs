//! Calls of functions in C, in each of CPython's calling conventions (Include/methodobject.h).

#![expect(unsafe_code, reason = "functions of CPython's are called by their pointers")]

use std::ffi::c_int;
use std::ptr;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// The flags that decide how a function is called.
pub const CONVENTION: c_int = ffi::METH_VARARGS
    | ffi::METH_KEYWORDS
    | ffi::METH_NOARGS
    | ffi::METH_O
    | ffi::METH_CLASS
    | ffi::METH_STATIC
    | ffi::METH_FASTCALL
    | ffi::METH_METHOD;
/// The convention of METH_VARARGS | METH_KEYWORDS.
pub const KEYWORDS: c_int = ffi::METH_VARARGS | ffi::METH_KEYWORDS;
/// The convention of METH_FASTCALL | METH_KEYWORDS.
pub const FAST_KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
/// The convention of METH_METHOD | METH_FASTCALL | METH_KEYWORDS.
pub const METHOD: c_int = ffi::METH_METHOD | FAST_KEYWORDS;

/// A function in C of CPython's, as the entry of a static table had it.
pub struct CFunction {
    /// The entry.
    pub entry: *mut ffi::PyMethodDef,
    /// The function.
    pub function: ffi::PyMethodDefPointer,
    /// The flags of its calling convention.
    pub convention: c_int,
    /// The class of the objects that it is called with. A static class, or one that lives as long as the process.
    pub class: *mut ffi::PyTypeObject,
}

// SAFETY: all pointers are to static data, functions and classes that live as long as the process, and every use of a
// pointer requires an attached thread state.
unsafe impl Send for CFunction {}
// SAFETY: as above; the fields never change.
unsafe impl Sync for CFunction {}

/// The arguments of a call, as the interpreter has passed them.
#[derive(Clone, Copy)]
pub enum RawArguments {
    /// METH_NOARGS (null), METH_O (the argument) or METH_VARARGS (a tuple).
    One(*mut ffi::PyObject),
    /// A tuple, and a dictionary or null.
    Keywords(*mut ffi::PyObject, *mut ffi::PyObject),
    /// An array and its length.
    Fast(*const *mut ffi::PyObject, ffi::Py_ssize_t),
    /// An array, the number of positional arguments, and a tuple of the names of the others or null.
    FastKeywords(*const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject),
    /// The class that defines the method, and as above.
    Method(*mut ffi::PyTypeObject, *const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject),
}

impl CFunction {
    /// Calls the function.
    ///
    /// # Safety
    /// Attached; `object` and the arguments are those that the interpreter passes to a function of this convention.
    #[inline]
    pub unsafe fn call(&self, object: *mut ffi::PyObject, raw: RawArguments) -> *mut ffi::PyObject {
        // SAFETY: the arguments are of the function's convention, as the caller promises.
        unsafe {
            match raw {
                RawArguments::One(argument) => (self.function.PyCFunction)(object, argument),
                RawArguments::Keywords(args, kwargs) => (self.function.PyCFunctionWithKeywords)(object, args, kwargs),
                RawArguments::Fast(args, count) => (self.function.PyCFunctionFast)(object, args.cast_mut(), count),
                RawArguments::FastKeywords(args, count, names) => {
                    (self.function.PyCFunctionFastWithKeywords)(object, args, count, names)
                }
                RawArguments::Method(class, args, count, names) => {
                    (self.function.PyCMethod)(object, class, args, count, names)
                }
            }
        }
    }

    /// The class of `object`, or its base, that the function belongs to. A module in C that is imported a second time has
    /// another class of the same layout, and shares the function.
    fn class_of(&self, object: &Bound<'_, PyAny>) -> Option<*mut ffi::PyTypeObject> {
        let mut class = object.get_type_ptr();
        while !class.is_null() {
            // SAFETY: attached; both are classes, alive as long as their objects, and so are their bases.
            let (known, candidate) = unsafe { (&*self.class, &*class) };
            let is_twin = candidate.tp_dealloc.map(|end| end as usize) == known.tp_dealloc.map(|end| end as usize)
                && candidate.tp_basicsize == known.tp_basicsize;
            if class == self.class || is_twin {
                return Some(class);
            }
            class = candidate.tp_base;
        }
        None
    }

    /// Calls the function with positional arguments.
    ///
    /// # Errors
    /// TypeError for an object of another class, and what the function raises.
    pub fn invoke<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        arguments: &[&Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let class = self.class_of(object).ok_or_else(|| PyTypeError::new_err("the object is of another class"))?;
        let pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
        let first = pointers.first().copied().unwrap_or(ptr::null_mut());
        let count = ffi::Py_ssize_t::try_from(pointers.len()).unwrap_or(0);
        let in_tuple = self.convention & ffi::METH_VARARGS != 0;
        let tuple = if in_tuple {
            // SAFETY: attached; a new tuple, or null with an exception set.
            unsafe { ffi::PyTuple_New(count) }
        } else {
            ptr::null_mut()
        };
        if in_tuple && tuple.is_null() {
            return Err(PyErr::fetch(object.py()));
        }
        for (index, &pointer) in (0..count).zip(&pointers).filter(|_| in_tuple) {
            // SAFETY: within the new tuple, which steals the reference.
            unsafe {
                ffi::Py_INCREF(pointer);
                ffi::PyTuple_SetItem(tuple, index, pointer);
            }
        }
        let raw = match self.convention {
            KEYWORDS => RawArguments::Keywords(tuple, ptr::null_mut()),
            ffi::METH_VARARGS => RawArguments::One(tuple),
            ffi::METH_FASTCALL => RawArguments::Fast(pointers.as_ptr(), count),
            FAST_KEYWORDS => RawArguments::FastKeywords(pointers.as_ptr(), count, ptr::null_mut()),
            METHOD => RawArguments::Method(class, pointers.as_ptr(), count, ptr::null_mut()),
            _ => RawArguments::One(first),
        };
        // SAFETY: `object` is of the function's class, as checked above; the arguments are of its convention and live
        // until the call returns.
        let result = unsafe { self.call(object.as_ptr(), raw) };
        // SAFETY: the tuple made above, or null.
        unsafe { ffi::Py_XDECREF(tuple) };
        // SAFETY: attached; a new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(object.py(), result) }
    }
}

/// A call of an exchanged method on the loop thread.
pub struct NativeCall<'py> {
    object: Bound<'py, PyAny>,
    raw: RawArguments,
    original: &'static CFunction,
}

impl<'py> NativeCall<'py> {
    /// The call of `original` with an object and arguments.
    ///
    /// # Safety
    /// `object` and `raw` are what the interpreter has passed to a function of the original's convention. The call that
    /// it makes lasts longer than this value.
    pub unsafe fn new(object: Bound<'py, PyAny>, raw: RawArguments, original: &'static CFunction) -> NativeCall<'py> {
        NativeCall { object, raw, original }
    }

    /// The object whose method is called.
    pub fn object(&self) -> &Bound<'py, PyAny> {
        &self.object
    }

    /// The interpreter.
    pub fn py(&self) -> Python<'py> {
        self.object.py()
    }

    /// Calls the original with the same arguments.
    ///
    /// # Errors
    /// The errors of the function.
    pub fn original(&self) -> PyResult<Py<PyAny>> {
        // SAFETY: attached. Object and arguments are those of the call in progress, as `new` requires. The result is a
        // new reference, or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(self.py(), self.original.call(self.object.as_ptr(), self.raw)) }
            .map(Bound::unbind)
    }

    /// Whether the call has no arguments.
    pub fn is_bare(&self) -> bool {
        match self.raw {
            RawArguments::One(argument) if self.original.convention == ffi::METH_VARARGS => {
                self.tuple(argument).is_empty()
            }
            RawArguments::One(argument) => argument.is_null(),
            RawArguments::Keywords(args, kwargs) => {
                self.tuple(args).is_empty() && self.dict(kwargs).is_none_or(|kwargs| kwargs.is_empty())
            }
            RawArguments::Fast(_, count) => count == 0,
            RawArguments::FastKeywords(_, count, names) | RawArguments::Method(_, _, count, names) => {
                count == 0 && names.is_null()
            }
        }
    }

    /// The values of the parameters `names`, which may all be given by position. None for arguments that do not fit.
    ///
    /// # Errors
    /// The errors of a dictionary.
    pub fn arguments<const N: usize>(&self, names: [&str; N]) -> PyResult<Option<[Option<Bound<'py, PyAny>>; N]>> {
        let (positional, keywords) = self.split()?;
        let mut values: [Option<Bound<'py, PyAny>>; N] = [const { None }; N];
        if positional.len() > N {
            return Ok(None);
        }
        for (value, given) in values.iter_mut().zip(positional) {
            *value = Some(given);
        }
        for (name, given) in keywords {
            let index = names.iter().position(|known| *known == name);
            match index.and_then(|index| values.get_mut(index)) {
                Some(value) if value.is_none() => *value = Some(given),
                _ => return Ok(None),
            }
        }
        Ok(Some(values))
    }

    #[expect(clippy::type_complexity, reason = "positional arguments, then those with names")]
    fn split(&self) -> PyResult<(Vec<Bound<'py, PyAny>>, Vec<(String, Bound<'py, PyAny>)>)> {
        match self.raw {
            RawArguments::One(argument) if self.original.convention == ffi::METH_VARARGS => {
                Ok((self.tuple(argument).iter().collect(), Vec::new()))
            }
            RawArguments::One(argument) => {
                // SAFETY: attached; a borrowed reference or null.
                let argument = unsafe { Bound::from_borrowed_ptr_or_opt(self.py(), argument) };
                Ok((argument.into_iter().collect(), Vec::new()))
            }
            RawArguments::Keywords(args, kwargs) => {
                let keywords = self.dict(kwargs).map(|kwargs| {
                    kwargs.iter().map(|(name, value)| Ok((name.extract()?, value))).collect::<PyResult<Vec<_>>>()
                });
                Ok((self.tuple(args).iter().collect(), keywords.transpose()?.unwrap_or_default()))
            }
            RawArguments::Fast(args, count) => Ok((self.values(args, 0, count), Vec::new())),
            RawArguments::FastKeywords(args, count, names) | RawArguments::Method(_, args, count, names) => {
                let mut keywords = Vec::new();
                if !names.is_null() {
                    let names = self.tuple(names);
                    let length = ffi::Py_ssize_t::try_from(names.len()).unwrap_or(0);
                    for (name, value) in names.iter().zip(self.values(args, count, length)) {
                        keywords.push((name.extract()?, value));
                    }
                }
                Ok((self.values(args, 0, count), keywords))
            }
        }
    }

    fn tuple(&self, tuple: *mut ffi::PyObject) -> Bound<'py, PyTuple> {
        // SAFETY: attached; the interpreter passes a tuple here, which it keeps for the length of the call.
        unsafe { Bound::from_borrowed_ptr(self.py(), tuple).cast_into_unchecked() }
    }

    fn dict(&self, dict: *mut ffi::PyObject) -> Option<Bound<'py, PyDict>> {
        // SAFETY: attached; the interpreter passes a dictionary or null here, and keeps it for the length of the call.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.py(), dict).map(|dict| dict.cast_into_unchecked()) }
    }

    fn values(
        &self,
        args: *const *mut ffi::PyObject,
        from: ffi::Py_ssize_t,
        count: ffi::Py_ssize_t,
    ) -> Vec<Bound<'py, PyAny>> {
        // SAFETY: the interpreter passes an array that has them all, and keeps it for the length of the call.
        (from..from + count).map(|index| unsafe { Bound::from_borrowed_ptr(self.py(), *args.offset(index)) }).collect()
    }
}
