//! The inbox by which other OS threads reach the loop: a queue, and an eventfd in the poller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

use super::tokens::Ticket;
use super::wake::Wake;
use crate::kernel::Bell;
use crate::sync::lock;

/// A message from another thread to the loop.
pub enum LoopMessage {
    /// Ends a wait.
    Wake(Ticket, Wake),
    /// Runs a function in a coroutine of its own. The function may park.
    Task(Box<dyn FnOnce() + Send>),
    /// Runs a function in the leader between two pieces of work. The function must not park: everything waits for it.
    /// The interpreter is attached, but Python code that may wait (a log handler, say) belongs in a task.
    Control(Box<dyn FnOnce() + Send>),
}

/// The queue that any thread may fill and the leader empties.
pub struct Inbox {
    queue: Mutex<Vec<LoopMessage>>,
    bell: Bell,
}

impl Inbox {
    /// # Errors
    /// Fails if the process has no descriptor left.
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

    /// Takes every queued message. The leader calls this after the bell rang.
    pub fn drain(&self) -> Vec<LoopMessage> {
        self.bell.silence();
        std::mem::take(&mut *lock(&self.queue))
    }

    /// The bell's descriptor, for the poller.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
