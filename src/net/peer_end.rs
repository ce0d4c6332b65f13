//! The directions of a connection that the peer has ended.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The directions that the peer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEnd {
    /// Neither direction.
    None,
    /// The peer's sending. TCP does not report whether the peer still reads or is gone.
    Sending,
    /// Both directions, by a reset or by closing.
    Both,
}

/// Asks the kernel which directions the peer has ended. Unread input does not hide the end.
pub fn peer_end(socket: BorrowedFd<'_>) -> PeerEnd {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let _ = poll(&mut polled, Some(&now));
    let found = polled[0].revents();
    if found.intersects(PollFlags::HUP | PollFlags::ERR) {
        PeerEnd::Both
    } else if found.contains(PollFlags::RDHUP) {
        PeerEnd::Sending
    } else {
        PeerEnd::None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_fin_is_half_an_end_and_a_reset_is_a_whole_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"unread").unwrap();
        assert_eq!(peer_end(server.as_fd()), PeerEnd::None);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(peer_end(server.as_fd()), PeerEnd::Sending);
        server.write_all(b"unread, so that closing resets").unwrap();
        drop(client);
        assert_eq!(peer_end(server.as_fd()), PeerEnd::Both);
    }
}
