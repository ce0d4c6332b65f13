//! Sending bytes and files on a stream, also to slow peers.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::{Failure, Stream};
use crate::event_loop::{Interest, Wake, turn};
use crate::net::pace::Pace;
use crate::net::sent_file::SentFile;
use crate::net::traffic;
use crate::net::transport::Secured;

/// Bytes that one sendfile(2) call may send. The call blocks the loop while the kernel reads the file from disk.
const SENDFILE_BYTES: usize = 1024 * 1024;

/// Bytes of a file that are read and encrypted at a time.
const FILE_BYTES: usize = 64 * 1024;

impl Stream {
    /// Writes all of `parts`, within the time limit of `pace`.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::TimedOut`] when the time of `pace` is used up.
    ///
    /// # Parks
    pub fn write_all(&self, parts: &[&[u8]], pace: &Pace) -> Result<(), Failure> {
        self.write_flagged(parts, SendFlags::NOSIGNAL, pace)
    }

    /// Like [`Self::write_all`], for a head that [`Self::send_file`] follows at once: both share their first segment.
    ///
    /// # Errors
    /// As for [`Self::write_all`].
    ///
    /// # Parks
    pub fn write_before_file(&self, head: &[u8], pace: &Pace) -> Result<(), Failure> {
        self.write_flagged(&[head], SendFlags::NOSIGNAL | SendFlags::MORE, pace)
    }

