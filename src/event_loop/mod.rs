//! The event loop: leader and followers on one OS thread.
//!
//! A unit (a pooled coroutine) leads: it polls and runs ready work inline. When that work waits, leadership goes to an
//! idle follower and the unit parks; see `leader`. This layer knows neither Python nor HTTP. The [`Host`] gives every unit
//! the surroundings of its life and its waits (a Python thread state, the GIL). The [`Service`] decides the meaning of a
//! readable socket.
//!
//! # Waiting
//!
//! Every wait is one of [`wait_stream`], [`wait_descriptor`], [`wait_any_descriptor`], [`sleep`], [`after_next_poll`] and
//! [`wait_for_wake`]. Each returns how it ended ([`Wake`]). They may be called only on the loop thread, where
//! [`can_park`] is true; elsewhere the caller blocks in a system call instead.
//!
//! # Queues
//!
//! Seven kinds of things wait for their turn. They come through the inbox ([`LoopMessage`]) or as work (`state::Work`).
//!
//! | Kind                   | Comes from                               | Waits in                | Then                 |
//! |------------------------|------------------------------------------|-------------------------|----------------------|
//! | `LoopMessage::Wake`    | a [`Waker`] on another thread            | inbox                   | the wait ends        |
//! | `LoopMessage::Control` | [`Runtime::send`]                        | inbox, `controls`       | the leader calls it; it must not park |
//! | `Work::Task`           | [`spawn`], `LoopMessage::Task`           | `tasks`                 | a unit calls it      |
//! | `Work::Watch`          | an event, [`streams::watch_soon`]        | `tasks`, `later`        | [`StreamWatcher::look`] |
//! | `Work::Expired`        | the deadline of a source                 | `tasks`                 | [`Service::expired`] |
//! | `Work::Serve`          | an event at a source at rest             | `requests`, `later`     | [`Service::serve`]   |
//! | `Work::Resume`         | [`after_next_poll`], a turn cut off      | `after_poll`, `tasks`, `later` | the coroutine goes on |
//!
//! The leader takes them in this order (`schedule`): coroutines that have become runnable, `controls`, `tasks`,
//! `requests` while fewer than the cap are in progress, then `later` for one budget. Only work that was queued before the
//! last poll runs before the next one, so that neither input nor timers starve.
//!
//! # Limits of this layer
//!
//! No work stealing, no second loop thread, no preemption: a unit that computes without a chance to switch ([`turn`])
//! holds up all others, as a thread holding the GIL would.

mod budget;
mod current;
pub mod ends;
mod inbox;
pub mod interrupts;
mod leader;
mod poller;
mod roles;
mod runtime;
mod schedule;
mod state;
pub mod streams;
mod timers;
mod tokens;
pub mod turn;
mod unit;
mod waits;
mod wake;

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use state::{Work, with};

pub use current::{can_park, current_stack, ident, number_of_parks, set_ident, with_local, without_parking};
pub use inbox::LoopMessage;
pub use poller::Interest;
pub use roles::{Host, Service, StreamWatcher};
pub use runtime::Runtime;
pub use tokens::{SourceId, Ticket, WorkId};
pub use turn::after_next_poll;
pub use waits::{Waker, descriptor_closes, sleep, wait_any_descriptor, wait_descriptor, wait_for_wake, wait_stream};
pub use wake::Wake;

/// Whether the loop ends when its last coroutine has ended.
pub fn is_ending() -> bool {
    with(|state| state.ending).unwrap_or(true)
}

/// Whether the caller is on the loop thread.
pub fn is_loop_thread() -> bool {
    state::is_here()
}

/// Called in the child after a fork: the loop is the parent's, and its state is left as it is.
pub fn forget_in_child() {
    state::forget();
}

/// Whether this is the child of a fork that a coroutine made, still on that coroutine's stack.
pub fn was_forgotten() -> bool {
    state::is_forgotten()
}

/// As [`with_local`], of the work `work`. `None` if that has ended, and elsewhere than on the loop thread.
pub fn with_local_of<R>(work: WorkId, action: impl FnOnce(&mut Option<Box<dyn Any>>) -> R) -> Option<R> {
    let unit = with(|state| state.unit_of(work).cloned()).flatten()?;
    let mut local = unit.local.borrow_mut();
    Some(action(&mut local))
}

/// Runs `task` in a coroutine of its own, after what is ready now. On the loop thread only; `false` elsewhere.
pub fn spawn(task: Box<dyn FnOnce()>) -> bool {
    with(|state| state.tasks.push_back(Work::Task(task))).is_some()
}

/// Makes sure that the next task which is [spawned](spawn) can start, for a caller that waits for it. On the loop thread
/// only; elsewhere it does nothing.
///
/// # Errors
/// OutOfMemory where there is no room for the stack of another coroutine.
pub fn make_room() -> io::Result<()> {
    leader::make_room()
}

/// Installs the service and the cap on its concurrent requests. On the loop thread.
pub fn set_service(service: Option<Rc<dyn Service>>, request_limit: usize) {
    let previous = with(|state| {
        state.request_limit = request_limit;
        state.paused = false;
        std::mem::replace(&mut state.service, service)
    });
    drop(previous);
}

/// Whether as many requests are in progress as the service allows.
pub fn is_at_request_limit() -> bool {
    with(|state| state.busy_requests >= state.request_limit).unwrap_or(false)
}

/// Asks the service again, before the next poll, to take connections or leave them.
pub fn resume_service() {
    with(|state| state.paused = true);
}

/// As [`resume_service`], at `deadline`.
pub fn resume_service_at(deadline: Instant) {
    with(|state| state.timers.insert(deadline, timers::Target::Service));
}

#[cfg(test)]
mod tests;
