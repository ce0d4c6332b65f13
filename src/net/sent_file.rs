//! A file of the application that is being sent.
//!
//! While the sender waits, the application may close the file, and its number may then name another file. Before its
//! first wait the sender therefore duplicates the descriptor. A response that does not wait needs no duplicate.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Stat, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::kernel::LentDescriptor;

/// A file known by its descriptor's number.
pub struct SentFile {
    lent: LentDescriptor,
    device: u64,
    inode: u64,
    own: Option<OwnedFd>,
}

impl SentFile {
    /// The file of the descriptor `lent`, whose status is `status`.
    pub fn new(lent: LentDescriptor, status: &Stat) -> SentFile {
        SentFile { lent, device: status.st_dev, inode: status.st_ino, own: None }
    }

    /// The file's descriptor, which was valid at the last check.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or_else(|| self.lent.as_fd(), AsFd::as_fd)
    }

    /// Keeps the file open even if the application closes it. Call it before a wait. If no descriptor is left for a
    /// duplicate, the lent descriptor stays in use.
    pub fn keep(&mut self) {
        if self.own.is_none() {
            self.own = fcntl_dupfd_cloexec(self.lent, 0).ok();
        }
    }

    /// Checks that the descriptor still names the file. Call it after a wait.
    ///
    /// # Errors
    /// EBADF if there is no duplicate, and the number is closed or names another file.
    pub fn check(&self) -> io::Result<()> {
        if self.own.is_some() {
            return Ok(());
        }
        match fstat(self.lent) {
            Ok(status) if (status.st_dev, status.st_ino) == (self.device, self.inode) => Ok(()),
            _ => Err(Errno::BADF.into()),
        }
    }
}
