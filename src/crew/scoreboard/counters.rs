//! The numbers of the workers: those of one, and the sums over all.
//!
//! # Counters never go backwards
//!
//! The counters of a slot go on with its next owner: they are never reset. The sum over all slots therefore includes
//! the dead workers, and grows whatever ends at whichever moment. A worker's own number is the difference to the
//! counter that its owner found.

use std::sync::atomic::Ordering;

use rustix::time::ClockId;

use super::clock::nanoseconds;
use super::layout::WorkerSlot;
use super::mapping::Scoreboard;
use crate::crew::measures::{CHANNEL_EVENTS, HandOvers, Measured, Measures};

/// The numbers that a worker has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were answered.
    pub requests: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Requests in progress.
    pub in_progress: u64,
    /// WebSockets that are open.
    pub websockets: u64,
}

impl Scoreboard {
    /// The numbers of the slot's worker.
    pub fn counters(&self, index: u32) -> Counters {
        let Some(slot) = self.slot(index) else { return Counters::default() };
        let before = (slot.requests_before.load(Ordering::Acquire), slot.connections_before.load(Ordering::Acquire));
        let sums = slot.sums();
        Counters {
            requests: sums.requests.saturating_sub(before.0),
            connections: sums.connections.saturating_sub(before.1),
            ..sums
        }
    }

    /// The numbers of all workers, with those of the dead.
    pub fn total(&self) -> Counters {
        (0..self.slots()).filter_map(|index| self.slot(index)).map(WorkerSlot::sums).fold(
            Counters::default(),
            |sum, one| Counters {
                requests: sum.requests.wrapping_add(one.requests),
                connections: sum.connections.wrapping_add(one.connections),
                open_connections: sum.open_connections.wrapping_add(one.open_connections),
                in_progress: sum.in_progress.wrapping_add(one.in_progress),
                websockets: sum.websockets.wrapping_add(one.websockets),
            },
        )
    }

    /// The measures of a slot at this time, with those of its earlier owners. `None` if no worker has owned it.
    pub fn measured(&self, index: u32) -> Option<Measured> {
        self.measures(index).map(|measures| measures.read(nanoseconds(ClockId::Monotonic)))
    }

    /// The measures of all slots at this time, with those of the dead.
    pub fn measured_in_total(&self) -> Measured {
        let mut total = Measured::default();
        (0..self.slots()).filter_map(|index| self.measured(index)).for_each(|one| total.include(&one));
        total
    }

    /// The share of the last ten seconds for which the loop of the slot's worker was busy, from 0 to 1.
    pub fn busy_share(&self, index: u32) -> f64 {
        self.measures(index).map_or(0.0, |measures| measures.busy_share(nanoseconds(ClockId::Monotonic)))
    }

    /// The use of the slot's worker, from 0 to 1. It is the larger of two shares: the busy time of its loop over ten
    /// seconds, and its requests in progress over the most that it takes.
    pub fn saturation(&self, index: u32) -> f64 {
        let limit = self.measures(index).map_or(0, |measures| measures.request_limit.load(Ordering::Acquire));
        let in_use = if limit == 0 { 0.0 } else { self.counters(index).in_progress as f64 / limit as f64 };
        self.busy_share(index).max(in_use.min(1.0))
    }

    /// How many WebSockets have been accepted, by all workers and those that have ended.
    pub fn websockets_begun(&self) -> u64 {
        let slots = (0..self.slots()).filter_map(|index| self.slot(index));
        slots.map(|slot| slot.websockets_begun.load(Ordering::Acquire)).fold(0, u64::wrapping_add)
    }

    /// The connections that the slot's worker has handed over and taken over.
    pub fn hand_overs(&self, index: u32) -> HandOvers {
        self.measures(index).map_or_else(HandOvers::default, Measures::hand_overs)
    }

    /// Adds to the numbers of messages of channels of the slot's worker.
    pub fn note_channels(&self, index: u32, more: [u64; CHANNEL_EVENTS.len()]) {
        if let Some(measures) = self.measures(index) {
            measures.note_channels(more);
        }
    }

    /// The measures of a slot that has or had an owner. Reading others would give them memory.
    fn measures(&self, index: u32) -> Option<&Measures> {
        self.slot(index).filter(|slot| slot.generation.load(Ordering::Acquire) > 0).map(|slot| &slot.measures)
    }
}

impl WorkerSlot {
    /// The counters, with those of earlier owners.
    pub(in crate::crew) fn sums(&self) -> Counters {
        // Ended work is read first: it must not outnumber begun work.
        let requests = self.requests.load(Ordering::Acquire);
        let websockets_over = self.websockets_over.load(Ordering::Acquire);
        Counters {
            requests,
            connections: self.connections.load(Ordering::Acquire),
            open_connections: self.open_connections.load(Ordering::Acquire),
            in_progress: self.begun.load(Ordering::Acquire).saturating_sub(requests),
            websockets: self.websockets_begun.load(Ordering::Acquire).saturating_sub(websockets_over),
        }
    }
}
