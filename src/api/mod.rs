//! The Python face of the engine: the module `rmeinheld._rmeinheld`.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::cooperative::{
    self, BoundedSemaphore, Condition, Event, LifoQueue, Lock, Queue, RLock, Semaphore, ShutDown, SimpleQueue, native,
};
use crate::event_loop::Interest;
use crate::interp::{self, Coroutine, CoroutineExit};
use crate::server::{self, ErrorStream, Server};
use crate::wsgi::{
    ClientDisconnected, ClientSocket, ConnectionClosed, EarlyHints, FileWrapper, Input, StartResponse, Stopping,
    WebSocket, WebSocketError,
};

/// Run `func(*args, **kwargs)` in a coroutine of its own; returns its `Coroutine`.
///
/// From a coroutine or any OS thread. The first call of a process starts the loop.
/// Raises TypeError if `func` is not callable, RuntimeError in a child forked from a process that uses coroutines.
#[pyfunction]
#[pyo3(signature = (func, /, *args, **kwargs))]
fn spawn<'py>(
    func: &Bound<'py, PyAny>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, Coroutine>> {
    interp::spawn(func, args, kwargs)
}

/// Park the coroutine for `seconds`; 0 lets everything else that is ready run. Outside a coroutine, `time.sleep`.
///
/// Raises ValueError for a negative or non-finite value, CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (seconds, /))]
fn sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    interp::sleep(py, seconds)
}

/// Park the coroutine until `time.monotonic()` is `at`, or not at all if that is past. In a coroutine only.
///
/// Those who sleep until different times wake in the order of these. Raises CoroutineExit when the server stops.
#[pyfunction]
#[pyo3(signature = (at, /))]
fn sleep_until(at: f64) -> PyResult<()> {
    interp::sleep_until(at)
}

/// The `Coroutine` that the caller runs in, or None in an OS thread.
#[pyfunction]
fn current(py: Python<'_>) -> PyResult<Option<Bound<'_, Coroutine>>> {
    interp::current(py)
}

/// Wait until `fd` can be read, at most `timeout` seconds (None: for ever). Returns whether it can.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
/// that is closed meanwhile is not noticed: the wait goes on until its timeout.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
fn wait_readable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Read, timeout)
}

/// Wait until `fd` can be written, at most `timeout` seconds (None: for ever). Returns whether it can.
///
/// Raises ValueError for a negative timeout, OSError for a bad descriptor, CoroutineExit when the server stops. One
/// that is closed meanwhile is not noticed: the wait goes on until its timeout.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
fn wait_writable(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Write, timeout)
}

/// Wait until `fd` can be read or written, as `wait_readable` and `wait_writable` do.
#[pyfunction]
#[pyo3(signature = (fd, timeout = None))]
fn wait_either(py: Python<'_>, fd: i32, timeout: Option<f64>) -> PyResult<bool> {
    interp::wait_descriptor(py, fd, Interest::Both, timeout)
}

/// Wait until one of several descriptors may be ready, each for its events (those of `select.poll`), at most `seconds`.
/// Returns whether one may be. In a coroutine only.
///
/// Raises OSError for a bad descriptor, for one of the server's own, and for one that is closed meanwhile.
#[pyfunction]
#[pyo3(signature = (interests, seconds, /))]
fn wait_any(interests: Vec<(i32, u32)>, seconds: f64) -> PyResult<bool> {
    interp::wait_any(&interests, seconds)
}

/// The events of `events` (those of `select.poll`) that `fd` is ready for now, and its errors. Never waits or switches.
#[pyfunction]
#[pyo3(signature = (fd, events, /))]
fn events_now(fd: i32, events: u16) -> PyResult<u16> {
    interp::events_now(fd, events)
}

/// The number by which the interpreter knows the caller: the coroutine's, or the OS thread's outside of one.
#[pyfunction]
fn get_ident(py: Python<'_>) -> u64 {
    interp::identity::ident(py)
}

/// Whether the caller is in a coroutine that may park. Elsewhere every wait blocks the OS thread.
#[pyfunction]
fn can_park() -> bool {
    crate::event_loop::can_park()
}

/// A chance to switch, for a call that may block.
///
/// Once the coroutine's turn has lasted `turn_budget`, everything else that is ready runs first. Nothing outside a
/// coroutine.
///
/// Raises what is thrown into the coroutine, and CoroutineExit when the server stops.
#[pyfunction]
fn give_way(py: Python<'_>) -> PyResult<()> {
    interp::give_way(py)
}

/// A chance to switch, for a call that cannot block in CPython: it raises nothing.
///
/// What is thrown into the coroutine is raised at its next wait.
#[pyfunction]
fn give_way_quietly(py: Python<'_>) {
    interp::give_way_quietly(py);
}

/// Wake every coroutine that waits for `fd` with OSError (EBADF): it is about to be closed.
///
/// Returns False on another thread than the coroutines': there it is to be called again after the closing.
#[pyfunction]
#[pyo3(signature = (fd, /))]
fn descriptor_closes(py: Python<'_>, fd: i32) -> bool {
    interp::descriptor_closes(py, fd)
}

