//! TLS between a socket and the bytes of a connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Receives, traffic};
use crate::sync::lock;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

/// Bytes read from the socket at a time: one whole TLS record (RFC 8446 5.2).
const RECEIVED_BYTES: usize = 17 * 1024;

/// The limit, in bytes, of output for a peer that sends and does not receive. Output beyond a writer's bytes is answers
/// of the protocol, and a peer can request any number of answers.
const OUTGOING_BYTES: usize = 1024 * 1024;

/// Bytes encrypted or decrypted at a time. At most this is buffered for a slow client or application.
const PIECE_BYTES: usize = 64 * 1024;

/// Converts between a socket's bytes and a connection's bytes, in memory. Never waits for the socket.
pub trait Transport: Send + Sync {
    /// Takes bytes received from the socket. Empty `data` is the end of the socket's input.
    ///
    /// # Errors
    /// Out of memory.
    fn receive(&self, data: &[u8]) -> io::Result<()>;

    /// Appends decrypted bytes to `buffer`, within its spare capacity. `Ok(None)`: more input is needed. `Ok(Some(0))`:
    /// the end.
    ///
    /// # Errors
    /// The peer violates the protocol.
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>>;

    /// Encrypts all of `data`.
    ///
    /// # Errors
    /// The handshake is not complete, or the connection has ended.
    fn write(&self, data: &[u8]) -> io::Result<()>;

    /// Produces the protocol's closing message.
    fn close(&self);

    /// Appends the output for the socket to `queue`.
    ///
    /// # Errors
    /// Out of memory.
    fn take_outgoing(&self, queue: &mut Vec<u8>) -> io::Result<()>;
}

/// A transport with its buffers. The transport may run Python code, which may park. Nothing is locked while it runs,
/// and one coroutine or thread works at a time.
pub struct Secured {
    transport: Box<dyn Transport>,
    /// Locked for as long as a system call takes.
    held: Mutex<Held>,
    is_over: AtomicBool,
}

#[derive(Default)]
struct Held {
    /// Bytes to be encrypted.
    plain: Vec<u8>,
    /// The coroutine or thread at work has taken the content of `plain`.
    is_enciphering: bool,
    /// Encrypted bytes to be sent, in order.
    sealed: Vec<u8>,
    /// Decrypted bytes to be read.
    opened: Vec<u8>,
    /// No bytes follow `opened`.
    has_ended: bool,
    has_failed: bool,
    /// The error, until it has been reported.
    failure: Option<io::Error>,
    /// The socket had more input than there was room for.
    has_more: bool,
    is_working: bool,
    /// The coroutine or thread at work has received more work.
    must_repeat: bool,
    must_read: bool,
    must_close: bool,
}

impl Secured {
    pub fn new(transport: Box<dyn Transport>) -> Secured {
        Secured { transport, held: Mutex::default(), is_over: AtomicBool::new(false) }
    }

    /// Takes a piece of `data` for [`Self::work`] to encrypt and send. Takes nothing until the previous piece is sent.
    ///
    /// # Errors
    /// The error that ended the connection.
    pub fn give(&self, data: &[u8]) -> io::Result<usize> {
        let mut held = self.lock();
        held.check()?;
        if held.has_unsent() {
            return Ok(0);
        }
        let piece = data.get(..PIECE_BYTES).unwrap_or(data);
        held.plain.extend_from_slice(piece);
        held.must_repeat |= held.is_working;
        Ok(piece.len())
    }

    /// Sends the encrypted bytes that the socket accepts now. Returns whether all given bytes are sent.
    ///
    /// # Errors
    /// The error that ended the connection.
    pub fn flush(&self, socket: &OwnedFd) -> io::Result<bool> {
        let mut held = self.lock();
        held.send(socket);
        held.check()?;
        Ok(!held.has_unsent())
    }

    /// Appends decrypted bytes to `buffer`, up to its room. Returns as `Stream::read_now` does.
    ///
    /// # Errors
    /// The error that ended the connection.
    pub fn take(&self, buffer: &mut impl Receives) -> io::Result<Option<usize>> {
        let mut held = self.lock();
        if !held.opened.is_empty() {
            let count = buffer.append(&held.opened);
            held.opened.drain(..count);
            held.opened.shrink_to(PIECE_BYTES);
            return Ok(Some(count));
        }
        if held.has_ended {
            return Ok(Some(0));
        }
        held.check()?;
        Ok(None)
    }

    /// Puts back bytes that were just taken.
    pub fn put_back(&self, data: &[u8]) {
        self.lock().opened.splice(..0, data.iter().copied());
    }

    /// Whether more can be taken, at once or after more work.
    pub fn has_more(&self) -> bool {
        let held = self.lock();
        held.has_more || held.has_ended || !held.opened.is_empty()
    }

    /// Whether bytes or a close wait for [`Self::work`]. Input in the socket does not count.
    pub fn has_work(&self) -> bool {
        let held = self.lock();
        !held.is_working && (held.must_close || (!held.plain.is_empty() && !held.has_failed))
    }

    /// Whether a coroutine or thread is at work.
    pub fn is_working(&self) -> bool {
        self.lock().is_working
    }

