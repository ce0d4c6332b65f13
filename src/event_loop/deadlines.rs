//! The deadlines of pieces of work: those of requests by default, and those that were moved.
//!
//! A request costs nothing here. Its deadline follows from the beginning of its work, and one timer of the loop stands
//! for the earliest of all. When the timer fires, the layer above looks at all work in progress ([`overdue`]). Work that
//! computes is looked at by another thread.
//!
//! Times are nanoseconds on the clock of [`records`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::activity::precise_now;
use super::current;
use super::records::{self, Record, WorkKind};
use super::state::{is_look_set, with};
pub use super::timers::nanoseconds;
use super::timers::{Target, TimedCall};
use crate::sync::lock;

/// Two ticks of the coarse clock: work may have begun that much later than its record says. A tick may be late.
const TICK: u64 = 8_000_000;

/// The deadline of work that has none.
const NEVER: u64 = u64::MAX;

/// The time that a request has by default, in nanoseconds; 0 for no limit.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// The deadlines that differ from the default, by the number of the work. No other lock is taken under this one.
static MOVED: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());

/// The number of entries of [`MOVED`].
static MOVED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The function that looks at all work in progress.
static LOOK: OnceLock<fn()> = OnceLock::new();

/// Sets the time that every request has by default; `None` for no limit.
pub fn set_limit(limit: Option<Duration>) {
    LIMIT.store(limit.map_or(0, nanoseconds), Ordering::Relaxed);
}

/// The time that every request has by default.
pub fn limit() -> Option<Duration> {
    Some(LIMIT.load(Ordering::Relaxed)).filter(|&limit| limit > 0).map(Duration::from_nanos)
}

/// Sets the function that looks at all work in progress. It runs as work of the loop and may park.
pub fn look_with(look: fn()) {
    let _ = LOOK.set(look);
}

/// The deadline of the work of `record`; `None` without one.
pub fn of(record: &Record) -> Option<u64> {
    let moved = if MOVED_COUNT.load(Ordering::Relaxed) == 0 { None } else { lock(&MOVED).get(&record.work()).copied() };
    let by_default = || match LIMIT.load(Ordering::Relaxed) {
        0 => NEVER,
        limit if record.kind() == WorkKind::Request => record.begun().saturating_add(limit).saturating_add(TICK),
        _ => NEVER,
    };
    Some(moved.unwrap_or_else(by_default)).filter(|&at| at != NEVER)
}

/// Whether the deadline of the caller's work has passed. False off the loop thread.
#[inline]
pub fn own_has_passed() -> bool {
    (LIMIT.load(Ordering::Relaxed) > 0 || MOVED_COUNT.load(Ordering::Relaxed) > 0) && own_deadline_has_passed()
}

fn own_deadline_has_passed() -> bool {
    current::with_current(|unit| of(&unit.record)).flatten().is_some_and(|at| at <= records::now())
}

/// The record of the work with this number, unless it has ended.
pub fn record_of(work: u64) -> Option<Arc<Record>> {
    if work == 0 { None } else { records::find(|record| record.work() == work) }
}

/// All work whose deadline has passed: the record of its unit, and its number.
pub fn overdue() -> Vec<(Arc<Record>, u64)> {
    let now = precise_now();
    let mut overdue = Vec::new();
    records::each(|record| {
        if of(record).is_some_and(|at| at <= now) {
            overdue.push((Arc::clone(record), record.work()));
        }
    });
    overdue
}

/// Whether the deadline of the work of `record` has passed, for a look at all work.
pub fn is_overdue(record: &Record) -> bool {
    of(record).is_some_and(|at| at <= precise_now())
}

/// Moves the deadline of `work`; `None` removes it. From any thread: off the loop thread, have the loop call
/// [`look_at`] for the new time.
pub fn move_to(work: u64, at: Option<u64>) {
    let mut moved = lock(&MOVED);
    moved.insert(work, at.unwrap_or(NEVER));
    MOVED_COUNT.store(moved.len(), Ordering::Relaxed);
    drop(moved);
    if let Some(at) = at {
        look_at(at);
    }
}

/// Removes the default deadline of `work`. A deadline that was moved stays.
pub fn exempt(work: u64) {
    if LIMIT.load(Ordering::Relaxed) > 0 {
        let mut moved = lock(&MOVED);
        moved.entry(work).or_insert(NEVER);
        MOVED_COUNT.store(moved.len(), Ordering::Relaxed);
    }
}