/// Make `function` a method: set on a class, it binds its instances, as a built-in function does not.
#[pyfunction]
#[pyo3(signature = (function, /))]
fn method<'py>(function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::as_method(function)
}

/// Set an attribute of a class, including one of a class in C whose attributes Python code cannot set.
///
/// Raises TypeError for a class such as `int`, which all interpreters of the process share.
#[pyfunction]
#[pyo3(signature = (class, name, value, /))]
fn set_attribute(class: &Bound<'_, PyType>, name: &Bound<'_, PyString>, value: &Bound<'_, PyAny>) -> PyResult<()> {
    cooperative::set_attribute(class, name, value)
}

/// A method like `class.name`, a method in C of `io.FileIO`, that calls `function` for files that are not on a disk: in
/// coroutines, and if `for_threads` in OS threads, too.
///
/// Raises TypeError for what is no such method.
#[pyfunction]
#[pyo3(signature = (class, name, function, for_threads, /))]
fn detour<'py>(
    class: &Bound<'py, PyType>,
    name: &Bound<'py, PyString>,
    function: &Bound<'py, PyAny>,
    for_threads: bool,
) -> PyResult<Bound<'py, PyAny>> {
    cooperative::detour(class, name, function, for_threads)
}

/// Whether there is a FIFO at `path`.
#[pyfunction]
#[pyo3(signature = (path, /))]
fn is_fifo(path: PathBuf) -> bool {
    cooperative::is_fifo(&path)
}

/// Whether a read or write of `fd` may wait for another program: in a coroutine, on a descriptor that blocks, for
/// anything but files and directories.
#[pyfunction]
#[pyo3(signature = (fd, /))]
fn may_wait(py: Python<'_>, fd: i32) -> bool {
    cooperative::may_wait(py, fd)
}

/// A method like `class.name`, a method in C of a buffered file, that one coroutine or OS thread at a time is in.
///
/// Raises TypeError for what is no such method.
#[pyfunction]
#[pyo3(signature = (class, name, /))]
fn in_turn<'py>(class: &Bound<'py, PyType>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::in_turn(class, name)
}

/// A built-in function like `original` that calls `function`: as an attribute of a class it binds no instance.
///
/// Raises TypeError if `original` is no built-in function.
#[pyfunction]
#[pyo3(signature = (original, function, /))]
fn as_builtin<'py>(original: &Bound<'py, PyAny>, function: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    cooperative::as_builtin(original, function)
}

/// `socket.recv(bufsize, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, bufsize, flags = 0, /))]
fn socket_recv<'py>(sock: &Bound<'py, PyAny>, bufsize: isize, flags: i32) -> PyResult<Bound<'py, PyAny>> {
    cooperative::socket::receive(sock, bufsize, flags.cast_unsigned())
}

/// `socket.recv_into(buffer, nbytes=0, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, buffer, nbytes = 0, flags = 0))]
fn socket_recv_into(sock: &Bound<'_, PyAny>, buffer: &Bound<'_, PyAny>, nbytes: isize, flags: i32) -> PyResult<usize> {
    cooperative::socket::receive_into(sock, buffer, nbytes, flags.cast_unsigned())
}

