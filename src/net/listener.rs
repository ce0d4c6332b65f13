//! Listening sockets, created and bound in Python. Connections are accepted here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};

use super::forks;

/// The client at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Inet(IpAddr, u16),
    /// A client of a Unix or abstract socket, which has no address.
    Unix,
}

/// The result of [`Listener::accept`].
pub enum Accepted {
    /// A connection, non-blocking and close-on-exec.
    Connection(OwnedFd, Peer),
    /// The queue is empty, or another process accepted the connection first.
    Nothing,
    /// No descriptor or memory is left. The connection stays in the queue.
    OutOfResources(io::Error),
    /// The socket no longer listens: it was shut down.
    Over(io::Error),
}

/// A non-blocking listening socket. The value owns a duplicate of the descriptor that Python holds.
pub struct Listener {
    socket: OwnedFd,
    /// The number of Python's descriptor.
    original: RawFd,
}

impl Listener {
    /// Duplicates `socket` and makes it non-blocking.
    ///
    /// # Errors
    /// Errors of fcntl(2) and ioctl(2), such as EMFILE when no descriptor is left.
    pub fn new(socket: BorrowedFd<'_>) -> io::Result<Listener> {
        let original = socket.as_raw_fd();
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Listener { socket, original })
    }

    /// Makes forked children replace this socket and the original. Only this process serves the socket.
    pub fn keep_from_children(&self) {
        forks::own_listener(self.socket.as_fd(), self.original);
    }

    /// The address that the socket listens on, for messages.
    pub fn place(&self) -> String {
        let Ok(address) = rustix::net::getsockname(&self.socket) else { return "an unknown address".to_owned() };
        match std::net::SocketAddr::try_from(address.clone()) {
            Ok(address) => address.to_string(),
            Err(_) => rustix::net::SocketAddrUnix::try_from(address)
                .ok()
                .and_then(|address| address.path().map(|path| format!("unix:{}", path.to_string_lossy())))
                .unwrap_or_else(|| "a Unix socket".to_owned()),
        }
    }

    /// Accepts one connection from the kernel's queue.
    pub fn accept(&self) -> Accepted {
        loop {
            return match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((connection, address)) => Accepted::Connection(connection, peer(address)),
                // The client gave up while its connection was in the queue (accept(2), "Error handling").
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => continue,
                Err(error @ (Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP)) => {
                    Accepted::Over(error.into())
                }
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    Accepted::OutOfResources(error.into())
                }
                Err(_) => Accepted::Nothing,
            };
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        forks::disown_listener(self.socket.as_fd());
    }
}

fn peer(address: Option<SocketAddrAny>) -> Peer {
    address
        .and_then(|address| std::net::SocketAddr::try_from(address).ok())
        .map_or(Peer::Unix, |address| Peer::Inet(address.ip().to_canonical(), address.port()))
}
