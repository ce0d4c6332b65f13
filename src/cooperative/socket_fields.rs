//! The descriptor and the timeout of a `socket.socket`, read where `_socket` keeps them.
//!
//! Every message needs both, and through the interpreter the two questions cost as much as a system call. The structure
//! is that of Modules/socketmodule.h (`PySocketSockObject`), unchanged since Python 3.7. A socket made for the purpose
//! shows whether it still holds; otherwise the two are asked for.

#![expect(unsafe_code, reason = "two fields of a C structure")]

use std::os::fd::RawFd;
use std::os::raw::c_int;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

#[repr(C)]
struct SocketObject {
    head: ffi::PyObject,
    descriptor: c_int,
    family: c_int,
    kind: c_int,
    protocol: c_int,
    error_handler: *const (),
    /// Nanoseconds; negative for none.
    timeout: i64,
}

/// `socket.socket` and `_socket.socket`, and whether the structure is [`SocketObject`].
struct Known {
    class: Py<PyType>,
    base: Py<PyType>,
    holds: bool,
}

static KNOWN: PyOnceLock<Known> = PyOnceLock::new();

fn known(py: Python<'_>) -> PyResult<&Known> {
    if let Some(known) = KNOWN.get(py) {
        return Ok(known);
    }
    // Outside the cell's initialiser, which holds a lock: an import may park.
    let found = look(py)?;
    let _ = KNOWN.set(py, found);
    KNOWN.get(py).ok_or_else(|| PyRuntimeError::new_err("no socket module"))
}

fn look(py: Python<'_>) -> PyResult<Known> {
    let module = py.import("socket")?;
    let class = module.getattr("socket")?.cast_into::<PyType>().map_err(PyErr::from)?;
    let base = py.import("_socket")?.getattr("socket")?.cast_into::<PyType>().map_err(PyErr::from)?;
    let probe = base.call1((module.getattr("AF_UNIX")?, module.getattr("SOCK_DGRAM")?))?;
    let descriptor: RawFd = probe.call_method0("fileno")?.extract()?;
    // SAFETY: attached; `base` is a class.
    let mut holds = unsafe { (*base.as_type_ptr()).tp_basicsize } >= size_of::<SocketObject>().cast_signed();
    for (timeout, kept) in [(Some(1234.5), 1_234_500_000_000..1_234_500_000_001), (None, i64::MIN..0)] {
        probe.call_method1("settimeout", (timeout,))?;
        if holds {
            // SAFETY: an object of `_socket.socket`, whose class says that its objects are as large as the structure.
            let (found, nanoseconds) = unsafe { fields(&probe) };
            holds = found == descriptor && kept.contains(&nanoseconds);
        }
    }
    probe.call_method0("close")?;
    Ok(Known { class: class.unbind(), base: base.unbind(), holds })
}

/// Reads the two fields.
///
/// # Safety
/// `socket` is an instance of `_socket.socket`, whose objects are as large as the structure.
unsafe fn fields(socket: &Bound<'_, PyAny>) -> (RawFd, i64) {
    let object = socket.as_ptr().cast::<SocketObject>();
    // SAFETY: as the caller promises. Both fields are integers, so any bytes are valid; all writes happen under the
    // interpreter's lock, which the caller holds.
    unsafe { ((*object).descriptor, (*object).timeout) }
}

/// The base class of `socket.socket`, whose methods block.
///
/// # Errors
/// ImportError.
pub fn base(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    Ok(known(py)?.base.bind(py))
}

/// The descriptor (negative when closed) and the timeout in seconds (None waits for ever).
///
/// # Errors
/// AttributeError for an object that is no socket.
pub fn descriptor_and_timeout(socket: &Bound<'_, PyAny>) -> PyResult<(RawFd, Option<f64>)> {
    let py = socket.py();
    let known = known(py)?;
    if known.holds && (socket.get_type().is(known.class.bind(py)) || socket.is_instance(known.base.bind(py))?) {
        // SAFETY: an instance, as just checked, and `holds` says that the size is right.
        let (descriptor, nanoseconds) = unsafe { fields(socket) };
        #[expect(clippy::cast_precision_loss, reason = "a timeout of 2^53 nanoseconds is a hundred days")]
        let timeout = (nanoseconds >= 0).then_some(nanoseconds as f64 * 1e-9);
        return Ok((descriptor, timeout));
    }
    let descriptor = socket.call_method0(intern!(py, "fileno"))?.extract()?;
    Ok((descriptor, socket.getattr(intern!(py, "timeout"))?.extract()?))
}
