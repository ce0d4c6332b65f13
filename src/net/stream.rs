//! A connected, non-blocking stream socket, known to the loop for its whole life.

mod writing;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};

use super::transport::{Secured, Transport};
use super::{Receives, forks, traffic, unacknowledged};
use crate::event_loop::{self, Interest, SourceId, Wake, streams};
use crate::kernel::timespec_until;

/// The time between two checks whether another coroutine or thread has finished with the transport. These checks are
/// rare: Python code of the transport must itself wait.
const TRANSPORT_PAUSE: Duration = Duration::from_millis(1);

/// The reason why reading or writing failed.
#[derive(Debug)]
pub enum Failure {
    /// The peer is gone, or took too long. Nothing more can be sent or received.
    Gone(io::Error),
    /// The deadline passed without progress.
    TimedOut,
    /// The coroutine was killed, and must end.
    Killed,
    /// The coroutine was interrupted: an exception is pending in it.
    Interrupted,
}

impl Failure {
    /// The reason, as one line for the log.
    pub fn cause(&self) -> String {
        match self {
            Failure::Gone(error) => error.to_string(),
            Failure::TimedOut => "timed out".to_owned(),
            Failure::Killed => "the server stops".to_owned(),
            Failure::Interrupted => "the coroutine was interrupted".to_owned(),
        }
    }
}

/// The socket of one client.
pub struct Stream {
    socket: OwnedFd,
    source: SourceId,
    /// Boxed, since most connections are not encrypted.
    secured: Option<Box<Secured>>,
    /// Whether closing resets the connection, so that the peer does not see an ordinary end.
    ends_in_reset: AtomicBool,
    /// Whether the connection goes on in another process, so that closing the descriptor must not end it.
    has_left: AtomicBool,
    /// The part of an answer that is still to be sent, for [`held`](super::held).
    pub(super) unsent: AtomicU8,
}

impl Stream {
    /// Adds `socket` to the loop. `owner` is the service's number for the connection.
    ///
    /// # Errors
    /// Fails on another thread than the loop's. The socket is then closed.
    pub fn new(socket: OwnedFd, owner: usize) -> io::Result<Stream> {
        let source = streams::add(socket.as_fd(), owner)?;
        forks::own(socket.as_fd());
        Ok(Stream {
            socket,
            source,
            secured: None,
            ends_in_reset: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
            unsent: AtomicU8::default(),
        })
    }

    /// Passes all later reads and writes through `transport`.
    pub fn secure(&mut self, transport: Box<dyn Transport>) {
        self.secured = Some(Box::new(Secured::new(transport)));
    }

    /// Whether reads and writes pass through a transport.
    pub fn is_encrypted(&self) -> bool {
        self.secured.is_some()
    }

    /// The number of the socket's descriptor, for reports.
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// The stream's source in the loop.
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Appends the input available now to `buffer`, up to its room. `Ok(None)`: no input now. `Ok(Some(0))`: the end of
    /// the stream, or no room.
    ///
    /// # Errors
    /// Errors of read(2). The connection is unusable afterwards.
    ///
    /// # Parks
    /// If the stream is encrypted and Python code of the transport waits.
    pub fn read_now(&self, buffer: &mut impl Receives) -> io::Result<Option<usize>> {
        let read = self.take_now(buffer)?;
        if read.is_some() || self.secured.is_none() {
            return Ok(read);
        }
        self.work(true);
        self.take_now(buffer)
    }

    /// Like [`Self::read`], but the appended bytes stay readable. `buffer` must be empty.
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

    /// Like [`Self::read_now`]. An encrypted stream only returns bytes that [`Self::work`] has decrypted. Runs no
    /// Python.
    ///
    /// # Errors
    /// As for [`Self::read_now`].
    pub fn take_now(&self, buffer: &mut impl Receives) -> io::Result<Option<usize>> {
        let Some(secured) = &self.secured else {
            return self.read_socket_now(buffer, streams::about_to_read(self.source));
        };
        let read = secured.take(buffer)?;
        if secured.has_more() {
            streams::may_have_more(self.source);
        }
        Ok(read)
    }

    /// Encrypts and sends the bytes accepted by [`Self::give_now`]. If `reads` is set, also decrypts input for
    /// [`Self::take_now`]. Does nothing on an unencrypted stream. Runs Python code, so the caller may hold no lock.
    /// Returns false if another coroutine or thread is at work, which then does this work too.
    ///
    /// # Parks
    /// If the Python code waits.
    #[inline]
    pub fn work(&self, reads: bool) -> bool {
        self.secured.as_deref().is_none_or(|secured| self.work_on(secured, reads))
    }

    fn work_on(&self, secured: &Secured, reads: bool) -> bool {
        let peer_closed = reads && streams::about_to_read(self.source);
        let worked = secured.work(&self.socket, reads, peer_closed);
        if reads && (!worked || secured.has_more()) {
            streams::may_have_more(self.source);
        }
        worked
    }

