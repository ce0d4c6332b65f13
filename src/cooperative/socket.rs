//! The calls of `socket.socket` that receive and send. Each is tried at once, without blocking, whatever the
//! descriptor's flags are, and then waited for in the event loop.
//!
//! `recv`, `recv_into`, `send` and `sendall` make their system calls here, since they are called for every message. All
//! other calls go to their C functions through [`repeat`], with MSG_DONTWAIT. The rest of a socket is Python
//! (`rmeinheld.patch._socket`).

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use pyo3::exceptions::{PyBlockingIOError, PyMemoryError, PyTimeoutError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PySlice, PyTuple};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, sockopt};

use super::socket_fields::{base, descriptor_and_timeout};
use super::timeouts::give_way;
use crate::event_loop::{self, Interest, Wake};
use crate::interp::{Lent, call_on_thread, deadline_after, io_error, os_error, wake_error};
use crate::kernel::LentDescriptor;

/// Size of the buffer into which all calls of the loop thread receive. A call for more gets a buffer of its own.
const SCRATCH_BYTES: usize = 64 * 1024;

/// The most bytes that one call receives: `recv` of a stream may return fewer than it was asked for, and no datagram is
/// larger.
const LARGEST_RECEIVE: usize = 4 * 1024 * 1024;

/// MSG_DONTWAIT: the call does not wait, whatever the flags of the descriptor are.
const DONTWAIT: u32 = RecvFlags::DONTWAIT.bits();

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A call of a socket in progress.
struct SocketCall<'a, 'py> {
    socket: &'a Bound<'py, PyAny>,
    descriptor: LentDescriptor,
    /// The timeout in seconds; None waits for ever, 0 does not wait.
    timeout: Option<f64>,
    deadline: Option<Instant>,
}

impl<'a, 'py> SocketCall<'a, 'py> {
    /// A call with these flags. With MSG_DONTWAIT it does not wait.
    fn new(socket: &'a Bound<'py, PyAny>, flags: u32) -> PyResult<SocketCall<'a, 'py>> {
        let (descriptor, timeout) = descriptor_and_timeout(socket)?;
        let timeout =
            if RecvFlags::from_bits_retain(flags).contains(RecvFlags::DONTWAIT) { Some(0.0) } else { timeout };
        let descriptor = LentDescriptor::new(descriptor).map_err(os_error)?;
        Ok(SocketCall { socket, descriptor, timeout, deadline: None })
    }

