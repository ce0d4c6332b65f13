//! Lines on a Unix socket, read and written without waiting.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use memchr::memchr;
use rustix::event::PollFlags;
use serde_json::Value;

use crate::net::LocalSocket;

/// The bytes that one look at a socket reads at most. Other clients come between two looks.
const PIECE: usize = 64 * 1024;

/// A socket with the beginnings of lines in both directions.
pub(super) struct LineSocket {
    socket: LocalSocket,
    read: Vec<u8>,
    /// The bytes of `read` that are known to have no end of a line.
    seen: usize,
    pending: Vec<u8>,
    sent: usize,
}

/// The outcome of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Bytes have arrived.
    Some,
    /// Nothing has arrived.
    Nothing,
    /// The peer sends no more, or is gone.
    End,
}

impl LineSocket {
    pub(super) fn new(socket: LocalSocket) -> LineSocket {
        LineSocket { socket, read: Vec::new(), seen: 0, pending: Vec::new(), sent: 0 }
    }

    /// Reads what has arrived.
    pub(super) fn fill(&mut self) -> Filled {
        let mut piece = [0; PIECE];
        // Descriptors that came along are closed.
        match self.socket.receive(&mut piece, &mut Vec::new()) {
            Ok(None) => Filled::Nothing,
            Ok(Some(0)) | Err(_) => Filled::End,
            Ok(Some(count)) => {
                self.read.extend_from_slice(piece.get(..count).unwrap_or_default());
                Filled::Some
            }
        }
    }

    /// The next line, without its end. `None` if it has not arrived as a whole.
    pub(super) fn take_line(&mut self) -> Option<Vec<u8>> {
        let rest = self.read.get(self.seen..).unwrap_or_default();
        let Some(end) = memchr(b'\n', rest).map(|place| self.seen + place) else {
            self.seen = self.read.len();
            return None;
        };
        self.seen = 0;
        let mut line: Vec<u8> = self.read.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    /// Whether a whole line has arrived.
    pub(super) fn has_line(&self) -> bool {
        memchr(b'\n', self.read.get(self.seen..).unwrap_or_default()).is_some()
    }

    /// The bytes of the line that has begun to arrive.
    pub(super) fn begun_bytes(&self) -> usize {
        self.read.len()
    }

    /// Queues a line.
    pub(super) fn queue(&mut self, text: &str) {
        self.pending.extend_from_slice(text.as_bytes());
        self.pending.push(b'\n');
    }

    /// Queues an answer.
    pub(super) fn queue_answer(&mut self, answer: &Value) {
        self.queue(&answer.to_string());
    }

    /// Sends as much as the kernel takes. Returns whether it took something.
    ///
    /// # Errors
    /// Errors of sendmsg(2): the peer is gone.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let mut is_moving = false;
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.send(&[IoSlice::new(rest)], &[])? {
                Some(count) => self.sent += count,
                None => return Ok(is_moving),
            }
            is_moving = true;
        }
        self.pending = Vec::new();
        self.sent = 0;
        Ok(is_moving)
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The events to wait for: room for what is queued, or input.
    pub(super) fn interest(&self) -> PollFlags {
        if self.has_unsent() { PollFlags::OUT } else { PollFlags::IN }
    }
}

impl AsFd for LineSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
