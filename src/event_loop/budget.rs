//! The clock of turns: how long the running turn has lasted, and how long it may last.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::activity::{self, coarse_now};

/// The budget of a turn unless the process sets another one.
pub const DEFAULT_BUDGET: Duration = Duration::from_millis(10);

/// The budget in nanoseconds; 0 means no limit.
static BUDGET: AtomicU64 = AtomicU64::new(10_000_000);

/// Sets how long a turn may last, for the whole process. Zero means no limit: turns end only where they wait.
pub fn set_budget(budget: Duration) {
    BUDGET.store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// How long a turn may last; `None` means no limit.
pub fn budget() -> Option<Duration> {
    let nanoseconds = BUDGET.load(Ordering::Relaxed);
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

/// Whether the running turn has used up its budget.
pub(super) fn is_used_up() -> bool {
    has_lasted(BUDGET.load(Ordering::Relaxed))
}

/// Restarts the budget of the running turn. Returns its start.
pub fn begin() -> u64 {
    let now = coarse_now();
    activity::note_turn(now);
    now
}

/// The start of the running turn, for [`seconds_since`].
pub fn begun() -> u64 {
    activity::turn_begun()
}

/// Seconds since `begun`, a result of [`begun`], rounded to the nearest: the clock may be a tick behind.
pub fn seconds_since(begun: u64) -> u64 {
    (coarse_now().saturating_sub(begun) + 500_000_000) / 1_000_000_000
}

/// Whether the running turn has used half of its budget: it then counts as cut off even if it gives way by itself.
pub(super) fn is_worth_counting() -> bool {
    has_lasted(BUDGET.load(Ordering::Relaxed) / 2)
}

/// The time one budget from now, for [`has_passed`]. `None` without a limit.
pub(super) fn end_of_budget() -> Option<u64> {
    budget().map(|_| coarse_now().saturating_add(BUDGET.load(Ordering::Relaxed)))
}

/// Whether the coarse clock has reached `at`.
pub(super) fn has_passed(at: u64) -> bool {
    coarse_now() >= at
}

fn has_lasted(nanoseconds: u64) -> bool {
    nanoseconds > 0 && coarse_now().saturating_sub(activity::turn_begun()) >= nanoseconds
}
