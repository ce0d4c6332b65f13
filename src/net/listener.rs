//! Listening sockets: made and bound in Python, accepted from here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};

use super::forks;

/// The client at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client.
    Inet(IpAddr, u16),
    /// A Unix or abstract socket: it has no address.
    Unix,
}

/// The result of an attempt to accept.
pub enum Accepted {
    /// A connection, non-blocking and close-on-exec.
    Connection(OwnedFd, Peer),
    /// The queue is empty, or another process was quicker.
    Nothing,
    /// Out of descriptors or memory: the connection stays in the queue.
    OutOfResources(io::Error),
    /// The socket does not listen any more: it was shut down.
    Over(io::Error),
}

/// A listening socket, non-blocking, owned by this value (a duplicate of the descriptor that Python holds).
pub struct Listener {
    socket: OwnedFd,
    /// The number of the descriptor that it is a duplicate of.
    original: RawFd,
}

impl Listener {
    /// Duplicates `socket` and makes it non-blocking.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(socket: BorrowedFd<'_>) -> io::Result<Listener> {
        let original = socket.as_raw_fd();
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Listener { socket, original })
    }

    /// From now on a forked child holds neither this socket nor the original: the loop serves it, and ends with this
    /// process.
    pub fn keep_from_children(&self) {
        forks::own_listener(self.socket.as_fd(), self.original);
    }

    /// Where it listens, for people.
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

    /// Takes one connection from the kernel's queue.
    pub fn accept(&self) -> Accepted {
        loop {
            return match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((connection, address)) => Accepted::Connection(connection, peer(address)),
                // The client gave up while it was in the queue (accept(2), "Error handling").
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