/// Forgets the deadline of work that has ended.
#[inline]
pub fn forget(work: u64) {
    if MOVED_COUNT.load(Ordering::Relaxed) > 0 {
        forget_moved(work);
    }
}

fn forget_moved(work: u64) {
    let mut moved = lock(&MOVED);
    moved.remove(&work);
    MOVED_COUNT.store(moved.len(), Ordering::Relaxed);
}

/// Notes that a request begins: its deadline is looked at in time. On the loop thread.
#[inline]
pub fn begin_request() {
    if LIMIT.load(Ordering::Relaxed) > 0 && !is_look_set() {
        look_at(NEVER);
    }
}

/// Has the loop look at all work at `at`, unless it does so earlier. Does nothing off the loop thread.
pub fn look_at(at: u64) {
    // Requests that begin from now on rely on the next look for their own deadlines.
    let limit = Some(LIMIT.load(Ordering::Relaxed)).filter(|&limit| limit > 0).unwrap_or(NEVER);
    let at = at.min(records::now().saturating_add(limit).saturating_add(TICK));
    // By the precise clock, as the look itself. By the coarse one, a look before the next tick would find nothing, and
    // would be followed by another one at once, again and again.
    let left = Duration::from_nanos(at.saturating_sub(precise_now()));
    with(|state| {
        match state.next_look {
            Some((next, _)) if next <= at => return,
            // One timer at most is set: each look sets one, so that a second one would stay for ever.
            Some((_, timer)) => state.timers.remove(timer),
            None => {}
        }
        let timer = state.timers.insert(Instant::now() + left, Target::Call(TimedCall(look)));
        state.replace_next_look(Some((at, timer)));
    });
}

/// Has the layer above look at all work, and sets the timer for the next look.
fn look() {
    look_by(LOOK.get().copied());
}

fn look_by(look: Option<fn()>) {
    with(|state| {
        if let Some((_, timer)) = state.replace_next_look(None) {
            state.timers.remove(timer);
        }
    });
    // The clock may tick while the layer above looks. A deadline that passes then needs another look.
    let before = precise_now();
    if let Some(look) = look {
        look();
    }
    // Overdue work that goes on is looked at again when the layer above wishes.
    let mut next = NEVER;
    records::each(|record| next = next.min(of(record).filter(|&at| at > before).unwrap_or(NEVER)));
    if next != NEVER {
        look_at(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_loop::interrupts;
    use crate::event_loop::tests::in_a_loop;

    #[test]
    fn a_deadline_that_passes_during_a_look_is_looked_at_again() {
        let is_next = in_a_loop(|| {
            let work = interrupts::current_work().unwrap().number;
            move_to(work, Some(records::now() + 2 * TICK));
            look_by(Some(|| std::thread::sleep(Duration::from_nanos(4 * TICK))));
            let is_next = is_look_due();
            forget(work);
            is_next
        });
        assert!(is_next);
    }

    fn is_look_due() -> bool {
        with(|state| state.next_look.is_some()).unwrap()
    }

    #[test]
    fn a_deadline_needs_one_look() {
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        fn count() {
            LOOKS.fetch_add(1, Ordering::Relaxed);
        }
        let is_found = in_a_loop(|| {
            let work = interrupts::current_work().unwrap().number;
            // The ends of timers have no fixed place between two ticks of the coarse clock.
            let found = (0..50).all(|number| {
                let at = precise_now() + 100_000 * (number % 7 + 1);
                move_to(work, Some(at));
                while precise_now() < at {
                    std::hint::spin_loop();
                }
                look_by(Some(count));
                let is_found = overdue().iter().any(|(_, overdue)| *overdue == work);
                is_found && !is_look_due()
            });
            forget(work);
            found
        });
        assert!(is_found);
        assert_eq!(LOOKS.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn earlier_and_earlier_deadlines_and_their_looks_need_one_timer() {
        let timers = in_a_loop(|| {
            let work = interrupts::current_work().unwrap().number;
            let before = with(|state| state.timers.len()).unwrap();
            for second in (1..100).rev() {
                move_to(work, Some(records::now() + second * 1_000_000_000));
                look_by(Some(|| look_at(records::now() + 500_000_000_000)));
            }
            let timers = with(|state| state.timers.len()).unwrap() - before;
            forget(work);
            timers
        });
        assert_eq!(timers, 1);
    }

    #[test]
    fn a_loop_that_follows_another_one_has_its_own_looks() {
        assert!(in_a_loop(|| {
            look_at(records::now() + 1_000_000_000_000);
            is_look_due()
        }));
        assert!(!in_a_loop(is_look_due));
    }
}
