//! Methods of files in C, for several coroutines.
//!
//! A buffered file (`io.BufferedReader` and its kin) has a lock in C, whose owner is an OS thread. All coroutines are
//! one thread to that lock: a second coroutine gets "reentrant call", and one that waits for a real OS thread blocks
//! the loop. Therefore each method is exchanged for one that first takes a reentrant lock of ours, kept in the
//! `__dict__` of the file. Files on a disk need no such lock, since their calls never park; for those a call costs some
//! 20 ns more.
//!
//! Methods of `io.FileIO` get a detour through a Python function if the file is not on a disk.

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

/// The number of methods that can be exchanged: the places of [`ORIGINALS`] and [`ENTRIES`].
const MOST: usize = 32;

/// The number of arguments that fit on the stack, including the file. No method takes more than two others.
const FEW: usize = 4;

/// The highest descriptor of a standard stream. `dup2` may turn standard streams into other files.
const LAST_STANDARD_STREAM: i32 = 2;

/// The methods that were exchanged, by their places.
static ORIGINALS: [OnceLock<Py<PyAny>>; MOST] = [const { OnceLock::new() }; MOST];

/// The original `tp_iternext`, which is the same function in `io.BufferedReader` and `io.BufferedRandom`.
static NEXT: OnceLock<ffi::iternextfunc> = OnceLock::new();

/// The key under which a file keeps its lock, or None if it needs none. Interned, never freed.
static KEY: OnceLock<Py<PyString>> = OnceLock::new();

macro_rules! entries {
    ($($number:literal)*) => { [$(enter::<$number>),*] };
}

/// The detours of methods, by their places. A method without a detour takes the file's lock.
static DETOURS: [OnceLock<Detour>; MOST] = [const { OnceLock::new() }; MOST];

/// A function to call for files that are not on a disk.
struct Detour {
    function: Py<PyAny>,
    /// Whether OS threads take the detour, too.
    for_threads: bool,
}

static ENTRIES: [ffi::PyCFunctionFast; MOST] =
    entries!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);

/// Makes a method like `class.name`, a method in C of a buffered file, that runs in one coroutine or thread at a time.
///
/// # Errors
/// TypeError if `class.name` is no method in C, RuntimeError for too many methods.
pub fn in_turn<'py>(class: &Bound<'py, PyType>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    let py = class.py();
    if KEY.get().is_none() {
        let _ = KEY.set(PyString::intern(py, "_rmeinheld_turn").unbind());
    }
    learn_of_files(py)?;
    let original = class.getattr(name)?;
    let definition = if name == "__next__" { next_definition(class)? } else { method_definition(&original)? };
    // Leaked: a descriptor refers to its definition as long as it lives, which is for ever.
    let definition = Box::leak(Box::new(definition));
    // SAFETY: attached; both arguments are valid. The result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition)) }
}

/// Makes a method like `class.name`, a method in C of `io.FileIO`. For files that are not on a disk it calls `function`
/// instead of the original: in coroutines, and with `for_threads` in OS threads, too.
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
    // SAFETY: attached, and the class is alive, as `class` shows.
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
    // SAFETY: attached; reads the type of a living object.
    if unsafe { ffi::Py_TYPE(original.as_ptr()) } != &raw mut ffi::PyMethodDescr_Type {
        return Err(PyTypeError::new_err(format!("{original} is no method in C")));
    }
    let place = ORIGINALS.iter().position(|place| place.get().is_none());
    let Some((number, entry)) = place.and_then(|number| Some((number, *ENTRIES.get(number)?))) else {
        return Err(PyRuntimeError::new_err("no room for another method"));
    };
    let _ = ORIGINALS[number].set(original.clone().unbind());
    // SAFETY: it is a method descriptor, as checked above; its definition lives as long as its class, which it keeps
    // alive.
    let old = unsafe { &*(*original.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method };
    Ok(ffi::PyMethodDef {
        ml_name: old.ml_name,
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFast: entry },
        ml_flags: ffi::METH_FASTCALL,
        ml_doc: old.ml_doc,
    })
}