    /// Makes a system call until it need not wait any more.
    ///
    /// # Parks
    fn complete<T>(
        &mut self,
        interest: Interest,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> PyResult<T> {
        let (py, descriptor) = (self.socket.py(), self.descriptor);
        self.complete_with(interest, || {
            loop {
                match attempt(descriptor.as_fd()) {
                    Ok(done) => return Ok(Some(done)),
                    Err(Errno::AGAIN) => return Ok(None),
                    Err(Errno::INTR) => py.check_signals()?,
                    Err(error) => return Err(os_error(error)),
                }
            }
        })
    }

    /// Calls `attempt` until it returns a value.
    ///
    /// # Parks
    fn complete_with<T>(
        &mut self,
        interest: Interest,
        mut attempt: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<T> {
        give_way(self.socket.py(), self.timeout != Some(0.0))?;
        loop {
            match attempt()? {
                Some(done) => return Ok(done),
                None => self.wait(interest)?,
            }
        }
    }

    /// Calls `function(socket, *arguments)`, a method of `_socket.socket` that gets MSG_DONTWAIT, until it need not
    /// wait any more.
    ///
    /// # Parks
    fn complete_call(
        &mut self,
        interest: Interest,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, socket) = (self.socket.py(), self.socket);
        let arguments: Vec<_> = std::iter::once(socket.clone()).chain(arguments.iter()).collect();
        let arguments = PyTuple::new(py, arguments)?;
        self.complete_with(interest, || match without_timeout(socket, function, &arguments) {
            Ok(result) => Ok(Some(result)),
            Err(error) if error.is_instance_of::<PyBlockingIOError>(py) => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Whether the call returns only with all bytes that it was asked for: MSG_WAITALL, which recv(2) heeds on a
    /// blocking stream.
    fn wants_all(&self, flags: RecvFlags) -> bool {
        // Not with MSG_PEEK: the bytes stay in the socket, so no event says when there are more.
        flags.contains(RecvFlags::WAITALL)
            && !flags.intersects(RecvFlags::PEEK | RecvFlags::OOB)
            && self.timeout.is_none()
            && sockopt::socket_type(self.descriptor) == Ok(SocketType::STREAM)
    }

    /// Receives until there are `size` bytes, `received` of which are there already. Returns fewer at the end of the
    /// stream and before an error, which is left for the next call. `receive` is given the number of bytes so far.
    ///
    /// # Parks
    fn receive_all(
        &mut self,
        size: usize,
        mut received: usize,
        mut receive: impl FnMut(BorrowedFd<'_>, usize) -> Result<usize, Errno>,
    ) -> PyResult<usize> {
        while received < size {
            let more = self.complete(Interest::Read, |descriptor| {
                if received > 0 && has_failed(descriptor) { Ok(0) } else { receive(descriptor, received) }
            })?;
            if more == 0 {
                break;
            }
            received += more;
        }
        Ok(received)
    }

    /// # Parks
    fn wait(&mut self, interest: Interest) -> PyResult<()> {
        match self.timeout {
            Some(0.0) => return Err(os_error(Errno::AGAIN)),
            Some(seconds) if self.deadline.is_none() => self.deadline = Some(deadline_after("timeout", seconds)?),
            _ => {}
        }
        match event_loop::wait_descriptor(self.descriptor.number(), interest, self.deadline).map_err(io_error)? {
            // Another thread has closed the socket during the wait: the number may be another file's by now.
            Wake::Ready if descriptor_and_timeout(self.socket)?.0 != self.descriptor.number() => {
                Err(os_error(Errno::BADF))
            }
            Wake::Ready => Ok(()),
            Wake::TimedOut => Err(PyTimeoutError::new_err("timed out")),
            wake => Err(wake_error(wake)),
        }
    }
}

/// `socket.recv`.
///
/// # Errors
/// Those of `socket.recv`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn receive<'py>(socket: &Bound<'py, PyAny>, size: isize, flags: u32) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    if !event_loop::can_park() {
        return on_this_thread(py, "recv", (socket, size, flags));
    }
    let size = usize::try_from(size).map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
    if size == 0 {
        return Ok(PyBytes::new(py, &[]).into_any());
    }
    let mut call = SocketCall::new(socket, flags)?;
    let flags = RecvFlags::from_bits_retain(flags) | RecvFlags::DONTWAIT;
    if call.wants_all(flags) {
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(size).map_err(|_| PyMemoryError::new_err(()))?;
        buffer.resize(size, 0);
        let received = call.receive_all(size, 0, |descriptor, from| {
            let room = buffer.get_mut(from..).unwrap_or_default();
            rustix::net::recv(descriptor, room, flags).map(|(_, received)| received)
        })?;
        return Ok(PyBytes::new(py, buffer.get(..received).unwrap_or_default()).into_any());
    }
    let size = size.min(LARGEST_RECEIVE);
    if size > SCRATCH_BYTES {
        return Ok(call
            .complete(Interest::Read, |descriptor| {
                let mut buffer = Vec::with_capacity(size);
                rustix::net::recv(descriptor, rustix::buffer::spare_capacity(&mut buffer), flags)?;
                Ok(PyBytes::new(py, &buffer))
            })?
            .into_any());
    }
    let received = call.complete(Interest::Read, |descriptor| {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH_BYTES, 0);
            let room = scratch.get_mut(..size).unwrap_or_default();
            let (_, received) = rustix::net::recv(descriptor, &mut *room, flags)?;
            Ok(PyBytes::new(py, room.get(..received.min(size)).unwrap_or_default()))
        })
    });
    Ok(received?.into_any())
}

