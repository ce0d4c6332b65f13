//! The event loop: leader and followers on one OS thread.
//!
//! A unit (a pooled coroutine) leads: it polls and runs ready work inline. When that work waits, leadership goes to an
//! idle follower and the unit parks; see `leader`. This layer knows neither Python nor HTTP. What every unit needs
//! around its life and its waits (a Python thread state, the GIL) comes from the [`Host`]; what a readable socket means
//! comes from the [`Service`].
//!
//! # Waiting
//!
//! Every wait is one of [`wait_stream`], [`wait_descriptor`], [`sleep`], [`after_next_poll`] and [`wait_for_wake`]. Each
//! says how it ended ([`Wake`]). They may be called only on the loop thread ([`can_park`]); elsewhere the caller does the
//! real, blocking thing.
//!
//! # What this does not do
//!
//! No work stealing, no second loop thread, no preemption: a unit that computes without a chance to switch ([`turn`])
//! holds up all others, as a thread holding the GIL would.

pub mod ends;
mod inbox;
pub mod interrupts;
mod leader;
mod poller;
mod schedule;
mod several;
mod state;
mod timers;
mod tokens;
pub mod turn;
mod unit;

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use inbox::LoopMessage;
pub use poller::Interest;
pub use several::wait_any_descriptor;
pub use tokens::{SourceId, Ticket, WorkId};

use crate::kernel::{Bell, LentDescriptor};
use crate::sync::{lock, recover};
use inbox::Inbox;
use state::{Work, with};
use unit::Unit;

/// What every unit needs around it. Implemented by the Python boundary, and by tests without Python.
pub trait Host: Send + Sync + 'static {
    /// Runs `life` with whatever a unit owns: called once on each unit's stack, returns when the unit ends.
    fn enter(&self, life: &mut dyn FnMut());

    /// Runs `blocking`, which blocks the thread or switches to other units, with the interpreter released.
    fn released(&self, blocking: &mut dyn FnMut());
}

/// What the server does with its sources.
pub trait Service {
    /// A source at rest has something to read. Runs in a unit; may park.
    fn serve(&self, source: SourceId, owner: usize);

    /// The deadline of a source at rest has passed.
    fn expired(&self, source: SourceId, owner: usize);

    /// The cap on requests has been reached (`true`) or left: take new connections or leave them to the kernel.
    fn at_capacity(&self, reached: bool);

    /// The loop is about to poll: what was put off until now is to be done. Must not park.
    fn before_poll(&self) {}
}

/// Looks after a stream while work that may wait for other things, or for nothing, is in progress on it. Not held back by
/// the cap: it serves requests that have begun.
pub trait StreamWatcher: Send + Sync + 'static {
    /// The stream may be readable or writable. Runs in a unit; must not wait long.
    fn look(&self);

    /// The stream's deadline has passed.
    fn expired(&self);

    /// The server stops.
    fn stop(&self);
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// What was waited for has happened, or may have: look again.
    Ready,
    /// The deadline passed first.
    TimedOut,
    /// The descriptor was closed meanwhile.
    Closed,
    /// The coroutine is asked to end.
    Killed,
    /// Somebody wants the coroutine to look up from its wait; see [`interrupts`].
    Interrupted,
}

/// Descriptors that must be left when a loop starts: the coroutine scheduler's epoll and eventfd, the loop's epoll and
/// timerfd, and a few for the first client and its request.
const FIRST_DESCRIPTORS: usize = 8;

/// A running loop, as other threads see it.
pub struct Runtime {
    inbox: Inbox,
    end: Mutex<Option<Result<(), String>>>,
    ended: Condvar,
    end_bell: Bell,
    /// Coroutines that still wait never run again.
    leaving: AtomicBool,
}

impl Runtime {
    /// Starts a loop on the process's loop thread. Call it after any fork.
    ///
    /// # Errors
    /// When there is no memory for the first stack or no descriptor left.
    pub fn start(host: Arc<dyn Host>) -> io::Result<Arc<Runtime>> {
        let runtime = Arc::new(Runtime {
            inbox: Inbox::new()?,
            end: Mutex::new(None),
            ended: Condvar::new(),
            end_bell: Bell::new()?,
            leaving: AtomicBool::new(false),
        });
        // Looked for first: the scheduler of the coroutines panics without.
        let spare: io::Result<Vec<OwnedFd>> =
            (0..FIRST_DESCRIPTORS).map(|_| runtime.end_bell.as_fd().try_clone_to_owned()).collect();
        drop(spare.map_err(leader::cannot_start)?);
        leader::spawn_first(host, Arc::clone(&runtime))?;
        Ok(runtime)
    }

    /// Sends a message to the loop, from any thread.
    pub fn send(&self, message: LoopMessage) {
        self.inbox.push(message);
    }

