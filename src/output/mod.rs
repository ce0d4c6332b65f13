//! Output that never waits: lines on standard error, and log files.
//!
//! The loop serves all clients, so an unread pipe, a stopped terminal or a full disk must not block or end the loop.
//! Lines that cannot be written at once are buffered up to a limit, then lost and counted. `eprintln!` is not used,
//! since it panics if standard error is broken and blocks if it is full. A test enforces this.

pub mod json;
mod log_file;

pub use log_file::{LogFile, News};

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::SendFlags;

use crate::kernel::timespec;
use crate::sync::lock;

/// Bytes that a pipe accepts whole or not at all (PIPE_BUF). A pipe that is reported as writable has room for this
/// number.
const PIPE_BYTES: usize = 4096;

/// Writes a message of the server to standard error. The message is lost if it cannot be written now.
pub fn say(message: &str) {
    let line = format!("rmeinheld: {message}\n");
    let error = io::stderr();
    // One call, since text written in pieces mixes with the output of other processes.
    if can_take(error.as_fd(), Duration::ZERO) {
        let _ = rustix::io::write(&error, line.as_bytes().get(..PIPE_BYTES).unwrap_or(line.as_bytes()));
    }
}

/// The longest time without progress of [`write_in_background`].
const BACKGROUND_PATIENCE: Duration = Duration::from_secs(5);

/// Writes `text` to `descriptor` from an OS thread, one text after the other. The rest is lost if nothing can be written
/// for five seconds.
pub fn write_in_background(descriptor: OwnedFd, text: String) {
    /// Keeps texts apart.
    static TURN: Mutex<()> = Mutex::new(());
    let write = move || {
        let _turn = lock(&TURN);
        let output = Output::new(descriptor, false);
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match output.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && output.wait(BACKGROUND_PATIENCE) => {}
                Err(_) => return,
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("output".into()).spawn(write) {
        say(&format!("a dump was lost: its thread cannot be started: {error}"));
    }
}

/// Is standard error a terminal, at which a person reads what [`say`] writes?
pub fn has_reader() -> bool {
    io::stderr().is_terminal()
}

/// A descriptor of any kind that is written without waiting.
#[derive(Debug)]
pub struct Output {
    file: File,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file, which accepts everything or reports an error.
    Regular,
    /// A pipe or a terminal with a mode of its own, which does not block.
    Private,
    /// A pipe or a terminal whose blocking mode is shared with other processes. Only output that certainly fits is
    /// written.
    Shared,
    Socket,
}

impl Output {
    /// Wraps a descriptor. The mode of the descriptor is not changed, since other processes may share it. A descriptor
    /// that `is_own` is not shared, and was opened with O_NONBLOCK.
    pub fn new(descriptor: OwnedFd, is_own: bool) -> Output {
        let kind = fstat(&descriptor).map(|status| FileType::from_raw_mode(status.st_mode));
        match kind {
            Ok(FileType::Fifo | FileType::CharacterDevice) if is_own => {
                Output { file: descriptor.into(), kind: Kind::Private }
            }
            Ok(FileType::Fifo | FileType::CharacterDevice) => match open_anew(&descriptor) {
                Ok(own) => Output { file: own.into(), kind: Kind::Private },
                // The pipe belongs to another user, or /proc is missing.
                Err(_) => Output { file: descriptor.into(), kind: Kind::Shared },
            },
            Ok(FileType::Socket) => Output { file: descriptor.into(), kind: Kind::Socket },
            _ => Output { file: descriptor.into(), kind: Kind::Regular },
        }
    }

    /// Writes some of `lines` without waiting. A pipe receives whole lines if they are at most 4 KiB long, so that the
    /// lines of several processes do not mix.
    ///
    /// # Errors
    /// WouldBlock if nothing can be written now; otherwise errors of write(2).
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

    /// Blocks the OS thread until the descriptor is writable, for at most `patience`. Returns whether it is.
    pub fn wait(&self, patience: Duration) -> bool {
        can_take(self.file.as_fd(), patience)
    }
}

impl Output {
    /// A duplicate of the output, to wait on.
    fn duplicate(&self) -> Option<Output> {
        self.file.try_clone().ok().map(|file| Output { file, kind: self.kind })
    }
}

/// The part of `lines` for one write to a pipe: whole lines up to PIPE_BUF, or part of a longer line.
fn piece(lines: &[u8]) -> &[u8] {
    let Some(most) = lines.get(..PIPE_BYTES) else { return lines };
    let end = memchr::memrchr(b'\n', most).map_or(most.len(), |last| last + 1);
    most.get(..end).unwrap_or(most)
}

/// Whether a descriptor is writable within `patience`. A broken descriptor is, and the write then reports the error.
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
        // A longer line is written in parts.
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
