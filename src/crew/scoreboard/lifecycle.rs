//! The life of a slot: a master reserves it, a worker owns it, and a master releases it.
//!
//! While a worker owns the slot, others read from it the worker's state, its process, its wish to be replaced, and the
//! channels that it listens to. The header has the numbers of workers that have ended, and whether the service stops.

use std::sync::atomic::Ordering;

use rustix::time::ClockId;

use super::clock::nanoseconds;
use super::layout::WorkerSlot;
use super::mapping::Scoreboard;
use super::worker_state::{EXIT_REASONS, REASONS, WorkerState};
use crate::crew::interest::ChannelInterest;

impl Scoreboard {
    /// Does the whole service stop?
    pub fn is_stopping(&self) -> bool {
        self.header().stopping.load(Ordering::Acquire) != 0
    }

    /// Notes whether the whole service stops.
    pub fn set_stopping(&self, is_stopping: bool) {
        self.header().stopping.store(is_stopping.into(), Ordering::Release);
    }

    /// Takes a free slot for a worker that is about to start. Returns `None` if no slot is free.
    pub fn reserve(&self) -> Option<u32> {
        (0..self.slots()).find(|&index| {
            let Some(slot) = self.slot(index) else { return false };
            let (free, booting) = (WorkerState::Free as u32, WorkerState::Booting as u32);
            // Two masters, of which one starts to replace the other, may reserve at once.
            let is_ours = slot.state.compare_exchange(free, booting, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if is_ours {
                slot.interest.clear();
                slot.generation.fetch_add(1, Ordering::AcqRel);
            }
            is_ours
        })
    }

    /// Gives the slot of a dead worker free. Its counters stay in the sum.
    pub fn release(&self, index: u32) {
        let Some(slot) = self.slot(index) else { return };
        // The numbers of what is open or in progress end with the worker.
        slot.begun.store(slot.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.websockets_over.store(slot.websockets_begun.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.open_connections.store(0, Ordering::Relaxed);
        slot.requests_before.store(slot.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.connections_before.store(slot.connections.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.measures.release(nanoseconds(ClockId::Monotonic));
        slot.interest.clear();
        slot.pid.store(0, Ordering::Relaxed);
        slot.asks.store(0, Ordering::Relaxed);
        slot.turn.store(0, Ordering::Relaxed);
        slot.state.store(WorkerState::Free as u32, Ordering::Release);
    }

    /// The state of a slot; `Free` for one that does not exist.
    pub fn state(&self, index: u32) -> WorkerState {
        self.slot(index).map_or(WorkerState::Free, WorkerSlot::state)
    }

    /// Sets the state of a worker. A worker that drains does not become ready again.
    pub fn set_state(&self, index: u32, state: WorkerState) {
        if let Some(slot) = self.slot(index) {
            slot.set_state(state);
        }
    }

    /// The reason why the worker asks to be replaced; empty if it does not ask.
    pub fn asks(&self, index: u32) -> &'static str {
        let number = self.slot(index).map_or(0, |slot| slot.asks.load(Ordering::Acquire));
        number.checked_sub(1).and_then(|place| REASONS.get(place as usize)).copied().unwrap_or_default()
    }

    /// Notes the worker's wish to be replaced. Returns false for an unknown reason.
    pub fn ask(&self, index: u32, reason: &str) -> bool {
        let number = match REASONS.iter().position(|known| *known == reason) {
            Some(place) => place as u32 + 1,
            None if reason.is_empty() => 0,
            None => return false,
        };
        if let Some(slot) = self.slot(index) {
            slot.asks.store(number, Ordering::Release);
        }
        true
    }

    /// The process id of the worker; 0 before it has written it.
    pub fn pid(&self, index: u32) -> u32 {
        self.slot(index).map_or(0, |slot| slot.pid.load(Ordering::Acquire))
    }

    /// The number of workers that have owned the slot.
    pub fn generation(&self, index: u32) -> u64 {
        self.slot(index).map_or(0, |slot| slot.generation.load(Ordering::Acquire))
    }

    /// The channels that the slot's worker listens to. `None` if no worker has owned the slot.
    pub fn interest(&self, index: u32) -> Option<&ChannelInterest> {
        self.slot(index).filter(|slot| slot.generation.load(Ordering::Acquire) > 0).map(|slot| &slot.interest)
    }

    /// How many workers have been started, by any master of the service.
    pub fn starts(&self) -> u64 {
        (0..self.slots()).map(|index| self.generation(index)).fold(0, u64::wrapping_add)
    }

    /// Counts a worker that has ended. Returns false for an unknown reason.
    pub fn count_exit(&self, reason: &str) -> bool {
        let place = EXIT_REASONS.iter().position(|known| *known == reason);
        let count = place.and_then(|place| self.header().exits.get(place));
        count.inspect(|count| _ = count.fetch_add(1, Ordering::AcqRel)).is_some()
    }

    /// How many workers have ended, by [`EXIT_REASONS`].
    pub fn exits(&self) -> [u64; EXIT_REASONS.len()] {
        std::array::from_fn(|place| self.header().exits[place].load(Ordering::Acquire))
    }

    /// The slots that workers own.
    pub fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots()).filter(|&index| self.state(index) != WorkerState::Free)
    }
}

impl WorkerSlot {
    fn state(&self) -> WorkerState {
        WorkerState::of(self.state.load(Ordering::Acquire))
    }

    pub(in crate::crew) fn set_state(&self, state: WorkerState) {
        let changed = |before: u32| {
            let is_late = before == WorkerState::Draining as u32 && state == WorkerState::Ready;
            (!is_late).then_some(state as u32)
        };
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
    }
}