    #[inline]
    fn write_flagged(&self, parts: &[&[u8]], flags: SendFlags, pace: &Pace) -> Result<(), Failure> {
        if let Some(secured) = &self.secured {
            return self.write_secured(secured, parts, pace);
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut sent = 0;
        while sent < total {
            give_way(sent > 0)?;
            match self.write_from(parts, sent, flags) {
                Ok(written) => {
                    traffic::note_sent(written);
                    sent += written;
                }
                Err(Errno::AGAIN) => self.wait_to_write(pace)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(())
    }

    /// Writes at least one byte of `data` by `deadline` (`None`: no limit). Returns the number of bytes written.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Parks
    pub fn write_some(&self, data: &[u8], deadline: Option<Instant>) -> Result<usize, Failure> {
        while !data.is_empty() {
            let taken = self.give_now(data).map_err(Failure::Gone)?;
            if self.has_work() {
                self.work(false);
            }
            if taken > 0 {
                return Ok(taken);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(Failure::TimedOut);
            }
            if self.is_worked_on() { self.pause(deadline)? } else { self.wait(Interest::Write, deadline)? }
        }
        Ok(0)
    }

    /// Sends the part of `data` that the socket accepts now. An encrypted stream keeps the part for [`Self::work`]
    /// instead. Returns the number of bytes accepted, 0 if none now. Runs no Python.
    ///
    /// # Errors
    /// Errors of send(2). The connection is unusable afterwards.
    pub fn give_now(&self, data: &[u8]) -> io::Result<usize> {
        if let Some(secured) = &self.secured {
            return if secured.flush(&self.socket)? { secured.give(data) } else { Ok(0) };
        }
        loop {
            match rustix::net::send(&self.socket, data, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    traffic::note_sent(sent);
                    return Ok(sent);
                }
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends encrypted bytes that the socket has not accepted yet. Returns whether all bytes given to
    /// [`Self::give_now`] are sent. Runs no Python.
    ///
    /// # Errors
    /// Errors of send(2).
    pub fn flush_now(&self) -> io::Result<bool> {
        self.secured.as_ref().map_or(Ok(true), |secured| secured.flush(&self.socket))
    }

    fn write_secured(&self, secured: &Secured, parts: &[&[u8]], pace: &Pace) -> Result<(), Failure> {
        for part in parts {
            let mut rest = *part;
            loop {
                give_way(true)?;
                let taken = if rest.is_empty() { 0 } else { secured.give(rest).map_err(Failure::Gone)? };
                rest = rest.get(taken..).unwrap_or_default();
                if secured.has_work() {
                    secured.work(&self.socket, false, false);
                }
                if secured.flush(&self.socket).map_err(Failure::Gone)? {
                    if rest.is_empty() {
                        break;
                    }
                } else if self.is_worked_on() {
                    self.pause(None)?;
                } else {
                    self.wait_to_write(pace)?;
                }
            }
        }
        Ok(())
    }

    /// Writes `parts` beyond the first `skip` bytes, in one system call. The `flags` are for a single part. Returns the
    /// number of bytes written.
    fn write_from(&self, parts: &[&[u8]], mut skip: usize, flags: SendFlags) -> Result<usize, Errno> {
        if let [only] = parts {
            return rustix::net::send(&self.socket, only.get(skip..).unwrap_or_default(), flags);
        }
        let mut slices = Vec::with_capacity(parts.len());
        for part in parts {
            let left = part.get(skip.min(part.len())..).unwrap_or_default();
            skip -= part.len() - left.len();
            if !left.is_empty() {
                slices.push(IoSlice::new(left));
            }
        }
        // Python ignores SIGPIPE, so writev(2), which has no MSG_NOSIGNAL, reports EPIPE as well.
        rustix::io::writev(&self.socket, &slices)
    }

    /// Sends `length` bytes of `file` from `offset`. Returns the number of bytes sent, which is smaller if the file is
    /// shorter.
    ///
    /// # Errors
    /// See [`Failure`].
    ///
    /// # Parks
    pub fn send_file(&self, file: &mut SentFile, offset: u64, length: u64, pace: &Pace) -> Result<u64, Failure> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        if let Some(secured) = &self.secured {
            return self.send_file_secured(secured, file, offset..end, pace);
        }
        while at < end {
            if at > offset && turn::is_spent() {
                file.keep();
                give_way(true)?;
                file.check().map_err(Failure::Gone)?;
            }
            let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(SENDFILE_BYTES);
            match rustix::fs::sendfile(&self.socket, file.descriptor(), Some(&mut at), count) {
                Ok(0) => break,
                Ok(sent) => traffic::note_sent(sent),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    file.keep();
                    self.wait_to_write(pace)?;
                    file.check().map_err(Failure::Gone)?;
                }
                Err(error) => return Err(Failure::Gone(error.into())),
            }
        }
        Ok(at - offset)
    }

    fn send_file_secured(
        &self,
        secured: &Secured,
        file: &mut SentFile,
        range: Range<u64>,
        pace: &Pace,
    ) -> Result<u64, Failure> {
        let mut at = range.start;
        let mut bytes = vec![0; FILE_BYTES];
        while at < range.end {
            let count = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(FILE_BYTES);
            let read = match rustix::io::pread(file.descriptor(), &mut bytes[..count], at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::Gone(error.into())),
            };
            at += read as u64;
            if at < range.end {
                // The write may wait, and the rest of the file is read afterwards.
                file.keep();
            }
            self.write_secured(secured, &[&bytes[..read]], pace)?;
            if at < range.end {
                file.check().map_err(Failure::Gone)?;
            }
        }
        Ok(at - range.start)
    }

    /// Waits until the socket accepts more, within the time limit of `pace`. Acknowledged bytes count as progress, even
    /// while the socket's buffer is too full to be written.
    fn wait_to_write(&self, pace: &Pace) -> Result<(), Failure> {
        let (mut since, mut unacknowledged) = (Instant::now(), self.unacknowledged_bytes());
        // A kernel that reports 0 although the buffer is full does not report acknowledged bytes.
        let is_known = unacknowledged > 0;
        loop {
            let waited = self.wait(Interest::Write, pace.next_look().map(|patience| since + patience));
            let (now, left) = (Instant::now(), self.unacknowledged_bytes());
            if waited.is_ok() && !is_known {
                pace.refresh();
            } else {
                let taken = unacknowledged.saturating_sub(left).max(waited.is_ok().into());
                pace.note(now - since, taken.into());
            }
            match waited {
                Err(Failure::TimedOut) if !pace.is_over() => (since, unacknowledged) = (now, left),
                other => return other,
            }
        }
    }
}

/// Lets other coroutines run within a long transfer, once the turn is spent. A fast peer must not occupy the loop.
///
/// # Parks
fn give_way(has_begun: bool) -> Result<(), Failure> {
    if !has_begun || !turn::is_spent() {
        return Ok(());
    }
    match turn::give_way() {
        Wake::Killed => Err(Failure::Killed),
        Wake::Interrupted => Err(Failure::Interrupted),
        Wake::Ready | Wake::TimedOut | Wake::Closed => Ok(()),
    }
}