    /// Has every coroutine that waits on a descriptor look again: another thread is about to close it. By the time at
    /// which they look, the number may be another descriptor's.
    pub fn descriptor_closes(&self, number: RawFd) {
        self.send(LoopMessage::Control(Box::new(move || {
            with(|state| state.end_waits(number, Wake::Ready));
        })));
    }

    /// Whether the loop is over.
    pub fn has_ended(&self) -> bool {
        lock(&self.end).is_some()
    }

    /// Why the loop is over, if it could not go on or did not begin.
    pub fn failure(&self) -> Option<String> {
        lock(&self.end).as_ref()?.as_ref().err().cloned()
    }

    /// Blocks the calling OS thread until the loop is over, at most for `timeout`. Returns whether it is.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let end = lock(&self.end);
        let (end, _) = recover(self.ended.wait_timeout_while(end, timeout, |end| end.is_none()));
        end.is_some()
    }

    /// Becomes readable when the loop is over.
    pub fn end_bell(&self) -> BorrowedFd<'_> {
        self.end_bell.as_fd()
    }

    fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    fn ended(&self, how: io::Result<()>) {
        *lock(&self.end) = Some(how.map_err(|error| error.to_string()));
        self.ended.notify_all();
        self.end_bell.ring();
    }
}

/// Ends one wait, from any thread. A second use, or a late one, does nothing.
#[derive(Clone)]
pub struct Waker {
    ticket: Ticket,
    runtime: Arc<Runtime>,
}

impl Waker {
    /// Whether the wait will never end: its loop has left it behind.
    pub fn is_lost(&self) -> bool {
        self.runtime.leaving.load(Ordering::Acquire)
    }

    /// Ends the wait with `wake`.
    pub fn wake(&self, wake: Wake) {
        let here = with(|state| {
            if Arc::ptr_eq(&state.runtime, &self.runtime) {
                state.wake(self.ticket, wake);
            }
        });
        if here.is_none() {
            self.runtime.send(LoopMessage::Wake(self.ticket, wake));
        }
    }
}

/// Whether the caller runs in a unit that may park.
pub fn can_park() -> bool {
    state::with_current(|unit| unit.may_park.get()).unwrap_or(false)
}

/// Runs `action`, in which the current unit may not park: waits in it take their blocking path.
pub fn without_parking<R>(action: impl FnOnce() -> R) -> R {
    let unit = state::current();
    let could = unit.as_ref().is_some_and(|unit| unit.may_park.replace(false));
    let result = action();
    if let Some(unit) = unit {
        unit.may_park.set(could);
    }
    result
}

/// The number of what the current unit runs. `None` in other threads. A forked child keeps that of the unit that forked.
pub fn ident() -> Option<u64> {
    state::with_current(|unit| unit.ident.get()).or_else(state::kept_ident)
}

/// Gives what the current unit runs a number.
pub fn set_ident(ident: u64) {
    if let Some(unit) = state::current() {
        unit.ident.set(ident);
    }
}

/// Whether the loop ends when its last coroutine has ended.
pub fn is_ending() -> bool {
    with(|state| state.ending).unwrap_or(true)
}

/// Whether the caller is on the loop thread.
pub fn is_loop_thread() -> bool {
    state::is_here()
}

/// Where the current unit's stack lies.
pub fn current_stack() -> Option<crate::coroutine::StackBounds> {
    state::current().and_then(|unit| unit.stack.get())
}

/// Called in the child after a fork: the loop is the parent's, and its state is left as it is.
pub fn forget_in_child() {
    state::forget();
}

/// Whether this is the child of a fork that a coroutine made, still on that coroutine's stack.
pub fn was_forgotten() -> bool {
    state::is_forgotten()
}

/// Runs `action` on what the layers above keep for the work in progress. `None` outside a unit.
pub fn with_local<R>(action: impl FnOnce(&mut Option<Box<dyn Any>>) -> R) -> Option<R> {
    state::current().map(|unit| action(&mut unit.local.borrow_mut()))
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

/// Has the service told anew, before the next poll, whether to take connections.
pub fn resume_service() {
    with(|state| state.paused = true);
}

/// As [`resume_service`], at `deadline`.
pub fn resume_service_at(deadline: Instant) {
    with(|state| state.timers.insert(deadline, timers::Target::Service));
}

/// Waits until `source`, a stream of the server's, may be ready.
///
/// # Parks
pub fn wait_stream(source: SourceId, interest: Interest, deadline: Option<Instant>) -> Wake {
    wait(
        deadline,
        |state, ticket| {
            if state.poller.add_wait(source, interest, ticket) { Ok(Some(source)) } else { Err(Wake::Closed) }
        },
    )
}

/// Waits until a descriptor of the application's may be ready. Many coroutines may wait on one.
///
/// # Errors
/// What epoll_ctl(2) reports, EBADF above all. A descriptor that epoll refuses because it is always ready is ready.
///
/// # Parks
pub fn wait_descriptor(number: RawFd, interest: Interest, deadline: Option<Instant>) -> io::Result<Wake> {
    let descriptor = LentDescriptor::new(number)?;
    let mut failure = None;
    let wake =
        wait(deadline, |state, ticket| match state.poller.arm_descriptor(descriptor.as_fd(), interest, ticket) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => Err(Wake::Ready),
            Err(error) => {
                failure = Some(error);
                Err(Wake::Closed)
            }
        });
    failure.map_or(Ok(wake), Err)
}

