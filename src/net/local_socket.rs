//! Unix sockets between the processes of one service, which carry bytes and descriptors and never wait.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::Pid;

use super::forks;
use super::peer_credentials::{PeerCredentials, peer_credentials};

/// Connections that may wait to be accepted. A process that computes accepts none.
const BACKLOG: i32 = 1024;

/// The most descriptors that one call sends or receives.
pub const DESCRIPTORS_PER_CALL: usize = 16;

/// The address of a [`LocalListener`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalAddress {
    /// A path.
    Path(PathBuf),
    /// An abstract name, which any process may connect to and which takes no place in a file system (unix(7)).
    Abstract(String),
}

impl LocalAddress {
    fn socket_address(&self) -> rustix::io::Result<SocketAddrUnix> {
        match self {
            LocalAddress::Path(path) => SocketAddrUnix::new(path),
            LocalAddress::Abstract(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        }
    }
}

/// A listening socket. Its path is unlinked when the value is dropped.
pub struct LocalListener {
    socket: OwnedFd,
    path: Option<PathBuf>,
    process: Pid,
}

impl LocalListener {
    /// Listens on `address`.
    ///
    /// # Errors
    /// Errors of socket(2), bind(2) and listen(2), such as EADDRINUSE, ENOSPC and EROFS.
    pub fn bind(address: &LocalAddress) -> io::Result<LocalListener> {
        let name = address.socket_address()?;
        let socket = new_socket()?;
        rustix::net::bind(&socket, &name)?;
        let path = match address {
            LocalAddress::Path(path) => Some(path.clone()),
            LocalAddress::Abstract(_) => None,
        };
        forks::own(socket.as_fd());
        let listener = LocalListener { socket, path, process: rustix::process::getpid() };
        rustix::net::listen(&listener.socket, BACKLOG)?;
        Ok(listener)
    }

    /// Listens on a socket that another process may share, and keeps a duplicate of it. Its path is not ours.
    ///
    /// # Errors
    /// Errors of fcntl(2) and ioctl(2), such as EMFILE when no descriptor is left.
    pub fn shared(socket: BorrowedFd<'_>) -> io::Result<LocalListener> {
        let original = socket.as_raw_fd();
        let socket = rustix::io::fcntl_dupfd_cloexec(socket, 0)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        forks::own_listener(socket.as_fd(), original);
        Ok(LocalListener { socket, path: None, process: rustix::process::getpid() })
    }

    /// Removes the path: no process finds the socket any more.
    pub fn unlink(&mut self) {
        // In a forked child, the path still belongs to the parent.
        if let Some(path) = self.path.take()
            && self.process == rustix::process::getpid()
        {
            let _ = rustix::fs::unlink(path);
        }
    }

    /// Refuses further connections, here and for every holder of the socket. Those that wait can still be accepted.
    pub fn end_listening(&self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
    }

    /// Accepts one connection. `None` if none waits.
    ///
    /// # Errors
    /// Errors of accept4(2), such as EMFILE. The connection then stays in the queue.
    pub fn accept(&self) -> io::Result<Option<LocalSocket>> {
        loop {
            return match rustix::net::accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => Ok(Some(LocalSocket::new(socket))),
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
    }
}

impl AsFd for LocalListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        forks::disown_listener(self.socket.as_fd());
        self.unlink();
    }
}

/// A connected socket.
pub struct LocalSocket(OwnedFd);

impl LocalSocket {
    fn new(socket: OwnedFd) -> LocalSocket {
        forks::own(socket.as_fd());
        LocalSocket(socket)
    }

    /// Connects to a [`LocalListener`], which need not have accepted yet.
    ///
    /// # Errors
    /// Errors of connect(2): ENOENT and ECONNREFUSED if no process listens, EAGAIN if its queue is full.
    pub fn connect(address: &LocalAddress) -> io::Result<LocalSocket> {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &address.socket_address()?)?;
        Ok(LocalSocket::new(socket))
    }

    /// The process at the other end.
    ///
    /// # Errors
    /// Errors of getsockopt(2).
    pub fn peer(&self) -> io::Result<PeerCredentials> {
        peer_credentials(self.0.as_fd())
    }

    /// Sends some of the bytes, and all `descriptors` with the first byte. `None` if the kernel takes nothing now.
    ///
    /// # Errors
    /// Errors of sendmsg(2): EPIPE if the peer is gone, ETOOMANYREFS if too many descriptors of the user are under way.
    pub fn send(&self, bytes: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> io::Result<Option<usize>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_CALL))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::INVAL.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            return match rustix::net::sendmsg(&self.0, bytes, &mut control, flags) {
                Ok(sent) => Ok(Some(sent)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Receives bytes into `buffer`, and the descriptors that came with them. `Ok(None)`: nothing now. `Ok(Some(0))`:
    /// the end of the stream.
    ///
    /// # Errors
    /// Errors of recvmsg(2), and EMFILE if descriptors are lost because this process may open no more, or because they
    /// are more than [`DESCRIPTORS_PER_CALL`].
    pub fn receive(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Option<usize>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_CALL))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        loop {
            let received = match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
                Ok(received) => received,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                descriptors.clear();
                return Err(Errno::MFILE.into());
            }
            return Ok(Some(received.bytes));
        }
    }

    /// Refuses what the peer sends from now on. Bytes that the kernel has taken from the peer can still be received.
    pub fn end_reading(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Read);
    }

    /// Ends the connection for both sides.
    pub fn end(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Both);
    }
}

impl AsFd for LocalSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        forks::disown(self.0.as_fd());
    }
}

fn new_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}
