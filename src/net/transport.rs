//! What may lie between a socket and the bytes that a connection speaks: TLS.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::SendFlags;

/// Bytes read from the socket at a time: a whole record of TLS (RFC 8446 5.2).
const RECEIVED_BYTES: usize = 17 * 1024;

/// Bytes that may wait for a peer that sends and does not take: beyond what a writer waits with, only answers of the
/// protocol itself, which a peer can ask for as often as it likes.
const OUTGOING_BYTES: usize = 1024 * 1024;

/// Turns what a socket carries into what is meant, without a socket: bytes in, bytes out. It does not wait.
pub trait Transport: Send + Sync {
    /// Takes what the socket received. Nothing: its end.
    ///
    /// # Errors
    /// Memory.
    fn receive(&self, data: &[u8]) -> io::Result<()>;

    /// Appends what has been deciphered to `buffer`, within its spare capacity. `Ok(None)`: more must be received first.
    /// `Ok(Some(0))`: the end.
    ///
    /// # Errors
    /// The peer does not keep the protocol.
    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>>;

    /// Enciphers all of `data`.
    ///
    /// # Errors
    /// The handshake is not over, or the connection is.
    fn write(&self, data: &[u8]) -> io::Result<()>;

    /// Says the protocol's own goodbye.
    fn close(&self);

    /// Appends what is to be sent to `queue`.
    ///
    /// # Errors
    /// Memory.
    fn take_outgoing(&self, queue: &mut Vec<u8>) -> io::Result<()>;
}

/// A transport and what it has ready for the socket.
pub struct Secured {
    transport: Box<dyn Transport>,
    /// In the order in which it was made. Locked for as long as a system call takes, never in a wait.
    outgoing: Mutex<Vec<u8>>,
    is_over: AtomicBool,
}

impl Secured {
    pub fn new(transport: Box<dyn Transport>) -> Secured {
        Secured { transport, outgoing: Mutex::default(), is_over: AtomicBool::new(false) }
    }

    /// As `Stream::read_now`, and whether there may be more to read at once.
    pub fn read_now(
        &self,
        socket: &OwnedFd,
        buffer: &mut Vec<u8>,
        peer_closed: bool,
    ) -> io::Result<(Option<usize>, bool)> {
        let read = self.decipher(socket, buffer, peer_closed);
        // Parts of the handshake, or the alert that tells the peer what is wrong.
        let flushed = self.flush(socket);
        if read.is_err() {
            self.abandon();
        }
        let read = read?;
        if !flushed? && self.lock().len() > OUTGOING_BYTES {
            self.abandon();
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        Ok(read)
    }

    fn decipher(&self, socket: &OwnedFd, buffer: &mut Vec<u8>, peer_closed: bool) -> io::Result<(Option<usize>, bool)> {
        let (mut total, mut is_socket_empty, mut has_ended) = (0, false, false);
        // Not on the stack, of which every coroutine would keep the pages that were once touched.
        let mut received = Vec::with_capacity(RECEIVED_BYTES);
        loop {
            match self.transport.read(buffer)? {
                Some(0) => return Ok((Some(total), total > 0)),
                Some(read) => {
                    total += read;
                    if buffer.len() == buffer.capacity() {
                        return Ok((Some(total), true));
                    }
                    continue;
                }
                None if has_ended => return Ok((Some(total), total > 0)),
                None if is_socket_empty && total > 0 => return Ok((Some(total), false)),
                None => {}
            }
            received.clear();
            match rustix::io::read(socket, rustix::buffer::spare_capacity(&mut received)) {
                Ok(read) => {
                    has_ended = read == 0;
                    // A short read has emptied the socket: see `Stream::read_now`.
                    is_socket_empty = read < RECEIVED_BYTES && !peer_closed;
                    self.transport.receive(&received)?;
                }
                Err(Errno::AGAIN) => return Ok(((total > 0).then_some(total), false)),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Enciphers `data`, to be sent by `flush`.
    pub fn write(&self, data: &[u8]) -> io::Result<()> {
        self.transport.write(data)
    }

    /// Sends what the socket takes now. Whether that was everything.
    pub fn flush(&self, socket: &OwnedFd) -> io::Result<bool> {
        // Taken out before the lock: what makes it may run Python.
        let mut fresh = Vec::new();
        self.transport.take_outgoing(&mut fresh)?;
        let mut outgoing = self.lock();
        outgoing.append(&mut fresh);
        while !outgoing.is_empty() {
            match rustix::net::send(socket, &outgoing, SendFlags::NOSIGNAL) {
                Ok(sent) => drop(outgoing.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Says goodbye, once, as far as the socket takes it.
    pub fn close(&self, socket: &OwnedFd) {
        if !self.is_over.swap(true, Ordering::Relaxed) {
            self.transport.close();
            let _ = self.flush(socket);
        }
    }

    /// There will be no goodbye: what was sent is not whole.
    pub fn abandon(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