/// Ends every wait on a descriptor of the application's with [`Wake::Closed`]. To be called before it is closed. `false`
/// on another thread than the loop's; [`Runtime::descriptor_closes`] is for those.
pub fn descriptor_closes(number: RawFd) -> bool {
    with(|state| state.end_waits(number, Wake::Closed)).is_some()
}

/// Waits until `deadline`.
///
/// # Parks
pub fn sleep(deadline: Instant) -> Wake {
    wait(Some(deadline), |_, _| Ok(None))
}

/// Lets everything else that is ready run, input and timers included.
///
/// # Parks
pub fn after_next_poll() -> Wake {
    if turn::is_worth_counting() {
        return turn::give_way();
    }
    wait(None, |state, ticket| {
        state.after_poll.push(ticket);
        Ok(None)
    })
}

/// Waits until the waker that `register` was given is used. `register` returns `false` if there is nothing to wait for.
///
/// # Parks
pub fn wait_for_wake(deadline: Option<Instant>, register: impl FnOnce(Waker) -> bool) -> Wake {
    let mut register = Some(register);
    wait_with(deadline, |unit| {
        let opened = with(|state| (state.open_wait(unit), Arc::clone(&state.runtime)));
        let (ticket, runtime) = opened.ok_or(Wake::Closed)?;
        match register.take().map(|register| register(Waker { ticket, runtime })) {
            Some(true) => Ok((ticket, None)),
            _ => Err(Wake::Ready),
        }
    })
}

fn wait(
    deadline: Option<Instant>,
    register: impl FnOnce(&mut state::State, Ticket) -> Result<Option<SourceId>, Wake>,
) -> Wake {
    wait_with(deadline, |unit| {
        with(|state| {
            let ticket = state.open_wait(unit);
            register(state, ticket).map(|source| (ticket, source))
        })
        .unwrap_or(Err(Wake::Closed))
    })
}

fn wait_with(
    deadline: Option<Instant>,
    register: impl FnOnce(&Unit) -> Result<(Ticket, Option<SourceId>), Wake>,
) -> Wake {
    let Some(unit) = state::current() else { return Wake::Closed };
    debug_assert!(unit.may_park.get(), "a wait of a unit that leads, is idle or ends");
    if let Some(wake) = unit.postponed.take() {
        return wake;
    }
    let (ticket, source) = match register(&unit) {
        Ok(registered) => registered,
        Err(wake) => {
            unit.waiting.set(0);
            return wake;
        }
    };
    let timer = deadline.and_then(|at| with(|state| state.timers.insert(at, timers::Target::Wait(ticket))));
    let wake = loop {
        if let Some(wake) = unit.wake.take() {
            break wake;
        }
        with(|state| state.hand_over(&unit));
        park(&unit);
    };
    unit.waiting.set(0);
    with(|state| {
        if let Some(timer) = timer {
            state.timers.remove(timer);
        }
        if let Some(source) = source
            && wake != Wake::Ready
        {
            state.poller.remove_wait(source, ticket);
        }
    });
    wake
}

/// How often a unit has parked or been resumed on the loop thread so far: while it stays the same, the same unit runs.
pub fn number_of_parks() -> u64 {
    state::number_of_parks()
}

/// The one place that parks.
fn park(unit: &Rc<Unit>) {
    state::count_park();
    let thread = cfg!(debug_assertions).then(rustix::thread::gettid);
    released(crate::coroutine::park);
    debug_assert_eq!(thread, Some(rustix::thread::gettid()), "resumed on another thread");
    state::set_current(Some(unit));
    turn::begin();
}

/// Runs `blocking` with the interpreter released.
fn released(blocking: impl FnOnce()) {
    let host = with(|state| Arc::clone(&state.host));
    let mut blocking = Some(blocking);
    let mut once = || {
        if let Some(blocking) = blocking.take() {
            blocking();
        }
    };
    match host {
        Some(host) => host.released(&mut once),
        None => once(),
    }
}

