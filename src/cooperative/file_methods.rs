//! Methods of buffered files (`io.BufferedReader` and its kin), for several coroutines.
//!
//! A buffered file has a lock in C, whose owner is an OS thread. To it all coroutines are one thread: the second one gets
//! "reentrant call", and one that waits for a real OS thread blocks the loop. So each method is exchanged for one that
//! first takes a reentrant lock of ours, kept in the `__dict__` of the file. Files on a disk need none, since their calls
//! never park; for those a call costs some 20 ns more.

#![expect(unsafe_code, reason = "methods of classes in C, called for every line of a file")]

use std::ffi::c_int;
use std::sync::OnceLock;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use rustix::fs::{FileType, fstat};

use super::rlock::RLock;
use crate::event_loop;
use crate::kernel::LentDescriptor;

/// Methods that can be exchanged: the places of [`ORIGINALS`] and [`ENTRIES`].
const MOST: usize = 32;

/// Arguments of a call that fit on the stack, the file included. None of the methods takes more than two others.
const FEW: usize = 4;

/// Numbers of descriptors up to this are the standard streams, which may become other files by `dup2`.
const LAST_STANDARD_STREAM: i32 = 2;

static ORIGINALS: [OnceLock<Py<PyAny>>; MOST] = [const { OnceLock::new() }; MOST];

/// `tp_iternext` as it was; that of `io.BufferedReader` and `io.BufferedRandom` is the same function.
static NEXT: OnceLock<ffi::iternextfunc> = OnceLock::new();

/// The key under which a file keeps its lock, or None if it needs none. Interned, never freed.
static KEY: OnceLock<Py<PyString>> = OnceLock::new();

macro_rules! entries {
    ($($number:literal)*) => { [$(enter::<$number>),*] };
}

/// What is called for files that are not on a disk, by the place of the method; none where a turn is taken.
static DETOURS: [OnceLock<Detour>; MOST] = [const { OnceLock::new() }; MOST];

struct Detour {
    function: Py<PyAny>,
    /// Whether OS threads make it, too.
    for_threads: bool,
}

static ENTRIES: [ffi::PyCFunctionFast; MOST] =
    entries!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);

/// A method like `class.name`, a method in C of a buffered file, that one coroutine or thread at a time is in.
///
/// # Errors
/// TypeError for what is no such method, RuntimeError for too many.
pub fn in_turn<'py>(class: &Bound<'py, PyType>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    if KEY.get().is_none() {
        let _ = KEY.set(PyString::intern(py, "_rmeinheld_turn").unbind());
    }
    learn_of_files(py)?;
    let original = class.getattr(name)?;
    let definition = if name == "__next__" { next_definition(class)? } else { method_definition(&original)? };
    // A descriptor refers to its definition for as long as it lives: for ever.
    let definition = Box::leak(Box::new(definition));
    // SAFETY: attached; both arguments are valid, and a new reference or null with an exception comes back.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition)) }
}

/// A method like `class.name`, a method in C of `io.FileIO`, that calls `function` instead of the original for files that
/// are not on a disk: in coroutines, and if `for_threads` in OS threads, too.
///
/// # Errors
/// As [`in_turn`].
pub fn detour<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
    function: &Bound<'py, PyAny>,
    for_threads: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let place = ORIGINALS.iter().position(|place| place.get().is_none()).unwrap_or(MOST);
    let method = in_turn(class, name)?;
    if let Some(detour) = DETOURS.get(place) {
        let _ = detour.set(Detour { function: function.clone().unbind(), for_threads });
    }
    Ok(method)
}

fn next_definition(class: &Bound<'_, PyType>) -> PyResult<ffi::PyMethodDef> {
    // SAFETY: attached, and the class is alive.
    let next = unsafe { (*class.as_type_ptr()).tp_iternext }.ok_or_else(|| PyTypeError::new_err("not an iterator"))?;
    if *NEXT.get_or_init(|| next) as usize != next as usize {
        return Err(PyTypeError::new_err("an iterator of its own kind"));
    }
    Ok(ffi::PyMethodDef {
        ml_name: c"__next__".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: enter_next },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: c"__next__($self, /)\n--\n\nImplement next(self).".as_ptr(),
    })
}

