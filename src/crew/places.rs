//! The table of places: where sessions of a service belong, whichever process serves them.
//!
//! A worker holds a place for as long as it serves, and its replacement inherits the place. Sessions that are hashed
//! over places therefore stay together when workers are replaced. The master writes the table, and every worker reads
//! it without waking the others.

use std::sync::atomic::Ordering;

use super::message::Sibling;
use super::roster::Roster;
use super::scoreboard::{Scoreboard, WorkerState};

/// The bytes of the key that signs cookies.
pub const KEY_BYTES: usize = 32;

impl Scoreboard {
    /// The number of places. Each one has a holder, or is empty until a worker takes it.
    pub fn places(&self) -> u32 {
        self.header().places.load(Ordering::Acquire).min(self.slots())
    }

    /// The slot of the worker that holds a place, if that worker serves or drains.
    pub fn holder(&self, place: u32) -> Option<u32> {
        let slot = self.assigned(place)?;
        matches!(self.state(slot), WorkerState::Ready | WorkerState::Draining).then_some(slot)
    }

    /// The slot to which the master has assigned a place, whatever the state of its worker.
    pub fn assigned(&self, place: u32) -> Option<u32> {
        if place >= self.places() {
            return None;
        }
        self.slot(place)?.place_holder.load(Ordering::Acquire).checked_sub(1).filter(|&slot| slot < self.slots())
    }

    /// The place that the worker of a slot holds.
    pub fn place_of(&self, slot: u32) -> Option<u32> {
        (0..self.places()).find(|&place| self.holder(place) == Some(slot))
    }

    /// The worker that holds a place, with its generation.
    pub fn worker_at(&self, place: u32) -> Option<Sibling> {
        self.serving(self.holder(place)?)
    }

    /// The worker of a slot, if it serves or drains.
    pub fn serving(&self, slot: u32) -> Option<Sibling> {
        let worker = self.owner(slot)?.worker;
        matches!(self.state(slot), WorkerState::Ready | WorkerState::Draining).then_some(worker)
    }

    /// Assigns the places in their order to slots. By the master. Places beyond the number of slots are dropped.
    pub fn assign_places(&self, holders: &[Option<u32>]) {
        let before = self.places();
        let holders = holders.get(..self.slots() as usize).unwrap_or(holders);
        let (mut place, count) = (0, holders.len() as u32);
        while let Some(entry) = self.slot(place).filter(|_| place < before.max(count)) {
            let holder = holders.get(place as usize).copied().flatten();
            entry.place_holder.store(holder.map_or(0, |slot| slot.wrapping_add(1)), Ordering::Release);
            place += 1;
        }
        self.header().places.store(count, Ordering::Release);
    }

    /// The key of the service, which signs cookies; `None` until the master has set it.
    pub fn service_key(&self) -> Option<[u8; KEY_BYTES]> {
        let mut key = [0; KEY_BYTES];
        let (words, _) = key.as_chunks_mut::<8>();
        for (word, shared) in words.iter_mut().zip(&self.header().service_key) {
            *word = shared.load(Ordering::Acquire).to_ne_bytes();
        }
        (key != [0; KEY_BYTES]).then_some(key)
    }

    /// Sets the key of the service. By the first master, before its first worker.
    pub fn set_service_key(&self, key: &[u8; KEY_BYTES]) {
        let (words, _) = key.as_chunks::<8>();
        for (word, shared) in words.iter().zip(&self.header().service_key) {
            shared.store(u64::from_ne_bytes(*word), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crew::seat::Seat;

    fn ready(board: &Arc<Scoreboard>) -> u32 {
        let slot = board.reserve().unwrap();
        Seat::take(Arc::clone(board), slot).unwrap().set_state(WorkerState::Ready);
        slot
    }

    #[test]
    fn a_place_has_a_holder_while_its_worker_serves_or_drains() {
        let board = Arc::new(Scoreboard::new(4).unwrap());
        assert_eq!((board.places(), board.holder(0), board.place_of(0)), (0, None, None));
        let (first, second) = (ready(&board), ready(&board));
        board.assign_places(&[Some(second), None, Some(first)]);
        assert_eq!((board.places(), board.holder(0), board.holder(1), board.holder(2)), (3, Some(1), None, Some(0)));
        assert_eq!((board.place_of(first), board.place_of(second), board.place_of(3)), (Some(2), Some(0), None));
        board.set_state(second, WorkerState::Draining);
        assert_eq!(board.worker_at(0), Some(Sibling { slot: second, generation: 1 }));
        board.release(second);
        assert_eq!((board.holder(0), board.assigned(0), board.worker_at(0)), (None, Some(second), None));
        board.assign_places(&[Some(first)]);
        assert_eq!((board.places(), board.assigned(0), board.holder(2)), (1, Some(first), None));
    }

    #[test]
    fn numbers_that_no_master_writes_do_no_harm() {
        let board = Scoreboard::new(2).unwrap();
        board.assign_places(&[Some(u32::MAX), Some(7), Some(1)]);
        assert_eq!((board.places(), board.holder(0), board.holder(1), board.holder(2)), (2, None, None, None));
        board.header().places.store(u32::MAX, Ordering::Relaxed);
        assert_eq!((board.places(), board.holder(u32::MAX), board.place_of(9)), (2, None, None));
    }

    #[test]
    fn another_process_of_the_service_finds_the_same_key() {
        use std::os::fd::AsFd;
        let board = Scoreboard::new(1).unwrap();
        assert_eq!(board.service_key(), None);
        board.set_service_key(&[7; KEY_BYTES]);
        assert_eq!(Scoreboard::from_descriptor(board.as_fd()).unwrap().service_key(), Some([7; KEY_BYTES]));
    }
}