    /// Whether bytes or a close wait for [`Self::work`].
    pub fn has_work(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.has_work())
    }

    /// Whether [`Self::take_now`] can return more, at once or after [`Self::work`]. False on an unencrypted stream.
    pub fn has_more(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.has_more())
    }

    /// Discards the input available now, encrypted or not. Returns as [`Self::read_now`] does. `buffer` must be empty.
    ///
    /// # Errors
    /// As for [`Self::read_now`].
    pub fn discard_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let read = self.read_socket_now(buffer, streams::about_to_read(self.source));
        buffer.clear();
        read
    }

    fn read_socket_now(&self, buffer: &mut impl Receives, peer_closed: bool) -> io::Result<Option<usize>> {
        let room = buffer.room();
        if room == 0 {
            return Ok(Some(0));
        }
        loop {
            // For the kernel, recv(2) is less work than read(2).
            match buffer.receive(&self.socket) {
                Ok(read) => {
                    traffic::note_received(read);
                    // A short read has emptied the socket, and an edge announces more input. No edge follows once the
                    // poller has reported the end of the stream.
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

    /// Appends at least one byte to `buffer`, which must have room. Returns 0 at the end of the stream.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::TimedOut`] after `timeout` without a byte (`None`: no limit).
    ///
    /// # Parks
    pub fn read(&self, buffer: &mut impl Receives, timeout: Option<Duration>) -> Result<usize, Failure> {
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

    /// Bytes that have arrived and are still unread, encrypted if the stream is.
    pub fn unread_bytes(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.socket).unwrap_or(0)
    }

    /// Whether bytes of the peer are unread, in the kernel or decrypted. Asks the kernel.
    pub fn has_unread(&self) -> bool {
        self.has_more() || self.unread_bytes() > 0
    }

    /// Bytes sent that the peer has not acknowledged, as far as the kernel reports, encrypted if the stream is. Bytes
    /// accepted by [`Self::give_now`] have not necessarily arrived.
    pub fn unacknowledged_bytes(&self) -> u32 {
        unacknowledged::unacknowledged_bytes(self.socket.as_fd())
    }

    /// Ends sending. The peer reads the end of the stream, and may still send.
    ///
    /// # Parks
    /// If the stream is encrypted and Python code of the transport waits.
    pub fn shutdown_write(&self) {
        self.end_writing();
        if self.has_work() {
            self.work(false);
        }
    }

    /// Like [`Self::shutdown_write`], but leaves the end of an encrypted stream to [`Self::work`]. Runs no Python.
    pub fn end_writing(&self) {
        if self.has_left.load(Ordering::Relaxed) {
            return;
        }
        if !self.secured.as_ref().is_some_and(|secured| secured.close()) {
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// Ends receiving. Input that has arrived can still be read.
    pub fn shutdown_read(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    /// Makes closing reset the connection, for a peer that would take the end of the stream for the end of a whole
    /// message. Bytes in transit are lost. A Unix socket has no reset, and ends normally.
    pub fn reset_on_close(&self) {
        if let Some(secured) = &self.secured {
            secured.abandon();
        }
        self.ends_in_reset.store(true, Ordering::Relaxed);
    }

    /// Leaves the connection to another process, which has a duplicate of the socket. From now on the stream ends
    /// nothing and announces nothing; the descriptor is closed with the last reference. On the loop thread.
    pub fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
        // The duplicate keeps the registration alive, which would report the events of the other process here.
        streams::remove(self.source, Some(self.socket.as_fd()));
    }

    /// Prepares for another thread that drops the stream last, and closes its descriptor.
    pub fn may_be_dropped_elsewhere(&self) {
        streams::register(self.source);
    }

    /// Ends both directions for every holder of the socket. See also [`Self::reset_on_close`].
    pub fn shutdown_both(&self) {
        if self.has_left.load(Ordering::Relaxed) {
            return;
        }
        if self.ends_in_reset.load(Ordering::Relaxed) && rustix::net::connect_unspec(&self.socket).is_ok() {
            return;
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }

    /// Ends the connection itself. Closing the descriptor is not enough if another process has inherited it.
    fn end(&self) {
        if self.secured.as_ref().is_some_and(|secured| secured.close()) {
            self.work(false);
        }
        // Unread input still makes the close a reset, as it should (RFC 2525 2.17).
        self.shutdown_both();
    }

    /// Whether another coroutine or thread works on the transport.
    fn is_worked_on(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.is_working())
    }

    /// Lets the coroutine or thread that works on the transport continue.
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

    /// Parks until the socket may be ready in this direction. Blocks instead on another OS thread.
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
        // In a forked child, the connection still belongs to the parent.
        if !forks::is_child() {
            self.end();
        }
        forks::disown(self.socket.as_fd());
        // The stream may be dropped on another thread, if an application kept wsgi.input there. The registration then
        // ends with the descriptor, and the loop reclaims the source's slot at its own end.
        streams::remove(self.source, None);
    }
}
