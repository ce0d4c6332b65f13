//! Permits: the mechanism shared by locks and semaphores.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::interp::{Line, Waiter, Waiters};
use crate::sync::lock;

/// A number of permits. One that is returned goes straight to the waiter that has waited longest.
pub struct Permits {
    state: Mutex<PermitState>,
}

#[derive(Default)]
struct PermitState {
    free: u64,
    waiters: Waiters,
}

impl Permits {
    /// `free` permits, all free.
    pub fn new(free: u64) -> Permits {
        Permits { state: Mutex::new(PermitState { free, waiters: Waiters::default() }) }
    }

    /// How many permits are free.
    pub fn free(&self) -> u64 {
        self.state().free
    }

    /// Takes a permit if one is free. Returns whether it did.
    pub fn try_take(&self) -> bool {
        let mut state = self.state();
        let is_free = state.free > 0;
        state.free -= u64::from(is_free);
        is_free
    }

    /// Returns `count` permits. Returns false, without a change, if more than `limit` would be free.
    pub fn give_back(&self, count: u64, limit: Option<u64>) -> bool {
        let mut state = self.state();
        if limit.is_some_and(|limit| state.free.saturating_add(count) > limit) {
            return false;
        }
        let mut left = count;
        while left > 0 && state.waiters.notify_first().is_some() {
            left -= 1;
        }
        state.free = state.free.saturating_add(left);
        true
    }

    /// Makes `free` permits free and forgets all waiters: in a forked child they do not exist.
    pub fn reset(&self, free: u64) {
        *self.state() = PermitState { free, waiters: Waiters::default() };
    }

    fn state(&self) -> MutexGuard<'_, PermitState> {
        lock(&self.state)
    }
}

impl Line for Permits {
    fn attempt(&self) -> bool {
        self.try_take()
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        self.state().waiters.join(waiter, (), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.state().waiters.leave(waiter);
    }
}
