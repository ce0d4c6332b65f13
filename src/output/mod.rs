//! Output that never waits: lines on standard error, and log files.
//!
//! The loop serves all clients, so an unread pipe, a stopped terminal or a full disk must not block or end it. Lines that
//! cannot be written at once are kept as far as there is room, then lost and counted. `eprintln!` panics where
//! standard error is broken and blocks where it is full, and so is not used; a test refuses it.

mod log_file;

pub use log_file::{LogFile, News};

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::SendFlags;

use crate::kernel::timespec;

/// Bytes that a pipe takes whole or not at all (PIPE_BUF), and for which there is room in one that can be written to.
const PIPE_BYTES: usize = 4096;

/// Writes a line of the server's own to standard error, if that takes it now; otherwise it is lost.
pub fn say(message: &str) {
    let line = format!("rmeinheld: {message}\n");
    let error = io::stderr();
    // One call: what is written in pieces mixes with the lines of other processes.
    if can_take(error.as_fd(), Duration::ZERO) {
        let _ = rustix::io::write(&error, line.as_bytes().get(..PIPE_BYTES).unwrap_or(line.as_bytes()));
    }
}

/// A descriptor that is written to without waiting, whatever it is.
#[derive(Debug)]
pub struct Output {
    file: File,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file, which takes everything or reports why not.
    Regular,
    /// A pipe or a terminal, opened anew and so with a mode of its own, which does not wait.
    Private,
    /// A pipe or a terminal whose mode, which waits, is shared with other processes: only what certainly fits is written.
    Shared,
    Socket,
}

impl Output {
    /// For a descriptor. Its mode stays as it is, since other processes may share it. One that `is_own` is not shared, and
    /// was opened with O_NONBLOCK.
    pub fn new(descriptor: OwnedFd, is_own: bool) -> Output {
        let kind = fstat(&descriptor).map(|status| FileType::from_raw_mode(status.st_mode));
        match kind {
            Ok(FileType::Fifo | FileType::CharacterDevice) if is_own => {
                Output { file: descriptor.into(), kind: Kind::Private }
            }
            Ok(FileType::Fifo | FileType::CharacterDevice) => match open_anew(&descriptor) {
                Ok(own) => Output { file: own.into(), kind: Kind::Private },
                // Another user's pipe, or no /proc.
                Err(_) => Output { file: descriptor.into(), kind: Kind::Shared },
            },
            Ok(FileType::Socket) => Output { file: descriptor.into(), kind: Kind::Socket },
            _ => Output { file: descriptor.into(), kind: Kind::Regular },
        }
    }

    /// Writes some of `lines`, and never waits. To a pipe, whole lines go out if they are not longer than 4 KiB, so that
    /// those of several processes do not mix.
    ///
    /// # Errors
    /// WouldBlock if nothing can be written now; what write(2) reports.
    pub fn write(&self, lines: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self.kind {
                Kind::Regular => (&self.file).write(lines),
                Kind::Private => (&self.file).write(piece(lines)),
                Kind::Shared if can_take(self.file.as_fd(), Duration::ZERO) => (&self.file).write(piece(lines)),
                Kind::Shared => Err(io::Error::from(io::ErrorKind::WouldBlock)),
                Kind::Socket => {
                    rustix::net::send(&self.file, lines, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(Into::into)
                }
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                other => return other,
            }
        }
    }

    /// Blocks the OS thread until something can be written, at most for `patience`. Returns whether it can.
    pub fn wait(&self, patience: Duration) -> bool {
        can_take(self.file.as_fd(), patience)
    }
}

impl Output {
    /// The same file, to wait for it.
    fn duplicate(&self) -> Option<Output> {
        self.file.try_clone().ok().map(|file| Output { file, kind: self.kind })
    }
}

/// The part of `lines` for one write to a pipe: as many whole lines as it takes whole, or part of a long one.
fn piece(lines: &[u8]) -> &[u8] {
    let Some(most) = lines.get(..PIPE_BYTES) else { return lines };
    let end = memchr::memrchr(b'\n', most).map_or(most.len(), |last| last + 1);
    most.get(..end).unwrap_or(most)
}

/// Whether a descriptor can be written to, within `patience`. A broken one can: writing tells what is wrong.
fn can_take(descriptor: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    poll(&mut polled, Some(&timespec(patience))).is_ok_and(|count| count > 0)
}

fn open_anew(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_whole_lines() {
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        assert_eq!(piece(&line).len(), 100);
        assert_eq!(piece(&line.repeat(100)).len(), 4000);
        // One that is too long for that goes out in parts.
        assert_eq!(piece(&b"x".repeat(9000)).len(), PIPE_BYTES);
        assert_eq!(piece(b""), b"");
    }

    #[test]
    fn nothing_is_written_to_a_full_pipe_and_nothing_waits() {
        let (reader, writer) = io::pipe().unwrap();
        for shared in [false, true] {
            let mut output = Output::new(writer.try_clone().unwrap().into(), false);
            assert_eq!(output.kind, Kind::Private);
            if shared {
                output = Output { file: File::from(OwnedFd::from(writer.try_clone().unwrap())), kind: Kind::Shared };
            }
            let mut total = 0;
            let error = loop {
                match output.write(&b"line\n".repeat(1000)) {
                    Ok(count) => total += count,
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert!(total >= if shared { 0 } else { PIPE_BYTES });
            assert!(!output.wait(Duration::ZERO));
        }
        drop(reader);
        let output = Output::new(writer.into(), false);
        assert_eq!(output.write(b"x\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
