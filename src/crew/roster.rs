//! The workers of the service, as their shared memory has them.

use super::message::Sibling;
use super::scoreboard::{Scoreboard, WorkerState};

/// The owners of all slots. Reading them wakes no process.
pub trait Roster: Send + Sync + 'static {
    /// The number of slots.
    fn slots(&self) -> u32;

    /// The owner of a slot, unless the slot is free or its owner has not begun yet.
    fn owner(&self, slot: u32) -> Option<SlotOwner>;

    /// The workers but that of `own` that listen to a channel of this place ([`place_of`](super::interest::place_of)).
    fn listeners(&self, place: usize, own: u32) -> Vec<Sibling>;
}

/// The owner of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    /// The worker.
    pub worker: Sibling,
    /// The number of its process.
    pub process: u32,
}

impl Roster for Scoreboard {
    fn slots(&self) -> u32 {
        Scoreboard::slots(self)
    }

    fn owner(&self, slot: u32) -> Option<SlotOwner> {
        // The slot may change hands between two reads.
        let (generation, process) = loop {
            let seen = (self.generation(slot), self.pid(slot));
            if seen.0 == self.generation(slot) {
                break seen;
            }
        };
        let is_owned = process != 0 && self.state(slot) != WorkerState::Free;
        is_owned.then_some(SlotOwner { worker: Sibling { slot, generation }, process })
    }

    fn listeners(&self, place: usize, own: u32) -> Vec<Sibling> {
        // Free slots are taken in their order, so no worker is behind one that never had an owner.
        let interests = (0..Scoreboard::slots(self)).map_while(|slot| Some((slot, self.interest(slot)?)));
        let listening = interests.filter(|(slot, interest)| *slot != own && interest.has(place));
        listening.filter_map(|(slot, _)| self.owner(slot)).map(|owner| owner.worker).collect()
    }
}
