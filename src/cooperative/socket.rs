//! `recv` and `send` of `socket.socket`: tried at once, without blocking whatever the descriptor's flags say, and waited
//! for in the event loop.
//!
//! Only what is called for every message is here; the rest of a socket is Python (`rmeinheld.patch._socket`).

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::time::Instant;

use pyo3::exceptions::{PyMemoryError, PyTimeoutError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType, sockopt};

use super::buffer::Lent;
use super::socket_fields::{base, descriptor_and_timeout};
use super::timeouts::give_way;
use crate::event_loop::{self, Interest, Wake};
use crate::interp::{deadline_after, os_error, wake_error};

/// Bytes of the buffer that all calls of the loop thread receive into. What asks for more gets a buffer of its own.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes that one call receives at most: a stream's `recv` may return fewer than it was asked for, and no datagram is
/// larger.
const LARGEST_RECEIVE: usize = 4 * 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A socket in a call.
struct SocketCall<'a, 'py> {
    socket: &'a Bound<'py, PyAny>,
    descriptor: RawFd,
    /// Seconds; None for ever, 0 for a socket that does not block.
    timeout: Option<f64>,
    deadline: Option<Instant>,
}

impl<'a, 'py> SocketCall<'a, 'py> {
    /// With MSG_DONTWAIT among the flags, the call does not wait.
    fn new(socket: &'a Bound<'py, PyAny>, flags: u32) -> PyResult<SocketCall<'a, 'py>> {
        let (descriptor, timeout) = descriptor_and_timeout(socket)?;
        let timeout =
            if RecvFlags::from_bits_retain(flags).contains(RecvFlags::DONTWAIT) { Some(0.0) } else { timeout };
        if descriptor < 0 {
            return Err(os_error(Errno::BADF));
        }
        Ok(SocketCall { socket, descriptor, timeout, deadline: None })
    }

    /// Tries until it need not wait any more.
    ///
    /// # Parks
    fn complete<T>(
        &mut self,
        interest: Interest,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> PyResult<T> {
        give_way(self.socket.py(), self.timeout != Some(0.0))?;
        loop {
            match attempt(event_loop::borrow_descriptor(self.descriptor).as_fd()) {
                Ok(done) => return Ok(done),
                Err(Errno::AGAIN) => self.wait(interest)?,
                Err(Errno::INTR) => self.socket.py().check_signals()?,
                Err(error) => return Err(os_error(error)),
            }
        }
    }

    /// Whether the call is to return only with all that it was asked for: MSG_WAITALL, which recv(2) heeds on a stream
    /// that it blocks on.
    fn wants_all(&self, flags: RecvFlags) -> bool {
        // Not with MSG_PEEK: what is looked at stays in the socket, and nothing tells when there is more.
        flags.contains(RecvFlags::WAITALL)
            && !flags.intersects(RecvFlags::PEEK | RecvFlags::OOB)
            && self.timeout.is_none()
            && sockopt::socket_type(event_loop::borrow_descriptor(self.descriptor)) == Ok(SocketType::STREAM)
    }

    /// Receives `size` bytes; fewer at the end of the stream, or before an error, which is left for the next call.
    /// `receive` is told how many there are already.
    ///
    /// # Parks
    fn receive_all(
        &mut self,
        size: usize,
        mut receive: impl FnMut(BorrowedFd<'_>, usize) -> Result<usize, Errno>,
    ) -> PyResult<usize> {
        let mut received = 0;
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
        match event_loop::wait_descriptor(self.descriptor, interest, self.deadline)? {
            // Closed meanwhile, in another thread: the number may be another file's by now.
            Wake::Ready if descriptor_and_timeout(self.socket)?.0 != self.descriptor => Err(os_error(Errno::BADF)),
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
        return base(py)?.call_method1(intern!(py, "recv"), (socket, size, flags));
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
        let received = call.receive_all(size, |descriptor, from| {
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
        return base(py)?.call_method1(intern!(py, "recv_into"), (socket, buffer, size, flags))?.extract();
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
        return call.receive_all(size, receive);
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
        return base(py)?.call_method1(intern!(py, "send"), (socket, data, flags))?.extract();
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
        base(py)?.call_method1(intern!(py, "sendall"), (socket, data, flags))?;
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

/// Whether an error waits to be reported by the next call, which would clear it.
fn has_failed(descriptor: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).is_ok() && polled[0].revents().contains(PollFlags::ERR)
}
