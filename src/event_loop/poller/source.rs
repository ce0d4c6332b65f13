//! The record of one source in the poller. Each idle connection has such a record, so the record is small.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::event_loop::activity;
use crate::event_loop::interest::Interest;
use crate::event_loop::roles::StreamWatcher;
use crate::event_loop::timers::LoopTime;
use crate::event_loop::tokens::{Ticket, WorkId};

/// The receiver of a source's events that no coroutine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceOwner {
    /// The server's service, which knows the source by this number.
    Service(u32),
    /// The source's watcher.
    Watcher,
    /// The application, which gets events only through waits.
    Waits,
}

/// The owner that is the source's watcher, as [`Source`] keeps it. No number of the service is that large.
const WATCHER: u32 = u32::MAX - 1;

/// The owner that is the application.
const WAITS: u32 = u32::MAX;

impl SourceOwner {
    /// The service, which knows the source by `number`. It is less than 2^32 - 2, so that sources are small.
    pub fn service(number: usize) -> SourceOwner {
        let small = u32::try_from(number).ok().filter(|&small| small < WATCHER);
        debug_assert!(small.is_some(), "{number} is no number of a source's owner");
        SourceOwner::Service(small.unwrap_or(WATCHER - 1))
    }
}

/// One registered source.
pub struct Source {
    pub(super) generation: u32,
    /// The number of its descriptor, for the records of waits.
    pub descriptor: RawFd,
    owner: u32,
    /// When the poll returned that has reported input.
    pub ready_at: Poll,
    pub deadline: Option<LoopTime>,
    /// When a timer looks at the deadline: its own timer, or that of the ring it is in. Never later than the deadline.
    pub armed: Option<LoopTime>,
    pub(super) links: Links,
    /// Boxed, since a connection at rest has none of it.
    rare: Option<Box<RareParts>>,
    /// The source rests: its owner gets the next event.
    pub at_rest: bool,
    /// An edge has reported input, and no read has come up short since.
    pub readable: bool,
    /// The peer has ended its side; the end of the stream is still to be read.
    pub peer_closed: bool,
    /// A call of the watcher is queued.
    pub is_watch_queued: bool,
    /// The descriptor is registered with epoll, unless the application has closed it since. Not kept for listeners and
    /// watched sockets, which are registered from the beginning.
    pub(super) registered: bool,
}

/// The places of a source's neighbours in its ring, which may be the source itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Links {
    pub before: u32,
    pub after: u32,
}

impl Default for Links {
    /// Those of a source that is in no ring.
    fn default() -> Links {
        Links { before: u32::MAX, after: u32::MAX }
    }
}

/// State of sources that something waits for or watches.
#[derive(Default)]
struct RareParts {
    waits: Vec<(Interest, Ticket)>,
    /// The receiver of every event and deadline, even while coroutines wait.
    watcher: Option<Arc<dyn StreamWatcher>>,
    /// The work that ends when the peer resets or hangs up.
    ends_with_peer: Option<WorkId>,
}

impl Source {
    /// A source at rest.
    pub(super) fn new(generation: u32, owner: SourceOwner, descriptor: RawFd) -> Source {
        Source {
            generation,
            descriptor,
            owner: match owner {
                SourceOwner::Service(number) => number,
                SourceOwner::Watcher => WATCHER,
                SourceOwner::Waits => WAITS,
            },
            // A new connection may have its first request already.
            ready_at: Poll::last(),
            deadline: None,
            armed: None,
            links: Links::default(),
            rare: None,
            at_rest: true,
            readable: false,
            peer_closed: false,
            is_watch_queued: false,
            registered: false,
        }
    }

    /// The receiver of events that no coroutine waits for.
    pub fn owner(&self) -> SourceOwner {
        match self.owner {
            WATCHER => SourceOwner::Watcher,
            WAITS => SourceOwner::Waits,
            number => SourceOwner::Service(number),
        }
    }

    /// Whether the source is in a ring.
    pub fn is_in_ring(&self) -> bool {
        self.links != Links::default()
    }

