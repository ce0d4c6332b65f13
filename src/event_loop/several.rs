//! A wait for several descriptors at once.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::time::Instant;

use super::poller::Interest;
use super::{Wake, wait, with};
use crate::kernel::LentDescriptor;

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
            let armed_now = LentDescriptor::new(number).map_err(io::Error::from).and_then(|descriptor| {
                state.poller.arm_descriptor(descriptor.as_fd(), Interest::Events(events), ticket)
            });
            match armed_now {
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
