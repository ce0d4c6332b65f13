//! The unit that runs on this thread now.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::records;
use super::unit::Unit;
use crate::coroutine::{self, StackBounds};

/// The loop thread has an action of [`before_next_wait`]. Cheaper to read than a variable of the thread.
static ACTS_BEFORE_WAIT: AtomicBool = AtomicBool::new(false);

/// The number of parks. The loop thread alone writes it. Cheaper to reach than a variable of the thread.
static PARKS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static CURRENT: RefCell<Option<Rc<Unit>>> = const { RefCell::new(None) };
    static BEFORE_WAIT: Cell<Option<fn()>> = const { Cell::new(None) };
    static KEPT_IDENT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Whether the caller runs in a unit that may park.
pub fn can_park() -> bool {
    with_current(|unit| unit.may_park.get()).unwrap_or(false)
}

/// Runs `action` while the current unit may not park: waits in `action` block the thread instead.
pub fn without_parking<R>(action: impl FnOnce() -> R) -> R {
    let unit = current();
    let could = unit.as_ref().is_some_and(|unit| unit.may_park.replace(false));
    let result = action();
    if let Some(unit) = unit {
        unit.may_park.set(could);
    }
    result
}

/// The ident of the current unit's work. `None` on other threads. A forked child keeps the ident of its forking unit.
pub fn ident() -> Option<u64> {
    with_current(|unit| unit.record.ident()).or_else(|| KEPT_IDENT.get())
}

/// Sets the ident of the current unit's work.
pub fn set_ident(ident: u64) {
    if let Some(unit) = current() {
        unit.record.set_ident(ident);
    }
}

/// The bounds of the current unit's stack.
pub fn current_stack() -> Option<StackBounds> {
    current().map(|unit| unit.parking.bounds()).filter(|bounds| *bounds != StackBounds::default())
}

/// Runs `action` on the data that the layers above keep for the work in progress. `None` outside a unit.
pub fn with_local<R>(action: impl FnOnce(&mut Option<Box<dyn Any>>) -> R) -> Option<R> {
    current().map(|unit| action(&mut unit.local.borrow_mut()))
}

/// The subject of the unit that ran last on the loop thread. Any thread may call this.
pub fn running_subject() -> usize {
    records::running_subject()
}

/// Number of parks on the loop thread so far. While this number stays the same, the same unit runs.
pub fn number_of_parks() -> u64 {
    PARKS.load(Ordering::Relaxed)
}

/// Calls `action` before the next wait on the loop thread begins, in the unit that waits, where it may itself wait. The
/// leader calls it before it polls, and before all work but requests.
pub fn before_next_wait(action: fn()) {
    BEFORE_WAIT.set(Some(action));
    ACTS_BEFORE_WAIT.store(true, Ordering::Relaxed);
}

/// Runs the action of [`before_next_wait`], for a caller that waits in a moment. In a unit.
///
/// # Parks
pub fn act_before_wait() {
    if let Some(action) = take_before_wait() {
        action();
    }
}

/// Whether there is an action of [`before_next_wait`].
#[inline]
pub fn acts_before_wait() -> bool {
    ACTS_BEFORE_WAIT.load(Ordering::Relaxed)
}

/// Takes the action of [`before_next_wait`].
#[inline]
pub(super) fn take_before_wait() -> Option<fn()> {
    if !acts_before_wait() {
        return None;
    }
    ACTS_BEFORE_WAIT.store(false, Ordering::Relaxed);
    BEFORE_WAIT.take()
}

/// Counts a park.
pub(super) fn count_park() {
    PARKS.store(number_of_parks().wrapping_add(1), Ordering::Relaxed);
}

/// The unit that runs on this thread now, if this is the loop thread.
pub(super) fn current() -> Option<Rc<Unit>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Runs `look` on the current unit. `None` off the loop thread. `look` neither switches nor calls out.
pub(super) fn with_current<R>(look: impl FnOnce(&Unit) -> R) -> Option<R> {
    CURRENT.with(|current| current.borrow().as_deref().map(look))
}

/// Records the unit that runs from now on.
pub(super) fn set_current(unit: Option<&Rc<Unit>>) {
    let stack = unit.map(|unit| unit.parking.bounds()).unwrap_or_default();
    records::set_running(unit.map(|unit| &*unit.record));
    coroutine::set_current_stack(stack);
    CURRENT.with(|current| *current.borrow_mut() = unit.cloned());
}

/// Clears the current unit in a forked child, but keeps the unit's ident.
pub(super) fn forget() {
    if let Some(ident) = with_current(|unit| unit.record.ident()) {
        KEPT_IDENT.set(Some(ident));
        set_current(None);
    }
}
