//! The deadlines of the loop: exact and cancellable. The leader polls them.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use super::activity::precise_now;
use super::tokens::{SourceId, Ticket};

/// The purpose of a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A parked coroutine whose wait ends.
    Wait(Ticket),
    /// A source at rest, whose owner handles the deadline.
    Source(SourceId),
    /// The ring of sources that has the source in this place: the slot of their deadlines begins.
    Slot(u32),
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

/// A time in eight bytes: nanoseconds on the clock of [`precise_now`], which is that of [`Instant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoopTime(NonZeroU64);

impl LoopTime {
    /// The width of a slot of time, as a power of two of nanoseconds: 134 ms.
    const SLOT_BITS: u32 = 27;

    fn new(nanoseconds: u64) -> LoopTime {
        LoopTime(NonZeroU64::new(nanoseconds).unwrap_or(NonZeroU64::MIN))
    }

    /// The time after this delay.
    #[inline]
    pub fn after(delay: Duration) -> LoopTime {
        LoopTime::new(precise_now().saturating_add(nanoseconds(delay)))
    }

    /// The beginning of the slot that the time is in. No later time has an earlier one.
    pub fn slot(self) -> LoopTime {
        LoopTime::new(self.0.get() >> LoopTime::SLOT_BITS << LoopTime::SLOT_BITS)
    }
}

/// Nanoseconds of a duration; centuries are as good as never.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

/// Deadlines in order. Equal ones fire in the order of their insertion.
pub struct Timers {
    entries: BTreeMap<TimerKey, Target>,
    sequence: u64,
    /// The same time on both clocks.
    begun: (Instant, u64),
}

impl Timers {
    /// No deadlines.
    pub fn new() -> Timers {
        Timers { entries: BTreeMap::new(), sequence: 0, begun: (Instant::now(), precise_now()) }
    }

    /// This time on the clock of the loop. Times before the timers were made are the same as that.
    pub fn loop_time(&self, at: Instant) -> LoopTime {
        let (begun, begun_at) = self.begun;
        LoopTime::new(begun_at.saturating_add(nanoseconds(at.saturating_duration_since(begun))))
    }

    /// The time on the clock of std.
    pub fn instant(&self, time: LoopTime) -> Instant {
        let (begun, begun_at) = self.begun;
        begun + Duration::from_nanos(time.0.get().saturating_sub(begun_at))
    }

    /// A place of the ring of sources whose deadlines are in this slot.
    pub fn ring(&self, slot: LoopTime) -> Option<u32> {
        match self.entries.get(&self.slot_key(slot)) {
            Some(Target::Slot(place)) => Some(*place),
            _ => None,
        }
    }

    /// Sets the place of a slot's ring, or forgets the slot.
    pub fn set_ring(&mut self, slot: LoopTime, place: Option<u32>) {
        let key = self.slot_key(slot);
        match place {
            Some(place) => _ = self.entries.insert(key, Target::Slot(place)),
            None => _ = self.entries.remove(&key),
        }
    }

    /// The key of a slot, which is the first of its time.
    fn slot_key(&self, slot: LoopTime) -> TimerKey {
        TimerKey { at: self.instant(slot), sequence: 0 }
    }

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
        let mut timers = Timers::new();
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
    fn times_of_the_loop_are_exact_and_in_order() {
        let timers = Timers::new();
        for nanoseconds in [0, 1, 134_217_727, 134_217_728, 60_000_000_000, 1 << 60] {
            let at = timers.begun.0 + Duration::from_nanos(nanoseconds);
            let time = timers.loop_time(at);
            assert_eq!(timers.instant(time), at);
            assert!(time.slot() <= time && time < timers.loop_time(at + Duration::from_nanos(1)));
            assert_eq!(time.slot().slot(), time.slot());
        }
        let (begun, _) = timers.begun;
        assert_eq!(timers.loop_time(begun - Duration::from_secs(1)), timers.loop_time(begun));
    }

    #[test]
    fn a_delay_ends_when_its_time_has_passed() {
        let timers = Timers::new();
        let second = Duration::from_secs(1);
        let before = Instant::now();
        let at = timers.instant(LoopTime::after(second));
        // The two clocks of the timers were read one after the other.
        assert!(at + Duration::from_millis(100) >= before + second && at <= Instant::now() + second);
    }

    #[test]
    fn a_cancelled_deadline_does_not_fire() {
        let start = Instant::now();
        let mut timers = Timers::new();
        let key = timers.insert(start, wait(1));
        timers.insert(start, wait(2));
        timers.remove(key);
        timers.remove(key);
        assert_eq!(timers.pop_expired(start), Some(wait(2)));
        assert_eq!(timers.pop_expired(start), None);
    }
}
