//! The clock of turns: how long the running one has lasted, and may.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

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

/// Whether the running turn has used up its budget.
pub(super) fn is_used_up() -> bool {
    has_lasted(BUDGET.load(Ordering::Relaxed))
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

fn has_lasted(nanoseconds: u64) -> bool {
    nanoseconds > 0 && now().saturating_sub(BEGUN.get()) >= nanoseconds
}

/// Nanoseconds on a clock that costs no more than reading memory; it ticks every 1 to 10 ms.
fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}
