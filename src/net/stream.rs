//! A connected stream socket, non-blocking, registered with the loop for its whole life.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::transport::{Secured, Transport};
use super::untaken;
use crate::event_loop::{self, Interest, SourceId, Wake, streams, turn};

/// Bytes that one sendfile(2) call may move: it blocks the loop while the file is read from disk.
const SENDFILE_BYTES: usize = 1024 * 1024;

/// Bytes that are enciphered at a time: what waits for a slow client is no more than this.
const SECURED_BYTES: usize = 64 * 1024;

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
}

impl Stream {
    /// Registers `socket` with the loop, for the service's `owner`.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports; the socket is then closed.
    pub fn new(socket: OwnedFd, owner: usize) -> io::Result<Stream> {
        let source = streams::add(socket.as_fd(), owner)?;
        Ok(Stream { socket, source, secured: None })
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
    pub fn read_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let peer_closed = streams::about_to_read(self.source);
        if let Some(secured) = &self.secured {
            let (read, may_have_more) = secured.read_now(&self.socket, buffer, peer_closed)?;
            if may_have_more {
                streams::may_have_more(self.source);
            }
            return Ok(read);
        }
        self.read_socket_now(buffer, peer_closed)
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
                Ok(None) => self.wait(Interest::Read, deadline)?,
                Err(error) => return Err(Failure::Gone(error)),
            }
        }
    }

    /// Writes all of `parts`.
    ///
    /// # Errors
    /// See [`Failure`]; `timeout` without progress is [`Failure::TimedOut`], none waits for ever.
    ///
    /// # Parks
    pub fn write_all(&self, parts: &[&[u8]], timeout: Option<Duration>) -> Result<(), Failure> {
        if let Some(secured) = &self.secured {
            return self.write_secured(secured, parts, timeout);
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut sent = 0;
        while sent < total {
            give_way(sent > 0)?;
            match self.write_from(parts, sent) {
                Ok(written) => sent += written,
                Err(Errno::AGAIN) => self.wait(Interest::Write, timeout.map(|timeout| Instant::now() + timeout))?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(())
    }

    /// Sends what can be sent now of `data`. Returns how much it took, 0 for nothing now.
    ///
    /// # Errors
    /// What send(2) reports; the connection is then of no more use.
    pub fn write_now(&self, data: &[u8]) -> io::Result<usize> {
        if let Some(secured) = &self.secured {
            if !secured.flush(&self.socket)? {
                return Ok(0);
            }
            let piece = data.get(..SECURED_BYTES).unwrap_or(data);
            secured.write(piece)?;
            secured.flush(&self.socket)?;
            return Ok(piece.len());
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

    /// Sends what [`Self::write_now`] has taken and the socket has not. Whether that was everything.
    ///
    /// # Errors
    /// What send(2) reports.
    pub fn flush_now(&self) -> io::Result<bool> {
        self.secured.as_ref().map_or(Ok(true), |secured| secured.flush(&self.socket))
    }

    /// Bytes that the socket has taken and the peer has not, as far as its kernel tells: what [`Self::write_now`] took is
    /// no measure of what has arrived. Enciphered ones, where the stream is.
    pub fn untaken_bytes(&self) -> u32 {
        untaken::untaken_bytes(self.socket.as_fd())
    }

    fn write_secured(&self, secured: &Secured, parts: &[&[u8]], timeout: Option<Duration>) -> Result<(), Failure> {
        for part in parts {
            for piece in part.chunks(SECURED_BYTES) {
                give_way(true)?;
                secured.write(piece).map_err(Failure::Gone)?;
                while !secured.flush(&self.socket).map_err(Failure::Gone)? {
                    self.wait(Interest::Write, timeout.map(|timeout| Instant::now() + timeout))?;
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
    pub fn send_file(
        &self,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        timeout: Option<Duration>,
    ) -> Result<u64, Failure> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        if let Some(secured) = &self.secured {
            let mut bytes = vec![0; SECURED_BYTES];
            while at < end {
                let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(SECURED_BYTES);
                let read = match rustix::io::pread(file, &mut bytes[..count], at) {
                    Ok(0) => break,
                    Ok(read) => read,
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(Failure::Gone(error.into())),
                };
                self.write_secured(secured, &[&bytes[..read]], timeout)?;
                at += read as u64;
            }
            return Ok(at - offset);
        }
        while at < end {
            give_way(at > offset)?;
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(SENDFILE_BYTES);
            match rustix::fs::sendfile(&self.socket, file, Some(&mut at), count) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(Interest::Write, timeout.map(|timeout| Instant::now() + timeout))?,
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(at - offset)
    }

    /// Says that nothing more will be sent, so that the peer sees the end even if it still sends.
    pub fn shutdown_write(&self) {
        if let Some(secured) = &self.secured {
            secured.close(&self.socket);
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
    }

    /// Makes its close a reset, for a peer that would take the end of the stream for the end of a whole message. What
    /// is still on its way is lost. A Unix socket knows no reset: there the end stays an ordinary one.
    pub fn reset_on_close(&self) {
        if let Some(secured) = &self.secured {
            secured.abandon();
        }
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Ends both directions, for whoever still uses the socket.
    pub fn shutdown_both(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
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
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
        });
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
        if let Some(secured) = &self.secured {
            secured.close(&self.socket);
        }
        // Dropped on another thread (an application kept wsgi.input there), the registration goes with the descriptor,
        // and the source's slot is reclaimed when the loop ends.
        streams::remove(self.source, None);
    }
}
