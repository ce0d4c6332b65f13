//! The end of work and of the loop. Every unit is asked to end once; what waits on all the same is left behind.
//!
//! A unit that is left behind stays parked for ever: its stack and the host's part are never used again and never
//! freed, as CPython does with daemon threads. One that computes cannot be left behind, and the loop cannot end.

use std::rc::Rc;

use super::current;
pub use super::current::{running_subject, set_subject};
use super::inbox::LoopMessage;
use super::runtime::Runtime;
use super::state::{LoopState, with};
use super::tokens::Ticket;
use super::unit::{Unfinished, Unit};
use super::wake::Wake;

impl Runtime {
    /// Asks every unit to end, at its present or next wait, and the loop to end when the last one has. Work that has not
    /// begun is dropped.
    pub fn end(&self) {
        self.send(LoopMessage::Control(Box::new(|| {
            drop(with(|state| {
                state.ending = true;
                state.kill(false);
                std::mem::take(&mut state.tasks)
            }));
        })));
    }
}

/// Asks the work to end that is awaited, at its present or next wait. On the loop thread.
pub fn kill_awaited() {
    with(|state| state.kill(true));
}

/// Has the loop end before the work has that waits now. It stays parked for ever. On the loop thread, while it ends.
pub fn leave_the_rest_behind() {
    with(|state| {
        state.leaving = true;
        state.runtime.leave();
    });
}

/// All work that has not ended. On the loop thread; empty elsewhere.
pub fn unfinished() -> Vec<Unfinished> {
    with(|state| state.busy().map(|unit| unit.unfinished()).collect()).unwrap_or_default()
}

/// The end of the process waits for the current work, as it does for requests.
pub fn set_awaited() {
    if let Some(unit) = current::current() {
        unit.awaited.set(true);
    }
}

/// Whether the current work has been asked to end, by the end of the loop or of what is awaited.
pub fn is_killed() -> bool {
    current::with_current(|unit| unit.killed.get()).unwrap_or(false)
}

/// Forgets the units that still wait, and everything that they have: the loop ends without them.
pub(super) fn forget_waiting() {
    let waiting = with(|state| {
        let slots: Vec<usize> = state.units.iter().filter(|(_, unit)| unit.busy.get()).map(|(slot, _)| slot).collect();
        slots.into_iter().map(|slot| state.units.remove(slot)).collect::<Vec<_>>()
    });
    for unit in waiting.unwrap_or_default() {
        // Those that wait for the work learn that it is over.
        drop(unit.local.take());
        // Dropping a parked coroutine unwinds its stack, which has frames of others.
        std::mem::forget(unit);
    }
}

impl LoopState {
    fn busy(&self) -> impl Iterator<Item = &Rc<Unit>> {
        self.units.iter().map(|(_, unit)| unit).filter(|unit| unit.busy.get())
    }

    /// Asks units to end that were not asked before: those in a wait now, all others at their next one.
    fn kill(&mut self, only_awaited: bool) {
        let chosen: Vec<Rc<Unit>> = self.busy().filter(|unit| unit.awaited.get() || !only_awaited).cloned().collect();
        for unit in chosen {
            if unit.killed.replace(true) {
                continue;
            }
            let ticket = Ticket { unit: unit.slot, number: unit.waiting.get() };
            if ticket.number == 0 || unit.wake.get().is_some() {
                unit.postponed.set(Some(Wake::Killed));
            } else {
                self.wake(ticket, Wake::Killed);
            }
        }
    }
}