fn method_definition(original: &Bound<'_, PyAny>) -> PyResult<ffi::PyMethodDef> {
    // SAFETY: attached; a type check of a living object.
    if unsafe { ffi::Py_TYPE(original.as_ptr()) } != &raw mut ffi::PyMethodDescr_Type {
        return Err(PyTypeError::new_err(format!("{original} is no method in C")));
    }
    let place = ORIGINALS.iter().position(|place| place.get().is_none());
    let Some((number, entry)) = place.and_then(|number| Some((number, *ENTRIES.get(number)?))) else {
        return Err(PyRuntimeError::new_err("no room for another method"));
    };
    let _ = ORIGINALS[number].set(original.clone().unbind());
    // SAFETY: it is a method descriptor, as was checked; its definition lives as long as its class.
    let old = unsafe { &*(*original.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method };
    Ok(ffi::PyMethodDef {
        ml_name: old.ml_name,
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: entry },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: old.ml_doc,
    })
}

/// The body of an exchanged method.
///
/// # Safety
/// Called by the interpreter, attached, as METH_FASTCALL wants it.
///
/// # Parks
unsafe extern "C" fn enter<const N: usize>(
    file: *mut ffi::PyObject,
    arguments: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    let call = || {
        let Some(original) = ORIGINALS[N].get() else { return std::ptr::null_mut() };
        let original = match DETOURS[N].get() {
            // SAFETY: as the caller's.
            Some(detour) if unsafe { is_detour_due(detour, file) } => &detour.function,
            _ => original,
        };
        let count = usize::try_from(count).unwrap_or_default();
        if count < FEW {
            let mut all = [std::ptr::null_mut(); FEW];
            all[0] = file;
            // SAFETY: `count` arguments are there, and room for so many behind the first.
            unsafe { std::ptr::copy_nonoverlapping(arguments, all.as_mut_ptr().add(1), count) };
            // SAFETY: `count + 1` valid objects, kept alive by the caller.
            return unsafe {
                ffi::PyObject_Vectorcall(original.as_ptr(), all.as_ptr(), count + 1, std::ptr::null_mut())
            };
        }
        // Too many in any case; the original says so.
        let mut all = vec![file];
        // SAFETY: as above.
        all.extend_from_slice(unsafe { std::slice::from_raw_parts(arguments, count) });
        // SAFETY: as above.
        unsafe { ffi::PyObject_Vectorcall(original.as_ptr(), all.as_ptr(), all.len(), std::ptr::null_mut()) }
    };
    if DETOURS[N].get().is_some() {
        return call();
    }
    // SAFETY: as the caller's.
    unsafe { within_turn(file, call) }
}

/// # Safety
/// Attached; `file` is a `FileIO`.
unsafe fn is_detour_due(detour: &Detour, file: *mut ffi::PyObject) -> bool {
    if !detour.for_threads && !event_loop::can_park() {
        return false;
    }
    // SAFETY: as the caller's.
    match unsafe { descriptor_of(file) } {
        Some(number) => number >= 0 && !is_regular(number),
        None => true,
    }
}

/// The start of `fileio` in Modules/_io/fileio.c, the same since Python 3.0.
#[repr(C)]
struct FileObject {
    head: ffi::PyObject,
    descriptor: c_int,
}

/// The descriptor of a `FileIO`, negative for a closed one; none where the structure is not as above.
///
/// # Safety
/// Attached; `file` is a `FileIO`.
unsafe fn descriptor_of(file: *mut ffi::PyObject) -> Option<c_int> {
    // SAFETY: as the caller's; that the field is there has been tried.
    FILES.get().is_some_and(|files| files.holds).then(|| unsafe { (*file.cast::<FileObject>()).descriptor })
}

/// `io.FileIO`, and whether its structure is as above.
struct Files {
    class: Py<PyAny>,
    holds: bool,
}

static FILES: OnceLock<Files> = OnceLock::new();

