//! Methods of CPython's own types, exchanged in place.
//!
//! A built-in method is an entry of a static table (`PyMethodDef`), which every bound method, every descriptor and every
//! warm call site reads at each call. So exchanging the function in the entry reaches what was made, bound or compiled
//! before, and no module or class changes. Both structures are public (Include/methodobject.h and
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
use pyo3::types::{PyDict, PyTuple};
use rustix::pipe::{PipeFlags, pipe_with};

use super::lines;
use crate::event_loop;

/// The flags that decide how a function is called.
const CONVENTION: c_int = ffi::METH_VARARGS
    | ffi::METH_KEYWORDS
    | ffi::METH_NOARGS
    | ffi::METH_O
    | ffi::METH_CLASS
    | ffi::METH_STATIC
    | ffi::METH_FASTCALL
    | ffi::METH_METHOD;
const KEYWORDS: c_int = ffi::METH_VARARGS | ffi::METH_KEYWORDS;
const FAST_KEYWORDS: c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
const METHOD: c_int = ffi::METH_METHOD | FAST_KEYWORDS;

thread_local! {
    /// Calls that have come here on this thread while the self-test ran.
    static PROBED: Cell<u32> = const { Cell::new(0) };
}

static PROBING: AtomicBool = AtomicBool::new(false);

/// Whom a call wakes when it has returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wakes {
    /// No waiter.
    Nobody,
    /// The first coroutine that waits for the object, unless it is awake already.
    First,
    /// The first coroutine that waits for the object and is not awake.
    Next,
}

