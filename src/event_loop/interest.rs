//! The directions of a wait, and their events.

use rustix::event::epoll;

/// The directions that a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, a connection or the end of the stream can be read.
    Read,
    /// The kernel takes bytes.
    Write,
    /// Either direction is ready.
    Both,
    /// One of these events occurs, given as bits of epoll_ctl(2).
    Events(u32),
}

impl Interest {
    /// The events to ask epoll for.
    pub(super) fn flags(self) -> epoll::EventFlags {
        match self {
            Interest::Read => epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
            Interest::Write => epoll::EventFlags::OUT,
            Interest::Both => epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::OUT,
            Interest::Events(bits) => epoll::EventFlags::from_bits_retain(bits),
        }
    }

    /// Whether these events end the wait.
    pub(super) fn is_met_by(self, flags: epoll::EventFlags) -> bool {
        flags.intersects(self.flags() | epoll::EventFlags::ERR | epoll::EventFlags::HUP)
    }
}
