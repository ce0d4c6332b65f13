//! `environ["gunicorn.socket"]` of a request that asks for an upgrade, as in Gunicorn's workers: the client's
//! connection, for libraries that speak another protocol themselves.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyBlockingIOError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::taken_over;
use super::websocket::{WebSocket, bytes_of};
use crate::interp::{self, Lent, descriptor_closes, failure_error, os_error, park_or_detach};
use crate::net::{Failure, Stream};
use crate::sync::lock;
use crate::wsgi::start_response::StartResponse;

/// Bytes read at a time, at most.
const READ_BYTES: usize = 64 * 1024;

/// The client's connection, like a `socket.socket`: `environ["gunicorn.socket"]` of every valid handshake.
///
/// Its calls park coroutines and block OS threads, patched or not. The first use takes the connection over: from then
/// on the server sends nothing on it, and closes it when the application returns or raises StopIteration.
///
/// When the server stops, `recv` returns what has arrived and then `b""`. Sending a close frame is up to the library:
/// the server does not know its protocol.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ClientSocket {
    response: Py<StartResponse>,
    websocket: Py<WebSocket>,
    taken: Mutex<Option<Taken>>,
    /// None waits for ever.
    timeout: Mutex<Option<f64>>,
    /// A duplicate of the descriptor, for calls that neither read nor write.
    duplicate: Mutex<Option<OwnedFd>>,
}

#[derive(Clone)]
struct Taken {
    stream: Arc<Stream>,
    is_closed: bool,
}

