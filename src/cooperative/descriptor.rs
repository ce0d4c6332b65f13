//! Properties of the application's descriptors.

use std::os::fd::RawFd;
use std::path::Path;

use pyo3::prelude::*;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, stat};

use crate::event_loop;
use crate::interp;
use crate::kernel::LentDescriptor;

/// Whether a read or write by the caller may have to wait for another program. It may in a coroutine, on a blocking
/// descriptor of a pipe, a socket, a terminal or no file at all (an eventfd, a timerfd).
///
/// Regular files never wait for another program. A non-blocking descriptor is a chance to switch, because the caller
/// may try it in a loop.
///
/// # Parks
pub fn may_wait(py: Python<'_>, number: RawFd) -> bool {
    if !event_loop::can_park() {
        return false;
    }
    let Ok(descriptor) = LentDescriptor::new(number) else { return false };
    let Ok(status) = fstat(descriptor) else { return false };
    let waits = matches!(
        FileType::from_raw_mode(status.st_mode),
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::Unknown
    );
    if !waits {
        return false;
    }
    let blocks = fcntl_getfl(descriptor).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK));
    if !blocks {
        interp::give_way_quietly(py);
    }
    blocks
}

/// Whether there is a FIFO at `path`.
pub fn is_fifo(path: &Path) -> bool {
    stat(path).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Fifo)
}