fn learn_of_files(py: Python<'_>) -> PyResult<()> {
    if FILES.get().is_some() {
        return Ok(());
    }
    let class = py.import("io")?.getattr("FileIO")?;
    let probe = class.call1(("/dev/null",))?;
    // SAFETY: attached, and a FileIO, which is at least as large as the fields that it must have.
    let found = unsafe { (*probe.as_ptr().cast::<FileObject>()).descriptor };
    let mut holds = probe.call_method0("fileno")?.extract::<c_int>()? == found;
    probe.call_method0("close")?;
    // SAFETY: as above.
    holds &= unsafe { (*probe.as_ptr().cast::<FileObject>()).descriptor } < 0;
    let _ = FILES.set(Files { class: class.unbind(), holds });
    Ok(())
}

fn is_regular(number: c_int) -> bool {
    LentDescriptor::new(number)
        .and_then(fstat)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}

/// `__next__`.
///
/// # Safety
/// Called by the interpreter, attached, as METH_NOARGS wants it.
///
/// # Parks
unsafe extern "C" fn enter_next(file: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let call = || {
        let Some(next) = NEXT.get() else { return std::ptr::null_mut() };
        // SAFETY: the slot of the class that the descriptor belongs to, which has checked the type of `file`.
        let item = unsafe { next(file) };
        // SAFETY: attached. A slot may end without an exception, a method may not.
        unsafe {
            if item.is_null() && ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            }
        }
        item
    };
    // SAFETY: as the caller's.
    unsafe { within_turn(file, call) }
}

/// # Safety
/// Attached; `file` is a buffered file, and `call` returns a new reference, or null with an exception set.
///
/// # Parks
unsafe fn within_turn(file: *mut ffi::PyObject, call: impl FnOnce() -> *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: attached; `file` has a dictionary, to which a reference is held for the length of the lookup.
    unsafe {
        let dictionary = ffi::PyObject_GenericGetDict(file, std::ptr::null_mut());
        if dictionary.is_null() {
            return std::ptr::null_mut();
        }
        let key = KEY.get().map_or(std::ptr::null_mut(), Py::as_ptr);
        let kept = ffi::PyDict_GetItemWithError(dictionary, key);
        let needs_none = kept == ffi::Py_None();
        ffi::Py_DECREF(dictionary);
        if needs_none {
            return call();
        }
    }
    Python::attach(|py| {
        // SAFETY: `file` is alive for the length of the call.
        let file = unsafe { Bound::from_borrowed_ptr(py, file) };
        match turn_of(&file) {
            Ok(None) => call(),
            Ok(Some(turn)) => match turn.get().take(py) {
                Ok(()) => {
                    let result = call();
                    turn.get().give(py);
                    result
                }
                Err(error) => {
                    error.restore(py);
                    std::ptr::null_mut()
                }
            },
            Err(error) => {
                error.restore(py);
                std::ptr::null_mut()
            }
        }
    })
}

/// The lock of a file; none for one that needs none.
fn turn_of<'py>(file: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, RLock>>> {
    let py = file.py();
    let Some(key) = KEY.get() else { return Ok(None) };
    let dictionary = file.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    let kept = match dictionary.get_item(key)? {
        Some(kept) => kept,
        None => {
            // Without one, it is detached or was never made: the original says so.
            let Ok(raw) = file.getattr(intern!(py, "raw")) else { return Ok(None) };
            let turn =
                if is_on_disk(&raw) { py.None().into_bound(py) } else { Bound::new(py, RLock::default())?.into_any() };
            dictionary.call_method1(intern!(py, "setdefault"), (key, turn))?
        }
    };
    Ok(kept.cast_into::<RLock>().ok())
}

/// Whether it is the system's file, on a disk. No such call parks.
fn is_on_disk(raw: &Bound<'_, PyAny>) -> bool {
    if !FILES.get().is_some_and(|files| raw.get_type().is(&files.class)) {
        return false;
    }
    // SAFETY: attached, and its type is FileIO.
    let number = match unsafe { descriptor_of(raw.as_ptr()) } {
        Some(number) => number,
        None => raw.call_method0("fileno").and_then(|number| number.extract()).unwrap_or(-1),
    };
    number > LAST_STANDARD_STREAM && is_regular(number)
}
