//! The end of work and of the loop. The loop asks each unit once to end. A unit that waits on may be left behind.
//!
//! A unit that is left behind stays parked for ever. The loop never reuses or frees its stack and the host's part, as
//! CPython does with daemon threads. A unit that computes cannot be left behind, and keeps the loop from ending.

use std::rc::Rc;

use super::current;
pub use super::current::running_subject;
use super::inbox::LoopMessage;
use super::runtime::Runtime;
use super::state::{LoopState, with};
use super::tokens::Ticket;
use super::unit::{Unfinished, Unit};
use super::wake::Wake;

impl Runtime {
    /// Asks every unit to end at its present or next wait. The loop ends with the last unit. Drops work that has not
    /// begun.
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

/// Asks the awaited work to end at its present or next wait. Call it on the loop thread.
pub fn kill_awaited() {
    with(|state| state.kill(true));
}

/// Lets the ending loop end without the work that waits now, which stays parked for ever. Call it on the loop thread.
pub fn leave_the_rest_behind() {
    with(|state| {
        state.leaving = true;
        state.runtime.leave();
    });
}

/// All work that has not ended. Empty off the loop thread.
pub fn unfinished() -> Vec<Unfinished> {
    with(|state| state.busy().map(|unit| unit.unfinished()).collect()).unwrap_or_default()
}

/// Makes the end of the process wait for the current work, as it does for requests.
pub fn set_awaited() {
    if let Some(unit) = current::current() {
        unit.awaited.set(true);
    }
}

/// Whether the current work has been asked to end, by the end of the loop or by [`kill_awaited`].
pub fn is_killed() -> bool {
    current::with_current(|unit| unit.killed.get()).unwrap_or(false)
}

/// Forgets the units that still wait and all their data, so that the loop ends without them.
pub(super) fn forget_waiting() {
    let waiting = with(|state| {
        let slots: Vec<usize> = state.units.iter().filter(|(_, unit)| unit.busy.get()).map(|(slot, _)| slot).collect();
        slots.into_iter().map(|slot| state.units.remove(slot)).collect::<Vec<_>>()
    });
    for unit in waiting.unwrap_or_default() {
        unit.record.leave();
        // Dropping this data notifies everything that waits for the work.
        drop(unit.local.take());
        // Dropping a parked coroutine would unwind its stack, which holds foreign frames.
        std::mem::forget(unit);
    }
}

impl LoopState {
    fn busy(&self) -> impl Iterator<Item = &Rc<Unit>> {
        self.units.iter().map(|(_, unit)| unit).filter(|unit| unit.busy.get())
    }

    /// Asks each chosen unit once to end: a waiting unit ends its wait now, any other unit ends its next wait.
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