/// The function in C of the exchanged method at place `N`.
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
            // SAFETY: as the caller promises; methods with a detour are those of `FileIO`.
            Some(detour) if unsafe { is_detour_due(detour, file) } => &detour.function,
            _ => original,
        };
        let count = usize::try_from(count).unwrap_or_default();
        if count < FEW {
            let mut all = [std::ptr::null_mut(); FEW];
            all[0] = file;
            // SAFETY: the caller passes `count` arguments, and the array has room for them behind the first element.
            unsafe { std::ptr::copy_nonoverlapping(arguments, all.as_mut_ptr().add(1), count) };
            // SAFETY: `all` starts with `count + 1` valid objects, which the caller keeps alive.
            return unsafe {
                ffi::PyObject_Vectorcall(original.as_ptr(), all.as_ptr(), count + 1, std::ptr::null_mut())
            };
        }
        // These are too many for any of the methods; the original raises TypeError.
        let mut all = vec![file];
        // SAFETY: the caller passes `count` arguments.
        all.extend_from_slice(unsafe { std::slice::from_raw_parts(arguments, count) });
        // SAFETY: all are valid objects, which the caller keeps alive.
        unsafe { ffi::PyObject_Vectorcall(original.as_ptr(), all.as_ptr(), all.len(), std::ptr::null_mut()) }
    };
    if DETOURS[N].get().is_some() {
        return call();
    }
    // SAFETY: as the caller promises.
    unsafe { within_turn(file, call) }
}

/// Whether the caller takes a detour for this file.
///
/// # Safety
/// Attached; `file` is a `FileIO`.
unsafe fn is_detour_due(detour: &Detour, file: *mut ffi::PyObject) -> bool {
    if !detour.for_threads && !event_loop::can_park() {
        return false;
    }
    // SAFETY: as the caller promises.
    let Some(number) = (unsafe { descriptor_of(file) }) else { return true };
    // `close` is the detour for threads: it ends the waits on the descriptor, if there are any.
    let is_idle = detour.for_threads && event_loop::is_waited_for(number) == Some(false);
    number >= 0 && !is_idle && !is_regular(number)
}

/// The start of `fileio` in Modules/_io/fileio.c, the same since Python 3.0.
#[repr(C)]
struct FileObject {
    head: ffi::PyObject,
    descriptor: c_int,
}

/// The descriptor of a `FileIO`, negative for a closed one; None if the structure is unlike the one above.
///
/// # Safety
/// Attached; `file` is a `FileIO`.
unsafe fn descriptor_of(file: *mut ffi::PyObject) -> Option<c_int> {
    // SAFETY: as the caller promises; `learn_of_files` has found the field at this place.
    FILES.get().is_some_and(|files| files.holds).then(|| unsafe { (*file.cast::<FileObject>()).descriptor })
}

/// `io.FileIO`, and whether its structure is [`FileObject`].
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
    // SAFETY: attached; `FileIO` is a class.
    let size = unsafe { (*class.as_ptr().cast::<ffi::PyTypeObject>()).tp_basicsize };
    if size < size_of::<FileObject>().cast_signed() {
        let _ = FILES.set(Files { class: class.unbind(), holds: false });
        return Ok(());
    }
    // SAFETY: attached; the probe is a FileIO, and its class says that its objects are as large as the structure.
    let found = unsafe { (*probe.as_ptr().cast::<FileObject>()).descriptor };
    let mut holds = probe.call_method0("fileno")?.extract::<c_int>()? == found;
    probe.call_method0("close")?;
    // SAFETY: as for the first look.
    holds &= unsafe { (*probe.as_ptr().cast::<FileObject>()).descriptor } < 0;
    let _ = FILES.set(Files { class: class.unbind(), holds });
    Ok(())
}