    /// The waits on the source.
    pub(super) fn waits(&self) -> &[(Interest, Ticket)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.waits)
    }

    pub(super) fn add_wait(&mut self, interest: Interest, ticket: Ticket) {
        self.rare.get_or_insert_default().waits.push((interest, ticket));
    }

    pub(super) fn retain_waits(&mut self, mut stays: impl FnMut(Interest, Ticket) -> bool) {
        if let Some(rare) = &mut self.rare {
            rare.waits.retain(|&(interest, ticket)| stays(interest, ticket));
        }
    }

    pub(super) fn take_waits(&mut self) -> Vec<(Interest, Ticket)> {
        self.rare.as_mut().map(|rare| std::mem::take(&mut rare.waits)).unwrap_or_default()
    }

    /// The receiver of every event and deadline, even while coroutines wait.
    pub fn watcher(&self) -> Option<&Arc<dyn StreamWatcher>> {
        self.rare.as_ref()?.watcher.as_ref()
    }

    /// Whether the source has a watcher.
    pub fn has_watcher(&self) -> bool {
        self.watcher().is_some()
    }

    /// Sets the watcher or removes it. Returns the previous one.
    pub fn replace_watcher(&mut self, watcher: Option<Arc<dyn StreamWatcher>>) -> Option<Arc<dyn StreamWatcher>> {
        if watcher.is_none() && self.rare.is_none() {
            return None;
        }
        std::mem::replace(&mut self.rare.get_or_insert_default().watcher, watcher)
    }

    /// Sets the work that ends when the peer resets or hangs up.
    pub fn set_ends_with_peer(&mut self, work: Option<WorkId>) {
        if work.is_some() || self.rare.is_some() {
            self.rare.get_or_insert_default().ends_with_peer = work;
        }
    }

    pub(super) fn take_end_with_peer(&mut self) -> Option<WorkId> {
        self.rare.as_mut()?.ends_with_peer.take()
    }

    /// Frees what a source at rest has no use for.
    pub fn shed(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_idle()) {
            self.rare = None;
        }
    }
}

impl RareParts {
    fn is_idle(&self) -> bool {
        self.waits.is_empty() && self.watcher.is_none() && self.ends_with_peer.is_none()
    }
}

/// The time of a poll in units of 65.5 us, modulo 78 hours. 0 if it is not kept; see [`activity::keep_polls`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll(u32);

impl Poll {
    /// A unit, as a power of two of nanoseconds.
    const UNIT_BITS: u32 = 16;

    /// The poll that returned last.
    pub fn last() -> Poll {
        Poll::at(activity::last_poll())
    }

    fn at(nanoseconds: u64) -> Poll {
        Poll((nanoseconds >> Poll::UNIT_BITS) as u32)
    }

    /// The time since the poll. Zero if it is not kept.
    pub fn elapsed(self) -> Duration {
        self.until(activity::coarse_now())
    }

    fn until(self, now: u64) -> Duration {
        let units = if self.0 == 0 { 0 } else { Poll::at(now).0.wrapping_sub(self.0) };
        Duration::from_nanos(u64::from(units) << Poll::UNIT_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_an_idle_connection_is_small() {
        assert_eq!(size_of::<Source>(), 56);
    }

    #[test]
    fn the_time_since_a_poll_is_known_to_a_unit_also_when_its_number_wraps() {
        let unit = 1 << Poll::UNIT_BITS;
        for begun in [unit, 5 * unit + 7, (unit << 32) - 1] {
            let waits = Poll::at(begun).until(begun + 1_000_000_000);
            assert!(waits.abs_diff(Duration::from_secs(1)) <= Duration::from_nanos(unit), "{waits:?}");
        }
        assert_eq!(Poll::at(0).until(1_000_000_000), Duration::ZERO);
    }

    #[test]
    fn each_owner_is_kept() {
        for owner in [SourceOwner::Service(0), SourceOwner::service(70_000), SourceOwner::Watcher, SourceOwner::Waits] {
            assert_eq!(Source::new(1, owner, 3).owner(), owner);
        }
    }
}