/// What a method does on the loop thread.
pub type Here = fn(&NativeCall<'_>) -> PyResult<Py<PyAny>>;

/// An exchanged method.
pub struct Method {
    name: &'static str,
    wakes: Wakes,
    here: Option<Here>,
    original: OnceLock<Original>,
}

impl Method {
    /// `here` is called instead of the original on the loop thread.
    pub const fn new(name: &'static str, wakes: Wakes, here: Option<Here>) -> Method {
        Method { name, wakes, here, original: OnceLock::new() }
    }

    /// Calls the original with other arguments.
    ///
    /// # Errors
    /// What it raises.
    pub fn invoke<'py>(
        &self,
        object: &Bound<'py, PyAny>,
        arguments: &[&Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let original = self.original.get().ok_or_else(|| PySystemError::new_err("this method was not exchanged"))?;
        // SAFETY: attached; the object is of the method's type; a new reference or null with an exception set.
        unsafe { Bound::from_owned_ptr_or_err(object.py(), original.invoke(object.as_ptr(), arguments)) }
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

struct Original {
    entry: *mut ffi::PyMethodDef,
    function: ffi::PyMethodDefPointer,
    convention: c_int,
    class: *mut ffi::PyTypeObject,
}

// SAFETY: pointers to static data and functions of the interpreter; used with the interpreter attached.
unsafe impl Send for Original {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Original {}

/// The arguments of a call, as the interpreter has passed them.
#[derive(Clone, Copy)]
enum Raw {
    One(*mut ffi::PyObject),
    Keywords(*mut ffi::PyObject, *mut ffi::PyObject),
    Fast(*const *mut ffi::PyObject, ffi::Py_ssize_t),
    FastKeywords(*const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject),
    Method(*mut ffi::PyTypeObject, *const *mut ffi::PyObject, ffi::Py_ssize_t, *mut ffi::PyObject),
}

impl Original {
    /// # Safety
    /// Attached; the arguments are those that the interpreter has passed to the exchanged function.
    #[inline]
    unsafe fn call(&self, object: *mut ffi::PyObject, raw: Raw) -> *mut ffi::PyObject {
        // SAFETY: the convention of the exchanged function is that of the original, and so is that of the arguments.
        unsafe {
            match raw {
                Raw::One(argument) => (self.function.PyCFunction)(object, argument),
                Raw::Keywords(args, kwargs) => (self.function.PyCFunctionWithKeywords)(object, args, kwargs),
                Raw::Fast(args, count) => (self.function.PyCFunctionFast)(object, args.cast_mut(), count),
                Raw::FastKeywords(args, count, names) => {
                    (self.function.PyCFunctionFastWithKeywords)(object, args, count, names)
                }
                Raw::Method(class, args, count, names) => (self.function.PyCMethod)(object, class, args, count, names),
            }
        }
    }

    /// # Safety
    /// Attached; `object` is of the method's type.
    unsafe fn invoke(&self, object: *mut ffi::PyObject, arguments: &[&Bound<'_, PyAny>]) -> *mut ffi::PyObject {
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
            return tuple;
        }
        for (index, &pointer) in (0..count).zip(&pointers).filter(|_| in_tuple) {
            // SAFETY: within the new tuple, which steals the reference.
            unsafe {
                ffi::Py_INCREF(pointer);
                ffi::PyTuple_SetItem(tuple, index, pointer);
            }
        }
        let raw = match self.convention {
            KEYWORDS => Raw::Keywords(tuple, ptr::null_mut()),
            ffi::METH_VARARGS => Raw::One(tuple),
            ffi::METH_FASTCALL => Raw::Fast(pointers.as_ptr(), count),
            FAST_KEYWORDS => Raw::FastKeywords(pointers.as_ptr(), count, ptr::null_mut()),
            METHOD => Raw::Method(self.class, pointers.as_ptr(), count, ptr::null_mut()),
            _ => Raw::One(first),
        };
        // SAFETY: the arguments are as the convention has them, and live until the call returns.
        let result = unsafe { self.call(object, raw) };
        // SAFETY: the tuple made above, or null.
        unsafe { ffi::Py_XDECREF(tuple) };
        result
    }
}

/// A call of an exchanged method on the loop thread.
pub struct NativeCall<'py> {
    object: Bound<'py, PyAny>,
    raw: Raw,
    original: &'static Original,
}

impl<'py> NativeCall<'py> {
    /// The object whose method it is.
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
    /// What it raises.
    pub fn original(&self) -> PyResult<Py<PyAny>> {
        // SAFETY: attached; the arguments are those of the call in progress; a new reference or null with an exception.
        unsafe { Bound::from_owned_ptr_or_err(self.py(), self.original.call(self.object.as_ptr(), self.raw)) }
            .map(Bound::unbind)
    }

    /// Whether there are no arguments.
    pub fn is_bare(&self) -> bool {
        match self.raw {
            Raw::One(argument) if self.original.convention == ffi::METH_VARARGS => self.tuple(argument).is_empty(),
            Raw::One(argument) => argument.is_null(),
            Raw::Keywords(args, kwargs) => {
                self.tuple(args).is_empty() && self.dict(kwargs).is_none_or(|kwargs| kwargs.is_empty())
            }
            Raw::Fast(_, count) => count == 0,
            Raw::FastKeywords(_, count, names) | Raw::Method(_, _, count, names) => count == 0 && names.is_null(),
        }
    }

    /// The values of the parameters `names`, all of which may be given by position. None for a call that does not fit.
    ///
    /// # Errors
    /// What a dictionary raises.
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
            Raw::One(argument) if self.original.convention == ffi::METH_VARARGS => {
                Ok((self.tuple(argument).iter().collect(), Vec::new()))
            }
            Raw::One(argument) => {
                // SAFETY: attached; a borrowed reference or null.
                let argument = unsafe { Bound::from_borrowed_ptr_or_opt(self.py(), argument) };
                Ok((argument.into_iter().collect(), Vec::new()))
            }
            Raw::Keywords(args, kwargs) => {
                let keywords = self.dict(kwargs).map(|kwargs| {
                    kwargs.iter().map(|(name, value)| Ok((name.extract()?, value))).collect::<PyResult<Vec<_>>>()
                });
                Ok((self.tuple(args).iter().collect(), keywords.transpose()?.unwrap_or_default()))
            }
            Raw::Fast(args, count) => Ok((self.values(args, 0, count), Vec::new())),
            Raw::FastKeywords(args, count, names) | Raw::Method(_, args, count, names) => {
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

/// What the exchanged functions do. Off the loop thread it is the original, and a look whether a coroutine waits.
///
/// # Safety
/// The interpreter calls it: attached, with arguments in the method's convention.
#[inline]
unsafe fn enter<M: Exchanged>(object: *mut ffi::PyObject, raw: Raw) -> *mut ffi::PyObject {
    let method = M::method();
    let Some(original) = method.original.get() else { return ptr::null_mut() };
    let is_here = event_loop::is_loop_thread();
    let result = match method.here {
        // SAFETY: as the caller promises.
        Some(here) if is_here => unsafe { enter_here(here, object, raw, original) },
        // SAFETY: as the caller promises.
        _ => unsafe { original.call(object, raw) },
    };
    if method.wakes != Wakes::Nobody && lines::is_anyone_waiting() && !result.is_null() {
        lines::wake(object.addr(), method.wakes == Wakes::Next);
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
    raw: Raw,
    original: &'static Original,
) -> *mut ffi::PyObject {
    Python::attach(|py| {
        // SAFETY: attached; the caller holds the object for the length of the call.
        let call = NativeCall { object: unsafe { Bound::from_borrowed_ptr(py, object) }, raw, original };
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
    // SAFETY: the interpreter calls this.
    unsafe { enter::<M>(object, Raw::One(argument)) }
}

unsafe extern "C" fn keywords<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this.
    unsafe { enter::<M>(object, Raw::Keywords(args, kwargs)) }
}

unsafe extern "C" fn fast<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this.
    unsafe { enter::<M>(object, Raw::Fast(args, count)) }
}

unsafe extern "C" fn fast_keywords<M: Exchanged>(
    object: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this.
    unsafe { enter::<M>(object, Raw::FastKeywords(args, count, names)) }
}

unsafe extern "C" fn method<M: Exchanged>(
    object: *mut ffi::PyObject,
    class: *mut ffi::PyTypeObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this.
    unsafe { enter::<M>(object, Raw::Method(class, args, count, names)) }
}

/// The function that takes the place of one with this convention.
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

/// Exchanges the method of `owner`, an object of its type or the module of the function. Returns whether that was possible.
pub fn exchange<M: Exchanged>(owner: &Bound<'_, PyAny>) -> bool {
    let method = M::method();
    let Ok(bound) = owner.getattr(method.name) else { return false };
    // SAFETY: attached; a check of the object's type.
    if unsafe { ffi::PyCFunction_Check(bound.as_ptr()) } == 0 {
        return false;
    }
    // SAFETY: it is such an object, and its entry is static.
    let entry = unsafe { (*bound.as_ptr().cast::<ffi::PyCFunctionObject>()).m_ml };
    // SAFETY: as above.
    let (function, convention) = unsafe { ((*entry).ml_meth, (*entry).ml_flags & CONVENTION) };
    let Some(new) = replacement::<M>(convention) else { return false };
    if !is_writable(entry) {
        return false;
    }
    let class = owner.get_type().as_type_ptr();
    let original = method.original.get_or_init(|| Original { entry, function, convention, class });
    if original.entry != entry || original.convention != convention {
        return false;
    }
    // SAFETY: writable, as has been tried; whoever calls through the entry is attached, and so is the caller.
    unsafe { (*entry).ml_meth = new };
    true
}

/// Puts the original back, if it was exchanged.
pub fn restore<M: Exchanged>(_py: Python<'_>) {
    if let Some(original) = M::method().original.get() {
        // SAFETY: `exchange` has written there.
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

/// Whether the entry may be written to. The kernel tries, so that there is an answer where a store would crash.
fn is_writable(entry: *mut ffi::PyMethodDef) -> bool {
    // SAFETY: the bytes of a pointer in a valid entry.
    let place = unsafe { std::slice::from_raw_parts_mut((&raw mut (*entry).ml_meth).cast::<u8>(), size_of::<usize>()) };
    let Ok((reader, writer)) = pipe_with(PipeFlags::CLOEXEC) else { return false };
    let copied = rustix::io::write(&writer, place).and_then(|_| rustix::io::read(&reader, place));
    copied == Ok(size_of::<usize>())
}