fn is_regular(number: c_int) -> bool {
    LentDescriptor::new(number)
        .and_then(fstat)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}

/// The function in C of the exchanged `__next__`.
///
/// # Safety
/// Called by the interpreter, attached, as METH_NOARGS wants it.
///
/// # Parks
unsafe extern "C" fn enter_next(file: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    let call = || {
        let Some(next) = NEXT.get() else { return std::ptr::null_mut() };
        // SAFETY: the slot is that of the descriptor's class, and the descriptor has checked the type of `file`.
        let item = unsafe { next(file) };
        // A slot may return null without an exception, a method may not.
        // SAFETY: attached, as the caller promises.
        unsafe {
            if item.is_null() && ffi::PyErr_Occurred().is_null() {
                ffi::PyErr_SetNone(ffi::PyExc_StopIteration);
            }
        }
        item
    };
    // SAFETY: as the caller promises.
    unsafe { within_turn(file, call) }
}

/// Calls `call` with the lock of `file` held, if the file has one.
///
/// # Safety
/// Attached; `file` is a buffered file, and `call` returns a new reference, or null with an exception set.
///
/// # Parks
unsafe fn within_turn(file: *mut ffi::PyObject, call: impl FnOnce() -> *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: attached. The dictionary of `file` is a new reference, held for the length of the lookup; null is
    // checked.
    unsafe {
        let dictionary = ffi::PyObject_GenericGetDict(file, std::ptr::null_mut());
        if dictionary.is_null() {
            return std::ptr::null_mut();
        }
        let key = KEY.get().map_or(std::ptr::null_mut(), Py::as_ptr);
        let kept = ffi::PyDict_GetItemWithError(dictionary, key);
        let needs_none = kept == ffi::Py_None();
        ffi::Py_DECREF(dictionary);
        // At its end the interpreter closes the standard streams, with a thread state but alone.
        if needs_none || ffi::Py_IsInitialized() == 0 {
            return call();
        }
    }
    // SAFETY: always safe to call.
    if unsafe { ffi::Py_IsInitialized() } == 0 {
        // The interpreter ends, and this thread is the last one. A signal has ended the patch half-way.
        return call();
    }
    Python::attach(|py| {
        // SAFETY: the caller keeps `file` alive for the length of the call.
        let file = unsafe { Bound::from_borrowed_ptr(py, file) };
        match turn_of(&file) {
            Ok(None) => call(),
            Ok(Some(turn)) => match RLock::take(&turn) {
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

/// The lock of a file; None for a file that needs none.
fn turn_of<'py>(file: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, RLock>>> {
    let py = file.py();
    let Some(key) = KEY.get() else { return Ok(None) };
    let dictionary = file.getattr(intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    let kept = match dictionary.get_item(key)? {
        Some(kept) => kept,
        None => {
            // A file without `raw` is detached or was never initialised; the original raises the error.
            let Ok(raw) = file.getattr(intern!(py, "raw")) else { return Ok(None) };
            let turn =
                if is_on_disk(&raw) { py.None().into_bound(py) } else { Bound::new(py, RLock::default())?.into_any() };
            dictionary.call_method1(intern!(py, "setdefault"), (key, turn))?
        }
    };
    Ok(kept.cast_into::<RLock>().ok())
}

/// Whether `raw` is a `FileIO` on a disk, whose calls never park.
fn is_on_disk(raw: &Bound<'_, PyAny>) -> bool {
    if !FILES.get().is_some_and(|files| raw.get_type().is(&files.class)) {
        return false;
    }
    // SAFETY: attached, and the type of `raw` is FileIO.
    let number = match unsafe { descriptor_of(raw.as_ptr()) } {
        Some(number) => number,
        None => raw.call_method0("fileno").and_then(|number| number.extract()).unwrap_or(-1),
    };
    number > LAST_STANDARD_STREAM && is_regular(number)
}
