//! Interruptions of another coroutine's wait from outside: thrown exceptions and alarms.
//!
//! An interruption ends only a wait. A coroutine that computes, or is ready to run, sees [`Wake::Interrupted`] at its
//! next wait. The layers above keep the meaning of the interruption.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::budget;
use super::current;
use super::inbox::LoopMessage;
use super::runtime::Runtime;
use super::state::with;
use super::timers::{Target, TimerKey};
use super::tokens::WorkId;
use super::wake::Wake;

/// The work in which an exception is to be raised while it computes; 0 for none. One piece of work computes at a time.
static PENDING: AtomicU64 = AtomicU64::new(0);

/// The piece of work that the caller runs in. `None` outside a unit, and in a unit that may not park.
pub fn current_work() -> Option<WorkId> {
    current::with_current(|unit| unit.may_park.get().then(|| WorkId { unit: unit.slot, number: unit.work.get() }))
        .flatten()
}

/// Begins another piece of work in the current unit, with a number of its own: the next request of a connection. The
/// interruptions of the previous one end with it. Those of the whole process stay.
pub fn begin_next_work() {
    let Some(unit) = current::current() else { return };
    let ended = unit.local.take();
    // Outside of the borrow: this notifies everything that waits for the work.
    drop(ended);
    with(|state| state.begin_work(&unit, budget::begun()));
    unit.alarms.borrow_mut().clear();
    forget();
}

/// The piece of work with this number, unless it has ended. `None` off the loop thread.
pub fn work_of_number(number: u64) -> Option<WorkId> {
    let found = with(|state| {
        let mut units = state.units.iter().map(|(_, unit)| unit);
        units.find(|unit| unit.busy.get() && unit.work.get() == number).map(|unit| unit.slot)
    });
    found.flatten().map(|unit| WorkId { unit, number })
}

/// Interrupts `work` from any thread; off the loop thread, later than now. Leaves ended work alone.
pub fn interrupt(runtime: &Runtime, work: WorkId) {
    if with(|state| state.interrupt(work)).is_none() {
        runtime.send(LoopMessage::Control(Box::new(move || {
            with(|state| state.interrupt(work));
        })));
    }
}

/// Makes the current unit's next wait end at once with `wake`, which came after the present wait had ended.
pub fn postpone(wake: Wake) {
    if let Some(unit) = current::current() {
        unit.postponed.set(Some(wake));
    }
}

/// Withdraws the interruption that [`interrupt`] or [`postpone`] left for the current unit's next wait.
pub fn forget() {
    if let Some(unit) = current::current()
        && unit.postponed.get() == Some(Wake::Interrupted)
    {
        unit.postponed.set(None);
    }
}

/// A scheduled interruption of the current work.
pub struct Alarm {
    number: u64,
    key: TimerKey,
}

impl Alarm {
    /// Interrupts the current work at `deadline`. `None` outside a unit.
    pub fn set(number: u64, deadline: Instant) -> Option<Alarm> {
        let work = current_work()?;
        let target = Target::Alarm { unit: u32::try_from(work.unit).ok()?, work: work.number, number };
        let key = with(|state| state.timers.insert(deadline, target))?;
        Some(Alarm { number, key })
    }

    /// Cancels the alarm, even after it has gone off.
    pub fn cancel(&self) {
        with(|state| state.timers.remove(self.key));
        if let Some(unit) = current::current() {
            unit.alarms.borrow_mut().retain(|&number| number != self.number);
        }
    }
}

/// Takes the number of the first alarm that has gone off for the current work.
pub fn take_alarm() -> Option<u64> {
    let unit = current::current()?;
    let mut alarms = unit.alarms.borrow_mut();
    (!alarms.is_empty()).then(|| alarms.remove(0))
}

/// Whether an alarm of the current work has gone off and is not yet taken.
pub fn has_alarm() -> bool {
    current::with_current(|unit| !unit.alarms.borrow().is_empty()).unwrap_or(false)
}

/// Notes that an exception waits to be raised while `work` computes; 0 for none. A wait of that work ends at once.
pub fn set_pending(work: u64) {
    PENDING.store(work, Ordering::Relaxed);
}

/// Whether an exception waits to be raised while `work` computes.
pub fn is_pending(work: u64) -> bool {
    let pending = PENDING.load(Ordering::Relaxed);
    pending != 0 && pending == work
}

/// The loop that runs the caller's coroutine.
pub fn current_runtime() -> Option<Arc<Runtime>> {
    with(|state| Arc::clone(&state.runtime))
}
