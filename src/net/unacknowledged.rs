//! The number of sent bytes that the peer has not acknowledged.

#![expect(unsafe_code, reason = "rustix has no safe wrapper for this question")]

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that the kernel holds until the peer acknowledges them (tcp(7), SIOCOUTQ). For a Unix socket this is the
/// memory that holds unread bytes (unix(7)), which is more. 0 if the kernel does not report the number.
pub(super) fn unacknowledged_bytes(socket: BorrowedFd<'_>) -> u32 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int, to a variable that outlives the call. The borrowed descriptor is open.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if asked == 0 { u32::try_from(bytes).unwrap_or(0) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::unacknowledged_bytes;

    #[test]
    fn bytes_that_a_peer_has_not_read_are_unacknowledged() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
        near.write_all(&[0; 1000]).unwrap();
        assert!(unacknowledged_bytes(near.as_fd()) >= 1000);
        far.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unacknowledged_bytes(near.as_fd()), 0);
    }

    #[test]
    fn bytes_that_the_kernel_of_a_peer_has_no_room_for_are_unacknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = near.write(&[0; 65536]) {
            sent += count;
        }
        assert!(unacknowledged_bytes(near.as_fd()) > 0);
        far.read_exact(&mut vec![0; sent]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while unacknowledged_bytes(near.as_fd()) > 0 {
            assert!(Instant::now() < deadline, "an acknowledgement");
            std::thread::yield_now();
        }
    }
}
