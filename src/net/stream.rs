//! A connected stream socket, non-blocking, registered with the loop for its whole life.

mod writing;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use super::transport::{Secured, Transport};
use super::{forks, unacknowledged};
use crate::event_loop::{self, Interest, SourceId, Wake, streams};
use crate::kernel::timespec_until;

/// How long to wait before looking again whether another coroutine or thread has done with the transport: it is in Python
/// code that waits, which is rare.
const TRANSPORT_PAUSE: Duration = Duration::from_millis(1);

/// Why reading or writing ended.
#[derive(Debug)]
pub enum Failure {
    /// The peer is gone, or took too long: nothing more can be sent or received.
    Gone(io::Error),
    /// No progress within the time allowed.
    TimedOut,
    /// The coroutine is asked to end.
    Killed,
    /// The coroutine is interrupted: an exception waits to be raised in it.
    Interrupted,
}

impl Failure {
    /// One line for the log.
    pub fn cause(&self) -> String {
        match self {
            Failure::Gone(error) => error.to_string(),
            Failure::TimedOut => "timed out".to_owned(),
            Failure::Killed => "the server stops".to_owned(),
            Failure::Interrupted => "the coroutine was interrupted".to_owned(),
        }
    }
}

/// One client's socket.
pub struct Stream {
    socket: OwnedFd,
    source: SourceId,
    secured: Option<Secured>,
    /// The peer is not to take the end for an ordinary one.
    ends_in_reset: AtomicBool,
}

impl Stream {
    /// Registers `socket` with the loop, for the service's `owner`.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2); the socket is then closed.
    pub fn new(socket: OwnedFd, owner: usize) -> io::Result<Stream> {
        let source = streams::add(socket.as_fd(), owner)?;
        forks::own(socket.as_fd());
        Ok(Stream { socket, source, secured: None, ends_in_reset: AtomicBool::new(false) })
    }

    /// From now on, what is read and written goes through `transport`.
    pub fn secure(&mut self, transport: Box<dyn Transport>) {
        self.secured = Some(Secured::new(transport));
    }

