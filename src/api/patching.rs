//! Functions that the patches of the standard library are made of.

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::cooperative::{self, native};
use crate::event_loop::Interest;

/// Make `function` a method: set on a class, it binds its instances, as a built-in function does not.
#[pyfunction]
#[pyo3(signature = (function, /))]
pub fn method<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::as_method(function)
}

/// Set an attribute of a class, including a class in C whose attributes Python code cannot set.
///
/// Raises TypeError for a class such as `int`, which all interpreters of the process share.
#[pyfunction]
#[pyo3(signature = (class, name, value, /))]
pub fn set_attribute(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    cooperative::set_attribute(class, name, value)
}

/// Return a method like `class.name`, a method in C of `io.FileIO`, that calls `function` unless the file is on a disk.
///
/// It does so in coroutines, and with `for_threads` in OS threads, too.
///
/// Raises TypeError if `class.name` is no method in C.
#[pyfunction]
#[pyo3(signature = (class, name, function, for_threads, /))]
pub fn detour<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
    function: &Bound<'py, PyAny>,
    for_threads: bool,
) -> PyResult<Bound<'py, PyAny>> {
    cooperative::detour(class, name, function, for_threads)
}

/// Return a method like `class.name`, a method in C of a buffered file, that runs in one coroutine or thread at a time.
///
/// Raises TypeError if `class.name` is no method in C.
#[pyfunction]
#[pyo3(signature = (class, name, /))]
pub fn in_turn<'py>(class: &Bound<'py, PyType>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::in_turn(class, name)
}

/// Return a built-in function like `original` that calls `function`. As an attribute of a class it binds no instance.
///
/// Raises TypeError if `original` is no built-in function.
#[pyfunction]
#[pyo3(signature = (original, function, /))]
pub fn as_builtin<'py>(original: &Bound<'py, PyAny>, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::as_builtin(original, function)
}

/// Return whether CPython's own locks park coroutines, whenever they were made.
#[pyfunction]
#[pyo3(name = "_locks_park")]
pub fn locks_park(py: Python<'_>) -> bool {
    native::exchange_methods(py)
}

/// `socket.recv(bufsize, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, bufsize, flags = 0, /))]
pub fn socket_recv<'py>(sock: &Bound<'py, PyAny>, bufsize: isize, flags: i32) -> PyResult<Bound<'py, PyAny>> {
    cooperative::socket::receive(sock, bufsize, flags.cast_unsigned())
}

/// `socket.recv_into(buffer, nbytes=0, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, buffer, nbytes = 0, flags = 0))]
pub fn socket_recv_into(
    sock: &Bound<'_, PyAny>,
    buffer: &Bound<'_, PyAny>,
    nbytes: isize,
    flags: i32,
) -> PyResult<usize> {
    cooperative::socket::receive_into(sock, buffer, nbytes, flags.cast_unsigned())
}

/// `socket.send(data, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, data, flags = 0, /))]
pub fn socket_send(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<usize> {
    cooperative::socket::send(sock, data, flags.cast_unsigned())
}

/// `socket.sendall(data, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, data, flags = 0, /))]
pub fn socket_sendall(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<()> {
    cooperative::socket::send_all(sock, data, flags.cast_unsigned())
}

/// `socket.recvfrom(bufsize, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, bufsize, flags = 0, /))]
pub fn socket_recvfrom<'py>(sock: &Bound<'py, PyAny>, bufsize: isize, flags: i32) -> PyResult<Bound<'py, PyAny>> {
    cooperative::socket::receive_from(sock, bufsize, flags.cast_unsigned())
}

/// `socket.recvfrom_into(buffer, nbytes=0, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, buffer, nbytes = 0, flags = 0))]
pub fn socket_recvfrom_into<'py>(
    sock: &Bound<'py, PyAny>,
    buffer: &Bound<'py, PyAny>,
    nbytes: isize,
    flags: i32,
) -> PyResult<Bound<'py, PyAny>> {
    cooperative::socket::receive_from_into(sock, buffer, nbytes, flags.cast_unsigned())
}

/// Call `function(sock, *args)` until it raises no BlockingIOError, and wait in between. In a coroutine only.
///
/// `function` must not block: it gets MSG_DONTWAIT in its arguments, and the socket's timeout is 0 during the call. The
/// wait is for reading, or with `writes` for writing.
///
/// Raises TimeoutError after the socket's timeout, OSError for a closed socket, and the errors of `function`.
#[pyfunction]
#[pyo3(signature = (sock, writes, function, /, *args))]
pub fn socket_repeat<'py>(
    sock: &Bound<'py, PyAny>,
    writes: bool,
    function: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let interest = if writes { Interest::Write } else { Interest::Read };
    cooperative::socket::repeat(sock, interest, function, args)
}
