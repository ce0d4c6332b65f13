//! The budget of a turn: how long work may run before it gives way to others.
//!
//! A turn begins when a unit starts a piece of work or is resumed from a wait. Nobody preempts it, so every place where
//! it could give way is a chance to switch: each cooperative call, each loop over bytes, frames or items. A chance costs
//! one look at a coarse clock. Once the turn has lasted [`budget`], the chance cuts it off: the rest goes to a queue
//! behind all others, of which no more than one budget's worth runs between two polls (`State::later`). So ten turns
//! that never end by themselves do no more harm than one.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::state::{self, Work, with};
use super::{Wake, can_park, interrupts};

/// The budget of a process that sets none.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(10);

/// In nanoseconds; 0 for none.
static BUDGET: AtomicU64 = AtomicU64::new(10_000_000);

thread_local! {
    /// When the running turn began, on the coarse clock.
    static BEGUN: Cell<u64> = const { Cell::new(0) };
}

/// Sets how long a turn may last, for the whole process. Zero: turns end only where they wait.
pub fn set_budget(budget: Duration) {
    BUDGET.store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// How long a turn may last; `None` without a limit.
pub fn budget() -> Option<Duration> {
    let nanoseconds = BUDGET.load(Ordering::Relaxed);
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

/// Whether the running turn has used up its budget. Always false where it cannot be cut off.
pub fn is_spent() -> bool {
    has_lasted(BUDGET.load(Ordering::Relaxed)) && can_park() && !is_in_child()
}

/// Whether this is a forked child. Hooks of the fork run there before it is told (`event_loop::forget_in_child`), and the
/// fork itself may have used up the turn.
fn is_in_child() -> bool {
    Some(rustix::process::getpid()) != with(|state| state.process)
}

/// Cuts the running turn off: everything else that is ready runs first. Whoever calls this without looking at
/// [`is_spent`] gives way on its own account.
///
/// # Parks
pub fn give_way() -> Wake {
    super::wait(None, |state, ticket| {
        state.later.push_back(Work::Resume(ticket));
        Ok(None)
    })
}

/// As [`give_way`], for a call that cannot fail: an interruption or the end of the unit is left for its next wait.
///
/// # Parks
pub fn give_way_quietly() {
    let Some(unit) = state::current() else { return };
    let postponed = unit.postponed.take();
    let wake = give_way();
    let wake = Some(wake).filter(|wake| matches!(wake, Wake::Killed | Wake::Interrupted));
    // The end of the unit goes before what else there is.
    if let Some(wake) = [unit.postponed.get(), postponed, wake]
        .into_iter()
        .flatten()
        .reduce(|first, second| if second == Wake::Killed { second } else { first })
    {
        interrupts::postpone(wake);
    }
}

/// Gives the running turn its budget anew.
pub fn begin() {
    BEGUN.set(now());
}

/// When the running turn began, for [`seconds_since`].
pub fn begun() -> u64 {
    BEGUN.get()
}

/// Whole seconds since what [`begun`] returned.
pub fn seconds_since(begun: u64) -> u64 {
    now().saturating_sub(begun) / 1_000_000_000
}

/// Whether the running turn has used enough of its budget to count, if it gives way by itself.
pub(super) fn is_worth_counting() -> bool {
    has_lasted(BUDGET.load(Ordering::Relaxed) / 2)
}

/// A place in time, a budget from now, for [`has_passed`]. `None` without a limit.
pub(super) fn end_of_budget() -> Option<u64> {
    budget().map(|_| now().saturating_add(BUDGET.load(Ordering::Relaxed)))
}

/// Whether a place in time lies behind.
pub(super) fn has_passed(at: u64) -> bool {
    now() >= at
}

/// Runs something in the loop's state after what is ready now.
pub(super) fn queue_later(work: Work) {
    with(|state| state.later.push_back(work));
}

fn has_lasted(nanoseconds: u64) -> bool {
    nanoseconds > 0 && now().saturating_sub(BEGUN.get()) >= nanoseconds
}

/// Nanoseconds on a clock that costs no more than reading memory; it ticks every 1 to 10 ms.
fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}
