//! A wait for several descriptors at once.

use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use super::poller::{self, Interest};
use super::{Wake, wait, with};

/// Waits until one of several descriptors of the application's may be ready for its events, which are those of
/// epoll_ctl(2). One that epoll refuses because it is always ready, or never, is not waited for.
///
/// # Errors
/// What epoll_ctl(2) reports. EBADF also for a descriptor of the server's own.
///
/// # Parks
pub fn wait_any_descriptor(interests: &[(RawFd, u32)], deadline: Option<Instant>) -> io::Result<Wake> {
    let mut armed = Vec::with_capacity(interests.len());
    let mut failure = None;
    let wake = wait(deadline, |state, ticket| {
        for &(number, events) in interests {
            if number < 0 {
                failure = Some(rustix::io::Errno::BADF.into());
                return Err(Wake::Closed);
            }
            match state.poller.arm_descriptor(poller::borrow(number), Interest::Events(events), ticket) {
                Ok(source) => armed.push((source, ticket)),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {}
                Err(error) => {
                    failure = Some(error);
                    return Err(Wake::Closed);
                }
            }
        }
        Ok(None)
    });
    with(|state| {
        for (source, ticket) in armed {
            state.poller.remove_wait(source, ticket);
        }
    });
    failure.map_or(Ok(wake), Err)
}