/// `socket.send(data, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, data, flags = 0, /))]
fn socket_send(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<usize> {
    cooperative::socket::send(sock, data, flags.cast_unsigned())
}

/// `socket.sendall(data, flags=0)`, which parks the coroutine.
#[pyfunction]
#[pyo3(signature = (sock, data, flags = 0, /))]
fn socket_sendall(sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<()> {
    cooperative::socket::send_all(sock, data, flags.cast_unsigned())
}

/// Call `function()`, then `cleanup()`, as the only server of the process; returns what `function` returned.
///
/// `cleanup` is called again if an exception of a signal handler cuts it short. Raises RuntimeError if a server runs.
#[pyfunction]
#[pyo3(signature = (function, cleanup, /))]
fn exclusively<'py>(function: &Bound<'py, PyAny>, cleanup: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    server::exclusively(function, cleanup)
}

/// Raise CoroutineExit in the requests and in the threads that are no daemons; wait for them, at most two seconds.
///
/// The loop goes on. Not from a coroutine. Raises RuntimeError naming what computes and keeps the loop from this.
#[pyfunction]
fn end_awaited(py: Python<'_>) -> PyResult<()> {
    interp::end_awaited(py)
}

/// Whether the end of the server has raised CoroutineExit in the coroutine, or will at its next wait.
#[pyfunction]
fn is_killed() -> bool {
    crate::event_loop::ends::is_killed()
}

/// Raise CoroutineExit in all coroutines and end the loop. What still waits a little later is left behind for ever.
///
/// Not from a coroutine. Raises RuntimeError naming what computes and keeps the loop from its end.
#[pyfunction]
fn end_loop(py: Python<'_>) -> PyResult<()> {
    interp::stop(py)
}

/// Have the process end with `status` in so many seconds, whoever holds the interpreter then. A later call replaces it.
#[pyfunction]
fn arm_exit(seconds: f64, status: i32) {
    interp::arm_exit(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default(), status);
}

/// Take `arm_exit`, and what `Server.run` has armed, back.
#[pyfunction]
fn disarm_exit() {
    interp::disarm_exit();
}

/// Have the end of the process wait for the caller's coroutine as it does for requests.
#[pyfunction]
fn set_awaited() {
    crate::event_loop::ends::set_awaited();
}

#[pyfunction]
fn _stop_at_exit(py: Python<'_>) {
    interp::stop_at_exit(py);
}

/// Whether CPython's own locks park coroutines, whenever they were made.
#[pyfunction]
fn _locks_park(py: Python<'_>) -> bool {
    native::exchange_methods(py)
}

#[pyfunction]
fn _before_fork(py: Python<'_>) {
    native::wait_for_import_lock(py);
    interp::identity::before_fork(py);
}

#[pyfunction]
fn _after_fork_in_parent(py: Python<'_>) {
    interp::identity::after_fork(py);
}

#[pyfunction]
fn _forget_in_child() {
    native::forget_in_child();
    interp::forget_in_child();
    server::forget_in_child();
}

/// `queue.ShutDown` where that exists.
fn shut_down(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("queue")?.getattr("ShutDown").or_else(|_| Ok(py.get_type::<ShutDown>().into_any()))
}

#[pymodule(gil_used = true)]
fn _rmeinheld(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("CoroutineExit", py.get_type::<CoroutineExit>())?;
    module.add_class::<BoundedSemaphore>()?;
    module.add_class::<Condition>()?;
    module.add_class::<Event>()?;
    module.add_class::<cooperative::Jobs>()?;
    module.add_class::<LifoQueue>()?;
    module.add_class::<Lock>()?;
    module.add_class::<Queue>()?;
    module.add_class::<Semaphore>()?;
    module.add_class::<SimpleQueue>()?;
    module.add("ShutDown", shut_down(py)?)?;
    module.add_class::<RLock>()?;
    module.add("Timeout", py.get_type::<interp::Timeout>())?;
    module.add_class::<ClientSocket>()?;
    module.add("ConnectionClosed", py.get_type::<ConnectionClosed>())?;
    module.add_class::<ClientDisconnected>()?;
    module.add_class::<Coroutine>()?;
    module.add_class::<EarlyHints>()?;
    module.add_class::<ErrorStream>()?;
    module.add_class::<FileWrapper>()?;
    module.add_class::<Input>()?;
    module.add_class::<Server>()?;
    module.add_class::<StartResponse>()?;
    module.add_class::<Stopping>()?;
    module.add_class::<interp::TimeoutContext>()?;
    module.add_class::<WebSocket>()?;
    module.add("WebSocketError", py.get_type::<WebSocketError>())?;
    for function in [
        wrap_pyfunction!(spawn, module)?,
        wrap_pyfunction!(sleep, module)?,
        wrap_pyfunction!(sleep_until, module)?,
        wrap_pyfunction!(current, module)?,
        wrap_pyfunction!(wait_readable, module)?,
        wrap_pyfunction!(wait_writable, module)?,
        wrap_pyfunction!(wait_either, module)?,
        wrap_pyfunction!(wait_any, module)?,
        wrap_pyfunction!(events_now, module)?,
        wrap_pyfunction!(get_ident, module)?,
        wrap_pyfunction!(can_park, module)?,
        wrap_pyfunction!(give_way, module)?,
        wrap_pyfunction!(give_way_quietly, module)?,
        wrap_pyfunction!(descriptor_closes, module)?,
        wrap_pyfunction!(detour, module)?,
        wrap_pyfunction!(in_turn, module)?,
        wrap_pyfunction!(is_fifo, module)?,
        wrap_pyfunction!(may_wait, module)?,
        wrap_pyfunction!(method, module)?,
        wrap_pyfunction!(as_builtin, module)?,
        wrap_pyfunction!(set_attribute, module)?,
        wrap_pyfunction!(_locks_park, module)?,
        wrap_pyfunction!(end_awaited, module)?,
        wrap_pyfunction!(is_killed, module)?,
        wrap_pyfunction!(end_loop, module)?,
        wrap_pyfunction!(arm_exit, module)?,
        wrap_pyfunction!(disarm_exit, module)?,
        wrap_pyfunction!(set_awaited, module)?,
        wrap_pyfunction!(socket_recv, module)?,
        wrap_pyfunction!(socket_recv_into, module)?,
        wrap_pyfunction!(socket_send, module)?,
        wrap_pyfunction!(socket_sendall, module)?,
        wrap_pyfunction!(exclusively, module)?,
    ] {
        module.add_function(function)?;
    }
    native::keep_samples(py)?;
    interp::prepare_with(|py| {
        if !native::exchange_methods(py) {
            let message = "locks and queues of the standard library do not park coroutines on this Python: one that is \
                           held across a wait holds up the process, unless it was made after patch_all()";
            interp::log(py, interp::Level::Warning, message, None);
        }
    });
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(_stop_at_exit, module)?,))?;
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(_before_fork, module)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(_after_fork_in_parent, module)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(_forget_in_child, module)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
    Ok(())
}
