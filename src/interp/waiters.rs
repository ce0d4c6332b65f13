//! A queue of waiters, as locks, queues and events keep it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::waiter::Waiter;

/// Waiters in the order in which they came, each with the data that its notifier needs.
pub struct Waiters<T = ()> {
    line: VecDeque<(Arc<Waiter>, T)>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Waiters<T> {
        Waiters { line: VecDeque::new() }
    }
}

impl<T> Waiters<T> {
    /// Adds a waiter at the end, or at the head if it was in the line before (`again`).
    pub fn join(&mut self, waiter: Arc<Waiter>, data: T, again: bool) {
        if again {
            self.line.push_front((waiter, data));
        } else {
            self.line.push_back((waiter, data));
        }
    }

    /// The number of waiters, including those whose wait has just ended otherwise.
    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.line.len()
    }

    /// Removes a waiter.
    pub fn leave(&mut self, waiter: &Arc<Waiter>) {
        self.line.retain(|(other, _)| !Arc::ptr_eq(other, waiter));
    }

    /// Notifies and removes the first waiter that still waits. Returns its data; None if there is no such waiter.
    pub fn notify_first(&mut self) -> Option<T> {
        while let Some((waiter, data)) = self.line.pop_front() {
            if waiter.notify() {
                return Some(data);
            }
        }
        None
    }

    /// Notifies and removes the last waiter that still waits. Returns its data; None if there is no such waiter.
    pub fn notify_last(&mut self) -> Option<T> {
        while let Some((waiter, data)) = self.line.pop_back() {
            if waiter.notify() {
                return Some(data);
            }
        }
        None
    }

    /// Notifies and removes all waiters.
    pub fn notify_all(&mut self) {
        for (waiter, _) in self.line.drain(..) {
            waiter.notify();
        }
    }
}
