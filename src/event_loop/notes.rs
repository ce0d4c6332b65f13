//! The notes that the current unit makes in its record: what it works for, and why it waits.

use std::rc::Rc;

use super::current;
use super::reasons::Reason;
use super::records::WorkKind;
use super::tokens::WorkId;
use super::unit::Unit;
use super::wait_sums::WaitSums;

/// The piece of work that the current unit does, for several notes about it: each look for the current unit costs as
/// much as a note.
pub struct OwnWork(Rc<Unit>);

impl OwnWork {
    /// The work of the current unit. `None` off the loop thread.
    pub fn current() -> Option<OwnWork> {
        current::current().map(OwnWork)
    }

    /// The id of the work. `None` for a unit that leads or ends.
    pub fn id(&self) -> Option<WorkId> {
        self.0.may_park.get().then(|| WorkId { unit: self.0.slot, number: self.0.work.get() })
    }

    /// Sets the subject of the work: a number with a meaning to the layers above; 0 means none. Returns the previous
    /// one.
    pub fn replace_subject(&self, subject: usize) -> usize {
        self.0.record.replace_subject(subject)
    }

    /// Notes that the application is done with the work: the rest of it is the server's own.
    pub fn is_over(&self) {
        self.0.record.set_kind(WorkKind::Engine);
    }
}

/// Names the current unit's work as a request: the first `length` bytes of `text` are its method and target. `client` is
/// the descriptor of its connection.
#[inline]
pub fn name_request(text: &[u8], length: usize, client: i32) {
    current::with_current(|unit| unit.record.name(WorkKind::Request, text, length, client));
}

/// Names the current unit's work as a call of a spawned function.
pub fn name_spawned(name: &str) {
    current::with_current(|unit| unit.record.name(WorkKind::Spawned, name.as_bytes(), name.len(), -1));
}

/// Notes the thread state that the current unit uses from now on; 0 for none. Returns the previous one. Call it under
/// the GIL.
pub fn set_thread_state(state: usize) -> usize {
    current::with_current(|unit| unit.record.replace_thread_state(state)).unwrap_or(0)
}

/// Sums the waits of the current piece of work from now on.
pub fn sum_waits() {
    current::with_current(|unit| *unit.sums.borrow_mut() = Some(Box::default()));
}

/// Ends the sums, and returns them. `None` without [`sum_waits`].
pub fn take_sums() -> Option<Box<WaitSums>> {
    current::with_current(|unit| unit.sums.borrow_mut().take()).flatten()
}

/// Runs `wait`, in which the current unit may wait for `reason`. An outer reason takes precedence: a queue that is made
/// of a lock is a queue.
pub fn because<R>(reason: Reason, details: [u64; 2], wait: impl FnOnce() -> R) -> R {
    let unit = current::current();
    let _noted = unit.as_deref().and_then(|unit| Noted::begin(unit, reason, details));
    wait()
}

/// A reason that is noted in the record of a unit, for as long as this lives.
pub(super) struct Noted<'a>(&'a Unit);

impl Noted<'_> {
    /// Notes the reason for which `unit` may wait. `None` if the unit may not, or if there is an outer reason.
    #[inline]
    pub(super) fn begin(unit: &Unit, reason: Reason, details: [u64; 2]) -> Option<Noted<'_>> {
        (unit.may_park.get() && unit.record.reason() == Reason::Other).then(|| {
            unit.record.set_reason(reason, details);
            Noted(unit)
        })
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.0.record.set_reason(Reason::Other, [0, 0]);
    }
}
