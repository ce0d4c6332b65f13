//! The budget of a turn: how long work may run before it gives way to other work.
//!
//! A turn begins when a unit starts a piece of work or resumes from a wait. Nothing preempts a turn. Every place where
//! it could give way is a chance to switch: each cooperative call, each loop over bytes, frames or items. A chance
//! costs one look at a coarse clock. Once the turn has lasted [`budget()`], the next chance cuts it off. The rest goes
//! to a queue behind all other work (`LoopState::later`), which runs for at most one budget between two polls. Ten
//! turns that never end by themselves thus do no more harm than one.

use super::budget;
use super::current::{self, can_park};
use super::interrupts;
use super::reasons::Reason;
use super::state::{Work, with};
use super::waits::wait;
use super::wake::Wake;

pub use super::budget::{DEFAULT_BUDGET, begin, begun, budget, seconds_since, set_budget};

/// Whether the running turn has used up its budget. Always false where the turn cannot be cut off.
pub fn is_spent() -> bool {
    budget::is_used_up() && can_park() && !is_in_child()
}

/// Whether this is a forked child. Fork hooks run there before `event_loop::forget_in_child`, and the fork itself may
/// have used up the turn.
fn is_in_child() -> bool {
    Some(rustix::process::getpid()) != with(|state| state.process)
}

/// Cuts the running turn off: all other ready work runs first. A caller may give way without checking [`is_spent`].
///
/// # Parks
pub fn give_way() -> Wake {
    wait(Reason::Turn, [0, 0], None, |state, ticket| {
        state.later.push_back(Work::Resume(ticket));
        Ok(None)
    })
}

/// Gives way in a call that cannot fail. Leaves an interruption or the end of the unit for the unit's next wait.
///
/// # Parks
pub fn give_way_quietly() {
    let Some(unit) = current::current() else { return };
    let postponed = unit.postponed.take();
    let wake = give_way();
    let wake = Some(wake).filter(|wake| matches!(wake, Wake::Killed | Wake::Interrupted));
    // The end of the unit takes precedence over any other wake-up.
    if let Some(wake) = [unit.postponed.get(), postponed, wake]
        .into_iter()
        .flatten()
        .reduce(|first, second| if second == Wake::Killed { second } else { first })
    {
        interrupts::postpone(wake);
    }
}

/// Lets all other ready work run, input and timers included.
///
/// # Parks
pub fn after_next_poll() -> Wake {
    if budget::is_worth_counting() {
        return give_way();
    }
    wait(Reason::NextPoll, [0, 0], None, |state, ticket| {
        state.after_poll.push(ticket);
        Ok(None)
    })
}
