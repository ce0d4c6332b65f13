//! The event loop: leader and followers on one OS thread.
//!
//! One unit, a pooled coroutine, leads: it polls and runs ready work inline. When that work waits, an idle follower
//! takes leadership over and the unit parks; see `leader`. This layer knows neither Python nor HTTP. The [`Host`]
//! provides each unit's environment: a Python thread state, and the release of the GIL during waits. The [`Service`]
//! decides how to handle a readable socket.
//!
//! # Waiting
//!
//! Every wait is one of [`wait_stream`], [`wait_descriptor`], [`wait_any_descriptor`], [`sleep`], [`after_next_poll`]
//! and [`wait_for_wake`]. Each returns how it ended ([`Wake`]). Call a wait only on the loop thread, where [`can_park`]
//! is true. Elsewhere the caller blocks in a system call instead.
//!
//! # Queues
//!
//! Seven kinds of items wait for their turn. Each item comes through the inbox ([`LoopMessage`]) or as work
//! (`state::Work`). A control must not park.
//!
//! | Kind                   | Comes from                        | Waits in            | Then                     |
//! |------------------------|-----------------------------------|---------------------|--------------------------|
//! | `LoopMessage::Wake`    | a [`Waker`] on another thread     | inbox               | the wait ends            |
//! | `LoopMessage::Control` | [`Runtime::send`]                 | inbox, `controls`   | the leader calls it      |
//! | `Work::Task`           | [`spawn`], [`spawn_last`], `LoopMessage::Task` | `tasks`, `later` | a unit calls it |
//! | `Work::Watch`          | an event, [`streams::watch_soon`] | `tasks`, `later`    | [`StreamWatcher::look`]  |
//! | `Work::Expired`        | the deadline of a source          | `tasks`             | [`Service::expired`]     |
//! | `Work::Serve`          | an event at a source at rest      | `requests`, `later` | [`Service::serve`]       |
//! | `Work::Resume`         | [`after_next_poll`], a cut-off turn | `after_poll`, `tasks`, `later` | it resumes |
//!
//! The leader takes items in this order (`schedule`): coroutines that have become runnable, `controls`, `tasks`,
//! `requests` while fewer than the cap are in progress, then `later` for one budget. Work queued between two polls
//! waits for the second poll, so that neither input nor timers starve.
//!
//! # Limits of this layer
//!
//! No work stealing, no second loop thread, no preemption. A unit that computes without a chance to switch ([`turn`])
//! blocks all others, like a thread that holds the GIL.

pub mod activity;
mod budget;
mod current;
pub mod deadlines;
pub mod ends;
mod inbox;
mod interest;
pub mod interrupts;
mod leader;
pub mod notes;
mod peaks;
pub mod peers;
mod poller;
pub mod reasons;
pub mod records;
mod roles;
mod runtime;
mod schedule;
mod source_deadlines;
mod state;
pub mod streams;
mod timers;
mod tokens;
mod trimming;
pub mod turn;
mod unit;
pub mod wait_sums;
pub mod waiting;
mod waits;
mod wake;

use std::any::Any;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use state::{Work, with};

pub use current::{
    act_before_wait, acts_before_wait, before_next_wait, can_park, current_stack, ident, number_of_parks, set_ident,
    with_local, without_parking,
};
pub use inbox::LoopMessage;
pub use interest::Interest;
pub use roles::{Host, LoopFigures, Pulse, Service, StreamWatcher};
pub use runtime::Runtime;
pub use tokens::{SourceId, Ticket, WorkId};
pub use turn::after_next_poll;
pub use waits::{
    Waker, descriptor_closes, is_waited_for, sleep, wait_any_descriptor, wait_descriptor, wait_for_wake, wait_stream,
};
pub use wake::Wake;

/// Whether the loop ends when its last coroutine has ended.
pub fn is_ending() -> bool {
    with(|state| state.ending).unwrap_or(true)
}

/// Whether the caller is on the loop thread.
pub fn is_loop_thread() -> bool {
    state::is_here()
}

/// Detaches a forked child from the parent's loop. The loop's state stays as it is. Allocates and frees nothing, and may
/// be called again.
pub fn forget_in_child() {
    records::forget_in_child();
    state::forget();
}

/// Whether this is a forked child that still runs on the stack of the coroutine that forked.
pub fn was_forgotten() -> bool {
    state::is_forgotten()
}

/// Runs `action` on the data of `work`, like [`with_local`]. `None` if `work` has ended, and off the loop thread.
pub fn with_local_of<R>(work: WorkId, action: impl FnOnce(&mut Option<Box<dyn Any>>) -> R) -> Option<R> {
    let unit = with(|state| state.unit_of(work).cloned()).flatten()?;
    let mut local = unit.local.borrow_mut();
    Some(action(&mut local))
}

/// Runs `task` in a coroutine of its own, after all work that is ready now. Returns `false` off the loop thread.
pub fn spawn(task: Box<dyn FnOnce()>) -> bool {
    with(|state| state.tasks.push_back(Work::Task(task))).is_some()
}

/// Runs `task` in a coroutine of its own, after the requests that the next poll finds. Returns `false` off the loop
/// thread.
pub fn spawn_last(task: Box<dyn FnOnce()>) -> bool {
    with(|state| state.later.push_back(Work::Task(task))).is_some()
}

/// Ensures that the next [spawned](spawn) task can start, for a caller that waits for it. Does nothing off the loop
/// thread.
///
/// # Errors
/// OutOfMemory if there is no room for another coroutine's stack.
pub fn make_room() -> io::Result<()> {
    leader::make_room()
}

/// Installs the service and the cap on its concurrent requests. Call it on the loop thread.
pub fn set_service(service: Option<Rc<dyn Service>>, request_limit: usize) {
    let previous = with(|state| {
        state.request_limit = request_limit;
        state.paused = false;
        std::mem::replace(&mut state.service, service)
    });
    drop(previous);
}

/// Installs the observer of the loop's turns, or removes it. Call it on the loop thread.
pub fn set_pulse(pulse: Option<Rc<dyn Pulse>>) {
    let previous = with(|state| std::mem::replace(&mut state.pulse, pulse));
    drop(previous);
}

/// Whether the number of requests in progress has reached the service's cap.
pub fn is_at_request_limit() -> bool {
    with(|state| state.busy_requests >= state.request_limit).unwrap_or(false)
}

/// Asks the service to accept connections again, before the next poll or once below the cap.
pub fn resume_service() {
    with(|state| state.paused = true);
}

/// Schedules [`resume_service`] for `deadline`.
pub fn resume_service_at(deadline: Instant) {
    with(|state| state.timers.insert(deadline, timers::Target::Service));
}

#[cfg(test)]
mod tests;
