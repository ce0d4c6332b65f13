//! A file of the application's that is being sent.
//!
//! While the sender waits, the application may close the file, and its number may become another file's. From the
//! first wait on, the sender therefore keeps a descriptor of its own. A response that need not wait costs none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Stat, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::kernel::LentDescriptor;

/// A file known by its number.
pub struct SentFile {
    lent: LentDescriptor,
    device: u64,
    inode: u64,
    own: Option<OwnedFd>,
}

impl SentFile {
    /// The file of which `status` is that of the descriptor `number`.
    pub fn new(lent: LentDescriptor, status: &Stat) -> SentFile {
        SentFile { lent, device: status.st_dev, inode: status.st_ino, own: None }
    }

    /// Its descriptor, which was valid at the last look.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or_else(|| self.lent.as_fd(), AsFd::as_fd)
    }

    /// Keeps the file open beyond what the application does; to be called before a wait. Where no descriptor is left, the
    /// number has to do.
    pub fn keep(&mut self) {
        if self.own.is_none() {
            self.own = fcntl_dupfd_cloexec(self.lent, 0).ok();
        }
    }

    /// To be called after a wait.
    ///
    /// # Errors
    /// EBADF if the number is another file's by now, or not open, and no descriptor was kept.
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
