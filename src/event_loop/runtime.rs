//! The handle by which other threads reach a running loop.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::inbox::{Inbox, LoopMessage};
use crate::kernel::Bell;
use crate::sync::{lock, recover};

/// A running loop, as other threads see it.
pub struct Runtime {
    pub(super) inbox: Inbox,
    end: Mutex<Option<Result<(), String>>>,
    ended: Condvar,
    end_bell: Bell,
    /// Coroutines that still wait never run again.
    leaving: AtomicBool,
}

impl Runtime {
    /// Creates a loop that has not started.
    ///
    /// # Errors
    /// Fails if the process has no descriptor left.
    pub fn new() -> io::Result<Runtime> {
        Ok(Runtime {
            inbox: Inbox::new()?,
            end: Mutex::new(None),
            ended: Condvar::new(),
            end_bell: Bell::new()?,
            leaving: AtomicBool::new(false),
        })
    }

    /// Sends a message to the loop, from any thread.
    pub fn send(&self, message: LoopMessage) {
        self.inbox.push(message);
    }

    /// Whether the loop is over.
    pub fn has_ended(&self) -> bool {
        lock(&self.end).is_some()
    }

    /// The error that ended the loop or kept it from starting. `None` without an error.
    pub fn failure(&self) -> Option<String> {
        lock(&self.end).as_ref()?.as_ref().err().cloned()
    }

    /// Blocks the calling OS thread until the loop is over, for at most `timeout`. Returns whether the loop is over.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let end = lock(&self.end);
        let (end, _) = recover(self.ended.wait_timeout_while(end, timeout, |end| end.is_none()));
        end.is_some()
    }

    /// A descriptor that becomes readable when the loop is over.
    pub fn end_bell(&self) -> BorrowedFd<'_> {
        self.end_bell.as_fd()
    }

    /// Marks that the loop ends without the coroutines that still wait.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether coroutines that still wait never run again.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Records the end of the loop and wakes every waiter.
    pub(super) fn ended(&self, how: io::Result<()>) {
        *lock(&self.end) = Some(how.map_err(|error| error.to_string()));
        self.ended.notify_all();
        self.end_bell.ring();
    }
}
