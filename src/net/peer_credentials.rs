//! The process at the other end of a Unix socket.

#![expect(
    unsafe_code,
    reason = "rustix takes the number of a process in another namespace, which is 0, for a valid one"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The peer of a connected Unix socket when it called connect(2) or listen(2) (unix(7), SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The number of the process; 0 if it is in another namespace.
    pub process: u32,
    /// Its effective user.
    pub user: u32,
}

/// The credentials of the peer of `socket`.
///
/// # Errors
/// Errors of getsockopt(2).
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `credentials`; both outlive the call. The borrowed descriptor
    // is open.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials { process: u32::try_from(credentials.pid).unwrap_or(0), user: credentials.uid })
}
