//! A connected stream socket, non-blocking, registered with the loop for its whole life.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::pace::Pace;
use super::sent_file::SentFile;
use super::transport::{Secured, Transport};
use super::{forks, unacknowledged};
use crate::event_loop::{self, Interest, SourceId, Wake, streams, turn};
use crate::kernel::timespec_until;

/// Bytes that one sendfile(2) call may move: it blocks the loop while the file is read from disk.
const SENDFILE_BYTES: usize = 1024 * 1024;

/// Bytes of a file that are read at a time, to be enciphered.
const FILE_BYTES: usize = 64 * 1024;

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
    /// What epoll_ctl(2) reports; the socket is then closed.
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
    /// What read(2) reports; the connection is then of no more use.
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
                    // A short read has emptied the socket, and an edge will tell of more; but the edge of the end of
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

    /// Writes all of `parts`, to a peer that is waited for as `pace` says.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::TimedOut`] when the patience of `pace` is over.
    ///
    /// # Parks
    pub fn write_all(&self, parts: &[&[u8]], pace: &Pace) -> Result<(), Failure> {
        if let Some(secured) = &self.secured {
            return self.write_secured(secured, parts, pace);
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut sent = 0;
        while sent < total {
            give_way(sent > 0)?;
            match self.write_from(parts, sent) {
                Ok(written) => sent += written,
                Err(Errno::AGAIN) => self.wait_to_write(pace)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(())
    }

    /// Writes some of `data`, at least a byte, by `deadline`; none: whenever it comes. Returns how much.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Parks
    pub fn write_some(&self, data: &[u8], deadline: Option<Instant>) -> Result<usize, Failure> {
        while !data.is_empty() {
            let taken = self.give_now(data).map_err(Failure::Gone)?;
            if self.has_work() {
                self.work(false);
            }
            if taken > 0 {
                return Ok(taken);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::TimedOut);
            }
            if self.is_worked_on() { self.pause(deadline)? } else { self.wait(Interest::Write, deadline)? }
        }
        Ok(0)
    }

    /// Sends what can be sent now of `data`, or, where the stream is enciphered, keeps it for [`Self::work`]. Returns how
    /// much it took, 0 for nothing now. Runs no Python.
    ///
    /// # Errors
    /// What send(2) reports; the connection is then of no more use.
    pub fn give_now(&self, data: &[u8]) -> io::Result<usize> {
        if let Some(secured) = &self.secured {
            return if secured.flush(&self.socket)? { secured.give(data) } else { Ok(0) };
        }
        loop {
            match rustix::net::send(&self.socket, data, SendFlags::NOSIGNAL) {
                Ok(sent) => return Ok(sent),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what [`Self::give_now`] has taken, [`Self::work`] enciphered, and the socket not taken. Whether nothing is left.
    /// Runs no Python.
    ///
    /// # Errors
    /// What send(2) reports.
    pub fn flush_now(&self) -> io::Result<bool> {
        self.secured.as_ref().map_or(Ok(true), |secured| secured.flush(&self.socket))
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

    fn write_secured(&self, secured: &Secured, parts: &[&[u8]], pace: &Pace) -> Result<(), Failure> {
        for part in parts {
            let mut rest = *part;
            loop {
                give_way(true)?;
                let taken = if rest.is_empty() { 0 } else { secured.give(rest).map_err(Failure::Gone)? };
                rest = rest.get(taken..).unwrap_or_default();
                if secured.has_work() {
                    secured.work(&self.socket, false, false);
                }
                if secured.flush(&self.socket).map_err(Failure::Gone)? {
                    if rest.is_empty() {
                        break;
                    }
                } else if self.is_worked_on() {
                    self.pause(None)?;
                } else {
                    self.wait_to_write(pace)?;
                }
            }
        }
        Ok(())
    }

    /// One system call's worth of `parts` beyond the first `skip` bytes.
    fn write_from(&self, parts: &[&[u8]], mut skip: usize) -> Result<usize, Errno> {
        if let [only] = parts {
            return rustix::net::send(&self.socket, only.get(skip..).unwrap_or_default(), SendFlags::NOSIGNAL);
        }
        let mut slices = Vec::with_capacity(parts.len());
        for part in parts {
            let left = part.get(skip.min(part.len())..).unwrap_or_default();
            skip -= part.len() - left.len();
            if !left.is_empty() {
                slices.push(IoSlice::new(left));
            }
        }
        // Python ignores SIGPIPE, so writev(2), which knows no MSG_NOSIGNAL, reports EPIPE as well.
        rustix::io::writev(&self.socket, &slices)
    }

    /// Sends `length` bytes of `file` from `offset`. Returns how many there were: fewer when the file is shorter.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Parks
    pub fn send_file(&self, file: &mut SentFile, offset: u64, length: u64, pace: &Pace) -> Result<u64, Failure> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        if let Some(secured) = &self.secured {
            return self.send_file_secured(secured, file, offset..end, pace);
        }
        while at < end {
            if at > offset && turn::is_spent() {
                file.keep();
                give_way(true)?;
                file.check().map_err(Failure::Gone)?;
            }
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(SENDFILE_BYTES);
            match rustix::fs::sendfile(&self.socket, file.descriptor(), Some(&mut at), count) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    file.keep();
                    self.wait_to_write(pace)?;
                    file.check().map_err(Failure::Gone)?;
                }
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(at - offset)
    }

    fn send_file_secured(
        &self,
        secured: &Secured,
        file: &mut SentFile,
        range: Range<u64>,
        pace: &Pace,
    ) -> Result<u64, Failure> {
        let mut at = range.start;
        let mut bytes = vec![0; FILE_BYTES];
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(FILE_BYTES);
            let read = match rustix::io::pread(file.descriptor(), &mut bytes[..count], at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::Gone(error.into())),
            };
            at += read as u64;
            if at < range.end {
                // The write may wait, and the rest is read after it.
                file.keep();
            }
            self.write_secured(secured, &[&bytes[..read]], pace)?;
            if at < range.end {
                file.check().map_err(Failure::Gone)?;
            }
        }
        Ok(at - range.start)
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

    /// Makes its close a reset, for a peer that would take the end of the stream for the end of a whole message. What
    /// is still on its way is lost. A Unix socket knows no reset: there the end stays an ordinary one.
    pub fn reset_on_close(&self) {
        if let Some(secured) = &self.secured {
            secured.abandon();
        }
        self.ends_in_reset.store(true, Ordering::Relaxed);
    }

    /// Ends both directions, for whoever still uses the socket; see also [`Self::reset_on_close`].
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
        // What was received and not read still makes the close a reset, as it should (RFC 2525 2.17).
        self.shutdown_both();
    }

    /// Waits until the peer may take more: as long as it takes what was sent before, however slowly the socket's buffer
    /// empties, and `pace` has patience with it.
    fn wait_to_write(&self, pace: &Pace) -> Result<(), Failure> {
        let (mut since, mut unacknowledged) = (Instant::now(), self.unacknowledged_bytes());
        // A kernel that says that nothing waits, although the buffer is full, does not say what is taken.
        let is_known = unacknowledged > 0;
        loop {
            let waited = self.wait(Interest::Write, pace.next_look().map(|patience| since + patience));
            let (now, left) = (Instant::now(), self.unacknowledged_bytes());
            if waited.is_ok() && !is_known {
                pace.refresh();
            } else {
                let taken = unacknowledged.saturating_sub(left).max(waited.is_ok().into());
                pace.note(now - since, taken.into());
            }
            match waited {
                Err(Failure::TimedOut) if !pace.is_over() => (since, unacknowledged) = (now, left),
                other => return other,
            }
        }
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

/// A chance to switch within a transfer that has begun: a peer that takes all at once must not keep the loop for itself.
///
/// # Parks
fn give_way(has_begun: bool) -> Result<(), Failure> {
    if !has_begun || !turn::is_spent() {
        return Ok(());
    }
    match turn::give_way() {
        Wake::Killed => Err(Failure::Killed),
        Wake::Interrupted => Err(Failure::Interrupted),
        Wake::Ready | Wake::TimedOut | Wake::Closed => Ok(()),
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
