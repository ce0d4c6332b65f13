//! The deadlines of the loop: exact and cancellable. The leader polls them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::tokens::{SourceId, Ticket};

/// The purpose of a deadline. It is small, since each idle connection has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A parked coroutine whose wait ends.
    Wait(Ticket),
    /// A source at rest, whose owner handles the deadline.
    Source(SourceId),
    /// A look for units that wait for long.
    Sweep,
    /// The end of a burst, whose memory goes back to the kernel.
    EndOfBurst,
    /// The service, which tries to take connections again.
    Service,
    /// A piece of work to interrupt, and the number of the alarm that interrupts it.
    Alarm {
        /// The unit of the [`WorkId`](super::tokens::WorkId).
        unit: u32,
        /// The number of the [`WorkId`](super::tokens::WorkId).
        work: u64,
        /// The number of the alarm.
        number: u64,
    },
    /// A function to run as work of the loop.
    Call(TimedCall),
}

/// A function that a deadline calls.
#[derive(Clone, Copy, Debug)]
pub struct TimedCall(pub fn());

impl PartialEq for TimedCall {
    fn eq(&self, other: &TimedCall) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Eq for TimedCall {}

/// The key of a deadline, for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerKey {
    at: Instant,
    sequence: u64,
}

impl TimerKey {
    /// The time at which the deadline fires.
    pub fn at(self) -> Instant {
        self.at
    }
}

/// Deadlines in order. Equal ones fire in the order of their insertion.
#[derive(Default)]
pub struct Timers {
    entries: BTreeMap<TimerKey, Target>,
    sequence: u64,
}

impl Timers {
    /// Adds a deadline.
    pub fn insert(&mut self, at: Instant, target: Target) -> TimerKey {
        self.sequence += 1;
        let key = TimerKey { at, sequence: self.sequence };
        self.entries.insert(key, target);
        key
    }

    /// Cancels a deadline. Ignores a deadline that has fired.
    pub fn remove(&mut self, key: TimerKey) {
        self.entries.remove(&key);
    }

    /// The number of deadlines.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.entries.first_key_value().map(|(key, _)| key.at)
    }

    /// Takes the earliest deadline if it has passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Target> {
        let entry = self.entries.first_entry()?;
        (entry.key().at <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wait(number: u64) -> Target {
        Target::Wait(Ticket { unit: 0, number })
    }

    #[test]
    fn deadlines_fire_in_order_and_equal_ones_first_come_first_served() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let later = start + Duration::from_millis(2);
        timers.insert(later, wait(2));
        timers.insert(start, wait(1));
        timers.insert(later, wait(3));
        assert_eq!(timers.next(), Some(start));
        assert_eq!(timers.pop_expired(start), Some(wait(1)));
        assert_eq!(timers.pop_expired(start), None);
        assert_eq!(timers.pop_expired(later), Some(wait(2)));
        assert_eq!(timers.pop_expired(later), Some(wait(3)));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn the_deadline_of_an_idle_connection_is_small() {
        assert_eq!((size_of::<TimerKey>(), size_of::<Target>()), (24, 24));
    }

    #[test]
    fn a_cancelled_deadline_does_not_fire() {
        let start = Instant::now();
        let mut timers = Timers::default();
        let key = timers.insert(start, wait(1));
        timers.insert(start, wait(2));
        timers.remove(key);
        timers.remove(key);
        assert_eq!(timers.pop_expired(start), Some(wait(2)));
        assert_eq!(timers.pop_expired(start), None);
    }
}
