//! How other OS threads reach the loop: a queue and an eventfd in the poller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use super::tokens::Ticket;
use super::wake::Wake;
use crate::kernel::Bell;
use crate::sync::lock;

/// A message of another thread to the loop.
pub enum LoopMessage {
    /// Ends a wait.
    Wake(Ticket, Wake),
    /// Runs in a coroutine of its own; may park.
    Task(Box<dyn FnOnce() + Send>),
    /// Runs in the leader between two pieces of work. Must not park: everything waits for it. The interpreter is attached,
    /// but Python code that may wait (a handler of the log, say) belongs into a task.
    Control(Box<dyn FnOnce() + Send>),
}

/// The queue that any thread may fill and the leader empties.
pub struct Inbox {
    queue: Mutex<Vec<LoopMessage>>,
    bell: Bell,
}

impl Inbox {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Inbox> {
        Ok(Inbox { queue: Mutex::new(Vec::new()), bell: Bell::new()? })
    }

    /// Queues `message` and wakes the leader if it is polling.
    pub fn push(&self, message: LoopMessage) {
        let was_empty = {
            let mut queue = lock(&self.queue);
            queue.push(message);
            queue.len() == 1
        };
        if was_empty {
            self.bell.ring();
        }
    }

    /// Takes everything queued. Called by the leader after the bell rang.
    pub fn drain(&self) -> Vec<LoopMessage> {
        self.bell.silence();
        std::mem::take(&mut *lock(&self.queue))
    }

    /// The descriptor to poll.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