/// What the server does with its streams. On the loop thread only.
pub mod streams {
    use super::{Arc, BorrowedFd, Instant, SourceId, StreamWatcher, Work, io, turn, with};

    fn off_the_loop() -> io::Error {
        io::Error::other("not on the loop thread")
    }

    /// Registers a connected stream; see [`super::Service`] for what happens next.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn add(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
        with(|state| state.poller.add_stream(descriptor, owner)).unwrap_or_else(|| Err(off_the_loop()))
    }

    /// Registers a listening socket.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn add_listener(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
        with(|state| state.poller.add_listener(descriptor, owner)).unwrap_or_else(|| Err(off_the_loop()))
    }

    /// Leaves a listening socket to other processes until it is resumed. Its source stays, for a deadline.
    pub fn pause_listener(id: SourceId, descriptor: BorrowedFd<'_>) {
        with(|state| state.poller.pause_listener(id, descriptor));
    }

    /// Looks at a listening socket again.
    ///
    /// # Errors
    /// What epoll_ctl(2) reports.
    pub fn resume_listener(id: SourceId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        with(|state| state.poller.resume_listener(id, descriptor)).unwrap_or_else(|| Err(off_the_loop()))
    }

    /// Forgets a source. Give the descriptor if it stays open.
    pub fn remove(id: SourceId, descriptor: Option<BorrowedFd<'_>>) {
        with(|state| state.remove_source(id, descriptor));
    }

    /// Notes that a read is about to be tried. Returns whether the peer's end of the stream is known to be waiting.
    pub fn about_to_read(id: SourceId) -> bool {
        with(|state| {
            state.poller.source(id).is_some_and(|source| {
                source.readable = false;
                source.peer_closed
            })
        })
        .unwrap_or(false)
    }

    /// Notes that there may be more to read at once: the last read filled its buffer.
    pub fn may_have_more(id: SourceId) {
        with(|state| {
            if let Some(source) = state.poller.source(id) {
                source.readable = true;
            }
        });
    }

    /// Puts a source at rest: its next event is told to the service. `false` if it has something to read already.
    pub fn rest(id: SourceId) -> bool {
        with(|state| !state.rest(id)).unwrap_or(true)
    }

    /// Puts a source at rest; if it has something to read already, its turn comes after what is ready now.
    pub fn rest_or_queue(id: SourceId, owner: usize) {
        with(|state| {
            if state.rest(id) {
                state.requests.push_back(Work::Serve(id, owner));
            }
        });
    }

    /// Has the service look at a source again after all others, whatever the poller knows of it: its owner holds bytes
    /// that it has read already.
    pub fn serve_later(id: SourceId, owner: usize) {
        turn::queue_later(Work::Serve(id, owner));
    }

    /// Calls a source's watcher again after all others: it has more to do than one turn allows.
    pub fn watch_later(id: SourceId) {
        with(|state| state.watch_later(id));
    }

    /// Calls a source's watcher after what is ready now.
    pub fn watch_soon(id: SourceId) {
        with(|state| state.watch_soon(id));
    }

    /// Gives a stream an watcher, which is told at once, or takes it away.
    pub fn set_stream_watcher(id: SourceId, watcher: Option<Arc<dyn StreamWatcher>>) {
        let previous = with(|state| state.set_stream_watcher(id, watcher));
        // Outside: it may hold the last reference to a stream.
        drop(previous);
    }

    /// Tells every watcher that the server stops.
    pub fn stop_stream_watchers() {
        with(|state| {
            for watcher in state.poller.stream_watchers() {
                state.tasks.push_back(Work::Task(Box::new(move || watcher.stop())));
            }
        });
    }

    /// Whether there is something to read that has not been read yet, as far as the poller knows.
    pub fn is_readable(id: SourceId) -> bool {
        with(|state| state.poller.source(id).is_some_and(|source| source.readable)).unwrap_or(false)
    }

    /// Whether the peer has ended its side, as far as the poller knows.
    pub fn is_peer_closed(id: SourceId) -> bool {
        with(|state| state.poller.source(id).is_some_and(|source| source.peer_closed)).unwrap_or(false)
    }

    /// Whether a deadline is set.
    pub fn has_deadline(id: SourceId) -> bool {
        with(|state| state.poller.source(id).is_some_and(|source| source.deadline.is_some())).unwrap_or(false)
    }

    /// The deadline that is set.
    pub fn deadline(id: SourceId) -> Option<Instant> {
        with(|state| state.poller.source(id).and_then(|source| source.deadline)).flatten()
    }

    /// Sets the deadline of a source at rest; none takes it away.
    pub fn set_deadline(id: SourceId, deadline: Option<Instant>) {
        with(|state| state.set_deadline(id, deadline));
    }
}

#[cfg(test)]
mod tests;
