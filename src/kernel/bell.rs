//! A bell that wakes the threads that poll its descriptor (eventfd(2)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

/// A descriptor that any thread can make readable.
pub struct Bell(OwnedFd);

impl Bell {
    /// A bell that has not rung.
    ///
    /// # Errors
    /// Errors of eventfd(2), such as EMFILE when no descriptor is left.
    pub fn new() -> rustix::io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Makes the descriptor readable, until [`Bell::silence`].
    pub fn ring(&self) {
        // The write fails only if the counter is full, and then the bell already rings.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable, until the next ring.
    pub fn silence(&self) {
        // The read fails if the bell does not ring.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn rings(bell: &Bell) -> bool {
        poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn a_bell_rings_until_it_is_silenced() {
        let bell = Bell::new().unwrap();
        assert!(!rings(&bell));
        bell.silence();
        bell.ring();
        bell.ring();
        assert!(rings(&bell));
        bell.silence();
        assert!(!rings(&bell));
    }
}
