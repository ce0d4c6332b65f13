//! Descriptors of the application, known by their number.

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use rustix::io::Errno;

/// A descriptor that the application lends for system calls. The application may close it at any time, and reuse the
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentDescriptor(RawFd);

impl LentDescriptor {
    /// The descriptor `number`, which need not be open. System calls report EBADF for a closed descriptor.
    ///
    /// # Errors
    /// EBADF for a negative number, as the kernel reports it.
    pub fn new(number: RawFd) -> rustix::io::Result<LentDescriptor> {
        if number < 0 { Err(Errno::BADF) } else { Ok(LentDescriptor(number)) }
    }

    /// The descriptor's number.
    pub fn number(self) -> RawFd {
        self.0
    }
}

impl AsFd for LentDescriptor {
    #[expect(unsafe_code, reason = "the application names its descriptors by number")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: a borrowed descriptor must not be -1, and `new` refuses that. The descriptor must stay open while
        // borrowed. The application promises that, as for `os.read`, but may break the promise. Memory then stays safe:
        // no code of this crate closes or maps a lent descriptor, or relies on its file. A system call reports EBADF,
        // or acts on the file that has the number now, as for the application itself.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_is_no_descriptor_and_one_that_is_not_open_is_the_kernels_to_refuse() {
        assert_eq!(LentDescriptor::new(-1), Err(Errno::BADF));
        assert_eq!(LentDescriptor::new(RawFd::MIN), Err(Errno::BADF));
        let unopened = LentDescriptor::new(RawFd::MAX).unwrap();
        assert_eq!(rustix::fs::fstat(unopened).map(drop), Err(Errno::BADF));
    }
}