    /// Encrypts and sends the given bytes. If `reads` is set, also decrypts input. Returns false if another coroutine
    /// or thread is at work, which then does this work too.
    ///
    /// # Parks
    pub fn work(&self, socket: &OwnedFd, reads: bool, peer_closed: bool) -> bool {
        {
            let mut held = self.lock();
            held.must_read |= reads;
            if held.is_working {
                held.must_repeat = true;
                return false;
            }
            held.is_working = true;
        }
        loop {
            let (plain, room, closes) = self.lock().take_work();
            let mut made = Made::default();
            let mut result = if plain.is_empty() { Ok(()) } else { self.transport.write(&plain) };
            if room > 0 && result.is_ok() {
                result = self.open(socket, room, peer_closed, &mut made);
            }
            if closes && !self.is_over.swap(true, Ordering::Relaxed) {
                self.transport.close();
            }
            // Taken after an error, too: parts of the handshake, or the alert that names the error to the peer.
            let mut sealed = Vec::new();
            result = result.and(self.transport.take_outgoing(&mut sealed));
            if result.is_err() {
                self.abandon();
            }
            let mut held = self.lock();
            held.is_enciphering = false;
            held.sealed.append(&mut sealed);
            held.opened.append(&mut made.opened);
            held.has_ended |= made.has_ended;
            if room > 0 {
                held.has_more = made.has_more;
            }
            held.send(socket);
            if held.sealed.len() > OUTGOING_BYTES {
                self.abandon();
                result = result.and(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
            }
            if closes {
                let _ = rustix::net::shutdown(socket, Shutdown::Write);
            }
            if let Err(error) = result {
                held.fail(error);
            }
            if !held.must_repeat {
                held.is_working = false;
                return true;
            }
        }
    }

    fn open(&self, socket: &OwnedFd, room: usize, peer_closed: bool, made: &mut Made) -> io::Result<()> {
        let mut is_socket_empty = false;
        // On the heap: a coroutine's stack keeps every page that was ever touched.
        let mut received = Vec::with_capacity(RECEIVED_BYTES);
        made.opened.reserve_exact(room);
        let mut is_at_end = false;
        loop {
            match self.transport.read(&mut made.opened)? {
                Some(0) => {
                    made.has_ended = true;
                    return Ok(());
                }
                Some(_) if made.opened.len() == made.opened.capacity() => {
                    made.has_more = true;
                    return Ok(());
                }
                Some(_) => continue,
                None if is_at_end => {
                    made.has_ended = true;
                    return Ok(());
                }
                None if is_socket_empty && !made.opened.is_empty() => return Ok(()),
                None => {}
            }
            received.clear();
            match rustix::io::read(socket, rustix::buffer::spare_capacity(&mut received)) {
                Ok(read) => {
                    traffic::note_received(read);
                    is_at_end = read == 0;
                    // A short read has emptied the socket, as in `Stream::read_socket_now`.
                    is_socket_empty = read < RECEIVED_BYTES && !peer_closed;
                    self.transport.receive(&received)?;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes [`Self::work`] send the closing message, as far as the socket accepts it, and end the socket's sending.
    /// Returns false if the closing message was sent or abandoned earlier.
    pub fn close(&self) -> bool {
        if self.is_over.load(Ordering::Relaxed) {
            return false;
        }
        let mut held = self.lock();
        held.must_close = true;
        held.must_repeat |= held.is_working;
        true
    }

    /// Abandons the closing message, since the bytes sent are incomplete.
    pub fn abandon(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }
}

/// The input that the transport produced in one round.
#[derive(Default)]
struct Made {
    opened: Vec<u8>,
    has_ended: bool,
    has_more: bool,
}

impl Held {
    /// The bytes to encrypt, the number of bytes that may be decrypted, and whether to close the connection.
    fn take_work(&mut self) -> (Vec<u8>, usize, bool) {
        self.must_repeat = false;
        let reads = std::mem::take(&mut self.must_read) && !self.has_ended && !self.has_failed;
        let plain = if self.has_failed { Vec::new() } else { std::mem::take(&mut self.plain) };
        self.is_enciphering = !plain.is_empty();
        let room = if reads { PIECE_BYTES.saturating_sub(self.opened.len()) } else { 0 };
        (plain, room, std::mem::take(&mut self.must_close))
    }

    fn has_unsent(&self) -> bool {
        self.is_enciphering || !self.plain.is_empty() || !self.sealed.is_empty()
    }

    fn send(&mut self, socket: &OwnedFd) {
        while !self.sealed.is_empty() {
            match rustix::net::send(socket, &self.sealed, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    traffic::note_sent(sent);
                    drop(self.sealed.drain(..sent));
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(error) => return self.fail(error.into()),
            }
        }
    }

    fn fail(&mut self, error: io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.failure = Some(error);
        }
        (self.plain, self.sealed) = (Vec::new(), Vec::new());
    }

    fn check(&mut self) -> io::Result<()> {
        if !self.has_failed {
            return Ok(());
        }
        Err(self.failure.take().unwrap_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
    }
}