impl ClientSocket {
    /// The connection of a request.
    pub fn new(response: &Bound<'_, StartResponse>, websocket: &Bound<'_, WebSocket>) -> ClientSocket {
        ClientSocket {
            response: response.clone().unbind(),
            websocket: websocket.clone().unbind(),
            taken: Mutex::default(),
            timeout: Mutex::default(),
            duplicate: Mutex::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Option<Taken>> {
        lock(&self.taken)
    }

    /// The stream. The first call takes it over: the server uses it no more.
    fn stream(&self, py: Python<'_>) -> PyResult<Arc<Stream>> {
        if let Some(taken) = &*self.taken() {
            if taken.is_closed {
                return Err(os_error(rustix::io::Errno::BADF));
            }
            return Ok(Arc::clone(&taken.stream));
        }
        let stream = self.response.get().upgrade(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec())?;
        *self.taken() = Some(Taken { stream: Arc::clone(&stream), is_closed: false });
        taken_over::begin(py, &stream, self.response.get().is_last())?;
        Ok(stream)
    }

    /// The time that a call with these flags may wait; none for no limit.
    fn duration(&self, flags: i32) -> Option<Duration> {
        if flags & libc::MSG_DONTWAIT != 0 {
            return Some(Duration::ZERO);
        }
        let timeout = *lock(&self.timeout);
        timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    fn read(&self, py: Python<'_>, size: usize, flags: i32) -> PyResult<Vec<u8>> {
        check_flags("recv", flags, RECEIVE_FLAGS)?;
        interp::give_way(py)?;
        let timeout = self.duration(flags);
        let mut data = self.read_some(py, size, flags, timeout)?;
        // A peek does not wait for more: the bytes stay where they are.
        while flags & (libc::MSG_WAITALL | libc::MSG_PEEK) == libc::MSG_WAITALL && data.len() < size && !data.is_empty()
        {
            match self.read_some(py, size - data.len(), flags, timeout) {
                Ok(more) if !more.is_empty() => data.extend_from_slice(&more),
                // As in recv(2), the bytes before are returned, and the next call meets the end or the error.
                _ => break,
            }
        }
        Ok(data)
    }

    fn read_some(&self, py: Python<'_>, size: usize, flags: i32, timeout: Option<Duration>) -> PyResult<Vec<u8>> {
        let stream = self.stream(py)?;
        let websocket = self.websocket.get();
        let peeks = flags & libc::MSG_PEEK != 0;
        let early = websocket.take_early();
        if !early.is_empty() {
            let (now, later) = early.split_at(early.len().min(size));
            websocket.put_early_back(if peeks { &early } else { later });
            return Ok(now.to_vec());
        }
        let mut buffer = Vec::with_capacity(size.min(READ_BYTES));
        let read = park_or_detach(py, || {
            if peeks { stream.peek(&mut buffer, timeout) } else { stream.read(&mut buffer, timeout) }
        });
        read.map(|_| buffer).map_err(|failure| error(failure, timeout))
    }

    /// Sends some of `data`, or all of it. Returns how many bytes.
    fn write(&self, data: &Bound<'_, PyAny>, flags: i32, all: bool) -> PyResult<usize> {
        check_flags("send", flags, SEND_FLAGS)?;
        let py = data.py();
        interp::give_way(py)?;
        let stream = self.stream(py)?;
        let bytes = bytes_of(data)?;
        let payload = bytes.as_bytes();
        let timeout = self.duration(flags);
        let written = park_or_detach(py, || {
            // One time limit for the whole call, as in `socket.socket` (Python 3.5).
            let deadline = timeout.map(|timeout| Instant::now() + timeout);
            let mut sent = stream.write_some(payload, deadline)?;
            while all && sent < payload.len() {
                sent += stream.write_some(payload.get(sent..).unwrap_or_default(), deadline)?;
            }
            Ok(sent)
        });
        written.map_err(|failure| error(failure, timeout))
    }
}

/// Flags that are honoured or change nothing.
const RECEIVE_FLAGS: i32 =
    libc::MSG_PEEK | libc::MSG_WAITALL | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_CMSG_CLOEXEC;
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;

fn check_flags(call: &str, flags: i32, known: i32) -> PyResult<()> {
    let unknown = flags & !known;
    if unknown == 0 {
        return Ok(());
    }
    Err(PyValueError::new_err(format!(
        "{call}() on environ[\"gunicorn.socket\"] does not know the flags {unknown:#x}; it knows {known:#x}"
    )))
}

/// The exception for a failed call that could wait for `timeout`.
fn error(failure: Failure, timeout: Option<Duration>) -> PyErr {
    match failure {
        Failure::TimedOut if timeout.is_some_and(|timeout| timeout.is_zero()) => {
            PyBlockingIOError::new_err((libc::EAGAIN, "Resource temporarily unavailable"))
        }
        Failure::TimedOut => pyo3::exceptions::PyTimeoutError::new_err("timed out"),
        other => failure_error(other),
    }
}

#[pymethods]
impl ClientSocket {
    /// Return at most `bufsize` bytes, or `b""` at the end of the stream.
    ///
    /// `flags` may contain MSG_PEEK, MSG_WAITALL and MSG_DONTWAIT, and flags without an effect here (0 by default).
    /// Raises ValueError for other flags, TimeoutError after the timeout, and BlockingIOError if the call would wait
    /// and must not.
    #[pyo3(signature = (bufsize, flags = 0, /))]
    fn recv<'py>(&self, py: Python<'py>, bufsize: usize, flags: i32) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.read(py, bufsize, flags)?))
    }

    /// Receive into a writable buffer. Returns the number of bytes, 0 at the end of the stream.
    ///
    /// `nbytes` is the largest number of bytes; 0 (the default) means the size of the buffer. See `recv` for `flags`
    /// and errors.
    #[pyo3(signature = (buffer, nbytes = 0, flags = 0))]
    fn recv_into(&self, buffer: &Bound<'_, PyAny>, nbytes: usize, flags: i32) -> PyResult<usize> {
        let py = buffer.py();
        let mut lent = Lent::writable(buffer)?;
        let room = lent.length();
        let size = if nbytes == 0 { room } else { nbytes.min(room) };
        Ok(lent.fill(py, &self.read(py, size, flags)?))
    }

    /// Send `data`. Returns the number of bytes sent.
    ///
    /// Without a timeout that is all of `data`, as from a blocking socket; with one, the part that the connection takes
    /// in time. `flags` may contain MSG_DONTWAIT (0 by default). Raises ValueError, TimeoutError and BlockingIOError as
    /// `recv` does.
    #[pyo3(signature = (data, flags = 0, /))]
    fn send(&self, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<usize> {
        self.write(data, flags, self.duration(flags).is_none())
    }

    /// Send all of `data` within the timeout. See `send` for `flags` and errors.
    #[pyo3(signature = (data, flags = 0, /))]
    fn sendall(&self, data: &Bound<'_, PyAny>, flags: i32) -> PyResult<()> {
        self.write(data, flags, true).map(drop)
    }

    /// End the server's side of the connection. The rest ends with the request.
    fn close(&self, py: Python<'_>) {
        let open = self
            .taken()
            .as_mut()
            .and_then(|taken| (!std::mem::replace(&mut taken.is_closed, true)).then(|| Arc::clone(&taken.stream)));
        // Not under the lock: TLS calls Python functions to send its end.
        if let Some(stream) = open {
            stream.shutdown_write();
        }
        let Some(duplicate) = self.duplicate().take() else { return };
        let number = duplicate.as_raw_fd();
        let are_notified = descriptor_closes(py, number);
        drop(duplicate);
        if !are_notified {
            descriptor_closes(py, number);
        }
    }

    /// Shut down the reading side (`how` 0), the writing side (1) or both (2), as `socket.shutdown` does.
    ///
    /// Raises ValueError for other values.
    fn shutdown(&self, py: Python<'_>, how: i32) -> PyResult<()> {
        let stream = self.stream(py)?;
        match how {
            0 => stream.shutdown_read(),
            1 => stream.shutdown_write(),
            2 => stream.shutdown_both(),
            _ => return Err(PyValueError::new_err(format!("how must be 0, 1 or 2, not {how}"))),
        }
        Ok(())
    }

    /// Set the timeout of each later call in seconds; None waits for ever, 0 does not wait.
    ///
    /// Raises ValueError for a negative value.
    #[pyo3(signature = (value, /))]
    fn settimeout(&self, value: Option<f64>) -> PyResult<()> {
        if let Some(seconds) = value.filter(|seconds| seconds.is_nan() || *seconds < 0.0) {
            return Err(PyValueError::new_err(format!("timeout must be a number >= 0, not {seconds}")));
        }
        *lock(&self.timeout) = value;
        Ok(())
    }

    /// Return the timeout in seconds, or None.
    fn gettimeout(&self) -> Option<f64> {
        *lock(&self.timeout)
    }

    /// `settimeout(None)` if `flag` is true, otherwise `settimeout(0.0)`.
    #[pyo3(signature = (flag, /))]
    fn setblocking(&self, flag: bool) -> PyResult<()> {
        self.settimeout(if flag { None } else { Some(0.0) })
    }

    /// Return a descriptor of the connection to wait on, or -1 after `close()`.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        if self.taken().as_ref().is_some_and(|taken| taken.is_closed) {
            return Ok(-1);
        }
        self.with_duplicate(py, |duplicate| Ok(duplicate.as_raw_fd()))
    }

    /// Return the address of the peer, as `socket.getpeername` does.
    fn getpeername<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, "getpeername", &PyTuple::empty(py))
    }

    /// Return the address of the server's side, as `socket.getsockname` does.
    fn getsockname<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, "getsockname", &PyTuple::empty(py))
    }

    /// Return a socket option, as `socket.getsockopt` does.
    #[pyo3(signature = (*args))]
    fn getsockopt<'py>(&self, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        self.call(args.py(), "getsockopt", args)
    }

    /// Set a socket option, as `socket.setsockopt` does.
    #[pyo3(signature = (*args))]
    fn setsockopt(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.call(args.py(), "setsockopt", args).map(drop)
    }
}

impl ClientSocket {
    fn duplicate(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        lock(&self.duplicate)
    }

    fn with_duplicate<R>(&self, py: Python<'_>, action: impl FnOnce(&OwnedFd) -> PyResult<R>) -> PyResult<R> {
        let stream = self.stream(py)?;
        let mut duplicate = self.duplicate();
        if duplicate.is_none() {
            *duplicate = Some(stream.as_fd().try_clone_to_owned()?);
        }
        duplicate.as_ref().map_or_else(|| Err(os_error(rustix::io::Errno::BADF)), action)
    }

    /// Calls a method of `socket.socket` on the connection.
    fn call<'py>(&self, py: Python<'py>, name: &str, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        // The call gets a socket object of its own on a descriptor of its own, which that object closes.
        let own = self.with_duplicate(py, |duplicate| Ok(duplicate.try_clone()?))?;
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("fileno", own.as_raw_fd())?;
        let socket = py.import("socket")?.call_method("socket", PyTuple::empty(py), Some(&kwargs))?;
        let _ = own.into_raw_fd();
        let result = socket.call_method1(name, args);
        socket.call_method0("close")?;
        result
    }
}