/// `socket.recv_into`.
///
/// # Errors
/// Those of `socket.recv_into`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn receive_into(socket: &Bound<'_, PyAny>, buffer: &Bound<'_, PyAny>, size: isize, flags: u32) -> PyResult<usize> {
    let py = socket.py();
    if !event_loop::can_park() {
        return on_this_thread(py, "recv_into", (socket, buffer, size, flags))?.extract();
    }
    let size = usize::try_from(size).map_err(|_| PyValueError::new_err("negative buffersize in recv_into"))?;
    let mut lent = Lent::writable(buffer)?;
    if lent.bytes_mut(py).len() < size {
        return Err(PyValueError::new_err("buffer too small for requested bytes"));
    }
    let size = if size == 0 { lent.bytes_mut(py).len() } else { size };
    if size == 0 {
        return Ok(0);
    }
    let mut call = SocketCall::new(socket, flags)?;
    let flags = RecvFlags::from_bits_retain(flags) | RecvFlags::DONTWAIT;
    let mut receive = |descriptor: BorrowedFd<'_>, from: usize| {
        let room = lent.bytes_mut(py).get_mut(from..size).unwrap_or_default();
        rustix::net::recv(descriptor, room, flags).map(|(_, received)| received)
    };
    if call.wants_all(flags) {
        return call.receive_all(size, 0, receive);
    }
    call.complete(Interest::Read, |descriptor| receive(descriptor, 0))
}

/// `socket.send`.
///
/// # Errors
/// Those of `socket.send`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn send(socket: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: u32) -> PyResult<usize> {
    let py = socket.py();
    if !event_loop::can_park() {
        return on_this_thread(py, "send", (socket, data, flags))?.extract();
    }
    let lent = Lent::readable(data)?;
    let mut call = SocketCall::new(socket, flags)?;
    let flags = SendFlags::from_bits_retain(flags) | SendFlags::DONTWAIT;
    call.complete(Interest::Write, |descriptor| rustix::net::send(descriptor, lent.bytes(py), flags))
}

/// `socket.sendall`.
///
/// # Errors
/// Those of `socket.sendall`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn send_all(socket: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>, flags: u32) -> PyResult<()> {
    let py = socket.py();
    if !event_loop::can_park() {
        on_this_thread(py, "sendall", (socket, data, flags))?;
        return Ok(());
    }
    let lent = Lent::readable(data)?;
    let mut call = SocketCall::new(socket, flags)?;
    let flags = SendFlags::from_bits_retain(flags) | SendFlags::DONTWAIT;
    let mut sent = 0;
    loop {
        sent += call.complete(Interest::Write, |descriptor| {
            rustix::net::send(descriptor, lent.bytes(py).get(sent..).unwrap_or_default(), flags)
        })?;
        if sent >= lent.bytes(py).len() {
            return Ok(());
        }
    }
}

/// `socket.recvfrom`.
///
/// # Errors
/// Those of `socket.recvfrom`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn receive_from<'py>(socket: &Bound<'py, PyAny>, size: isize, flags: u32) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    if !event_loop::can_park() {
        return on_this_thread(py, "recvfrom", (socket, size, flags));
    }
    let mut call = SocketCall::new(socket, flags)?;
    if size > 0 && call.wants_all(RecvFlags::from_bits_retain(flags)) {
        let buffer = py.get_type::<PyByteArray>().call1((size,))?;
        let (received, address) = receive_all_from(&mut call, &buffer, 0, flags)?;
        let received = buffer.get_item(PySlice::new(py, 0, received.cast_signed(), 1))?;
        return Ok((py.get_type::<PyBytes>().call1((received,))?, address).into_pyobject(py)?.into_any());
    }
    let function = base(py)?.getattr(intern!(py, "recvfrom"))?;
    call.complete_call(Interest::Read, &function, &(size, flags | DONTWAIT).into_pyobject(py)?)
}