    /// Its name in the loop.
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Appends what can be read now to `buffer`, within its spare capacity. `Ok(None)`: nothing now. `Ok(Some(0))`: the
    /// end of the stream, or no spare capacity.
    ///
    /// # Errors
    /// Errors of read(2); the connection is then of no more use.
    ///
    /// # Parks
    /// Where the stream is enciphered and Python code of the transport waits.
    pub fn read_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let read = self.take_now(buffer)?;
        if read.is_some() || self.secured.is_none() {
            return Ok(read);
        }
        self.work(true);
        self.take_now(buffer)
    }

    /// As [`Self::read`], but what it appends is still there to be read. `buffer` is empty.
    ///
    /// # Errors
    /// As for [`Self::read`].
    ///
    /// # Parks
    pub fn peek(&self, buffer: &mut Vec<u8>, timeout: Option<Duration>) -> Result<usize, Failure> {
        if let Some(secured) = &self.secured {
            let read = self.read(buffer, timeout)?;
            secured.put_back(buffer);
            return Ok(read);
        }
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            match rustix::net::recv(&self.socket, rustix::buffer::spare_capacity(buffer), RecvFlags::PEEK) {
                Ok((read, _)) => return Ok(read),
                Err(Errno::AGAIN) => self.wait(Interest::Read, deadline)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
    }

    /// As [`Self::read_now`], but of an enciphered stream only what [`Self::work`] has deciphered. Runs no Python.
    ///
    /// # Errors
    /// As for [`Self::read_now`].
    pub fn take_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let Some(secured) = &self.secured else {
            return self.read_socket_now(buffer, streams::about_to_read(self.source));
        };
        let read = secured.take(buffer)?;
        if secured.has_more() {
            streams::may_have_more(self.source);
        }
        Ok(read)
    }

    /// Enciphers and sends what [`Self::give_now`] has taken; if it `reads`, also deciphers what has arrived, for
    /// [`Self::take_now`]. Nothing where the stream is not enciphered. No lock may be held: this runs Python code. False if
    /// another coroutine or thread is at it, which then does this as well.
    ///
    /// # Parks
    /// Where that code waits.
    pub fn work(&self, reads: bool) -> bool {
        let Some(secured) = &self.secured else { return true };
        let peer_closed = reads && streams::about_to_read(self.source);
        let worked = secured.work(&self.socket, reads, peer_closed);
        if reads && (!worked || secured.has_more()) {
            streams::may_have_more(self.source);
        }
        worked
    }

    /// Whether something waits for [`Self::work`] that was given.
    pub fn has_work(&self) -> bool {
        self.secured.as_ref().is_some_and(Secured::has_work)
    }

    /// Whether [`Self::take_now`] has more to give, at once or after [`Self::work`]. False where the stream is not
    /// enciphered.
    pub fn has_more(&self) -> bool {
        self.secured.as_ref().is_some_and(Secured::has_more)
    }

    /// Throws away what can be read now, whether or not it is enciphered. `Ok(None)` and `Ok(Some(0))` as for
    /// [`Self::read_now`]; `buffer` is empty.
    ///
    /// # Errors
    /// As for [`Self::read_now`].
    pub fn discard_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let read = self.read_socket_now(buffer, streams::about_to_read(self.source));
        buffer.clear();
        read
    }

    fn read_socket_now(&self, buffer: &mut Vec<u8>, peer_closed: bool) -> io::Result<Option<usize>> {
        loop {
            let room = buffer.capacity() - buffer.len();
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(buffer)) {
                Ok(read) => {
                    // A short read has emptied the socket, and an edge announces more input. The edge of the end of
                    // the stream has come already if the poller says so.
                    if read > 0 && (read == room || peer_closed) {
                        streams::may_have_more(self.source);
                    }
                    return Ok(Some(read));
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Appends at least one byte to `buffer`, which has spare capacity; 0 at the end of the stream.
    ///
    /// # Errors
    /// See [`Failure`]; `timeout` without a byte is [`Failure::TimedOut`], none waits for ever.
    ///
    /// # Parks
    pub fn read(&self, buffer: &mut Vec<u8>, timeout: Option<Duration>) -> Result<usize, Failure> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            match self.read_now(buffer) {
                Ok(Some(read)) => return Ok(read),
                Ok(None) if self.is_worked_on() => self.pause(deadline)?,
                Ok(None) => self.wait(Interest::Read, deadline)?,
                Err(error) => return Err(Failure::Gone(error)),
            }
        }
    }

    /// Bytes that have arrived and are not yet read, enciphered ones where the stream is.
    pub fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.socket).unwrap_or(0)
    }

    /// Bytes that the socket has taken and the peer has not, as far as its kernel tells: what [`Self::give_now`] took is
    /// no measure of what has arrived. Enciphered ones, where the stream is.
    pub fn unacknowledged_bytes(&self) -> u32 {
        unacknowledged::unacknowledged_bytes(self.socket.as_fd())
    }

    /// Says that nothing more will be sent, so that the peer sees the end even if it still sends.
    ///
    /// # Parks
    /// Where the stream is enciphered and Python code of the transport waits.
    pub fn shutdown_write(&self) {
        self.end_writing();
        if self.has_work() {
            self.work(false);
        }
    }

    /// As [`Self::shutdown_write`], but where the stream is enciphered, [`Self::work`] is to do it. Runs no Python.
    pub fn end_writing(&self) {
        if !self.secured.as_ref().is_some_and(Secured::close) {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Nothing more will be received; what has arrived can still be read.
    pub fn shutdown_read(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    /// Makes its close a reset, for a peer that would take the end of the stream for the end of a whole message. Bytes
    /// still on their way are lost. A Unix socket knows no reset: there the end stays an ordinary one.
    pub fn reset_on_close(&self) {
        if let Some(secured) = &self.secured {
            secured.abandon();
        }
        self.ends_in_reset.store(true, Ordering::Relaxed);
    }

    /// Ends both directions, for every user of the socket; see also [`Self::reset_on_close`].
    pub fn shutdown_both(&self) {
        if self.ends_in_reset.load(Ordering::Relaxed) && rustix::net::connect_unspec(&self.socket).is_ok() {
            return;
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Ends the connection itself. Closing the descriptor does so only if no other process has inherited it.
    fn end(&self) {
        if self.secured.as_ref().is_some_and(Secured::close) {
            self.work(false);
        }
        // Bytes that were received but not read still make the close a reset, as they should (RFC 2525 2.17).
        self.shutdown_both();
    }

    /// Whether another coroutine or thread is in Python code of the transport.
    fn is_worked_on(&self) -> bool {
        self.secured.as_ref().is_some_and(Secured::is_working)
    }

    /// Lets it go on.
    fn pause(&self, deadline: Option<Instant>) -> Result<(), Failure> {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Failure::TimedOut);
        }
        if !event_loop::can_park() {
            std::thread::sleep(TRANSPORT_PAUSE);
            return Ok(());
        }
        match event_loop::sleep(Instant::now() + TRANSPORT_PAUSE) {
            Wake::Killed => Err(Failure::Killed),
            Wake::Interrupted => Err(Failure::Interrupted),
            _ => Ok(()),
        }
    }

    /// Parks, or on another OS thread blocks, until the direction may be ready.
    fn wait(&self, interest: Interest, deadline: Option<Instant>) -> Result<(), Failure> {
        if !event_loop::can_park() {
            return self.block(interest, deadline);
        }
        match event_loop::wait_stream(self.source, interest, deadline) {
            Wake::Ready => Ok(()),
            Wake::TimedOut => Err(Failure::TimedOut),
            Wake::Closed => Err(Failure::Gone(io::Error::from(io::ErrorKind::ConnectionAborted))),
            Wake::Killed => Err(Failure::Killed),
            Wake::Interrupted => Err(Failure::Interrupted),
        }
    }

    fn block(&self, interest: Interest, deadline: Option<Instant>) -> Result<(), Failure> {
        let flags = if interest == Interest::Read { PollFlags::IN } else { PollFlags::OUT };
        let timeout = deadline.map(timespec_until);
        match poll(&mut [PollFd::new(&self.socket, flags)], timeout.as_ref()) {
            Ok(0) => Err(Failure::TimedOut),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(Failure::Gone(error.into())),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // In a forked child it is the parent's to end.
        if !forks::is_child() {
            self.end();
        }
        forks::disown(self.socket.as_fd());
        // Dropped on another thread (an application kept wsgi.input there), the registration goes with the descriptor,
        // and the source's slot is reclaimed when the loop ends.
        streams::remove(self.source, None);
    }
}