/// `socket.recvfrom_into`.
///
/// # Errors
/// Those of `socket.recvfrom_into`, and what is raised in a coroutine that waits.
///
/// # Parks
pub fn receive_from_into<'py>(
    socket: &Bound<'py, PyAny>,
    buffer: &Bound<'py, PyAny>,
    size: isize,
    flags: u32,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    if !event_loop::can_park() {
        return on_this_thread(py, "recvfrom_into", (socket, buffer, size, flags));
    }
    let mut call = SocketCall::new(socket, flags)?;
    if call.wants_all(RecvFlags::from_bits_retain(flags)) {
        return Ok(receive_all_from(&mut call, buffer, size, flags)?.into_pyobject(py)?.into_any());
    }
    let function = base(py)?.getattr(intern!(py, "recvfrom_into"))?;
    call.complete_call(Interest::Read, &function, &(buffer, size, flags | DONTWAIT).into_pyobject(py)?)
}

/// Receives as MSG_WAITALL wants it: the first part with the sender's address, as the C function gives it, and then the
/// rest.
///
/// # Parks
fn receive_all_from<'py>(
    call: &mut SocketCall<'_, 'py>,
    buffer: &Bound<'py, PyAny>,
    size: isize,
    flags: u32,
) -> PyResult<(usize, Bound<'py, PyAny>)> {
    let py = buffer.py();
    let function = base(py)?.getattr(intern!(py, "recvfrom_into"))?;
    let first = call.complete_call(Interest::Read, &function, &(buffer, size, flags | DONTWAIT).into_pyobject(py)?)?;
    let (received, address) = first.extract::<(usize, Bound<'py, PyAny>)>()?;
    let mut lent = Lent::writable(buffer)?;
    let size = usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or_else(|| lent.length());
    if received == 0 {
        return Ok((received, address));
    }
    let flags = RecvFlags::from_bits_retain(flags) | RecvFlags::DONTWAIT;
    let received = call.receive_all(size, received, |descriptor, from| {
        let room = lent.bytes_mut(py).get_mut(from..size).unwrap_or_default();
        rustix::net::recv(descriptor, room, flags).map(|(_, received)| received)
    })?;
    Ok((received, address))
}

/// Calls `function(socket, *arguments)`, which gets MSG_DONTWAIT where it takes flags, until it raises no
/// BlockingIOError. Returns its result.
///
/// # Errors
/// OSError for a closed socket, TimeoutError after the socket's timeout, the errors of `function`, and what is raised
/// in a coroutine that waits.
///
/// # Parks
pub fn repeat<'py>(
    socket: &Bound<'py, PyAny>,
    interest: Interest,
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    SocketCall::new(socket, 0)?.complete_call(interest, function, arguments)
}

/// Calls a method of `_socket.socket`, which blocks this OS thread.
fn on_this_thread<'py>(
    py: Python<'py>,
    method: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    call_on_thread(&base(py)?.getattr(method)?, &arguments.into_pyobject(py)?)
}

/// Calls a function that would wait in C for a socket's timeout. The timeout is 0 during the call.
///
/// It is read anew for each call, because other code may set it while the caller waits.
fn without_timeout<'py>(
    socket: &Bound<'py, PyAny>,
    function: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = socket.py();
    let base = base(py)?;
    let before = base.call_method1(intern!(py, "gettimeout"), (socket,))?;
    if before.is_none() || before.eq(0.0)? {
        return function.call1(arguments);
    }
    base.call_method1(intern!(py, "settimeout"), (socket, 0.0))?;
    let result = function.call1(arguments);
    // The function may have closed the socket.
    if descriptor_and_timeout(socket)?.0 >= 0 {
        base.call_method1(intern!(py, "settimeout"), (socket, before))?;
    }
    result
}

/// Whether an error waits to be reported by the next call, which would clear it.
fn has_failed(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}
