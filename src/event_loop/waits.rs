//! The waits of a coroutine, and the one place that parks it.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::activity;
use super::budget;
use super::current;
use super::inbox::LoopMessage;
use super::interest::Interest;
use super::interrupts;
use super::notes::Noted;
use super::reasons::{self, Reason};
use super::records;
use super::runtime::Runtime;
use super::state::{LoopState, with};
use super::timers::Target;
use super::tokens::{SourceId, Ticket};
use super::unit::Unit;
use super::waiting::Waiting;
use super::wake::Wake;
use crate::kernel::LentDescriptor;

/// Waits until `source`, a stream of the server, may be ready.
///
/// # Parks
pub fn wait_stream(source: SourceId, interest: Interest, deadline: Option<Instant>) -> Wake {
    let descriptor = with(|state| state.poller.source(source).map(|source| source.descriptor)).flatten();
    let details = [u64::from(descriptor.unwrap_or_default().unsigned_abs()), reasons::bits_of(interest)];
    wait(Reason::Client, details, deadline, |state, ticket| {
        if state.poller.add_wait(source, interest, ticket) { Ok(Some(source)) } else { Err(Wake::Closed) }
    })
}

/// Waits until a descriptor of the application may be ready. Many coroutines may wait on one descriptor.
///
/// # Errors
/// Errors of epoll_ctl(2), mainly EBADF. A descriptor that epoll refuses because it is always ready counts as ready.
///
/// # Parks
pub fn wait_descriptor(number: RawFd, interest: Interest, deadline: Option<Instant>) -> io::Result<Wake> {
    let descriptor = LentDescriptor::new(number)?;
    let mut failure = None;
    let details = [u64::from(number.unsigned_abs()), reasons::bits_of(interest)];
    let wake = wait(Reason::Descriptor, details, deadline, |state, ticket| {
        match state.poller.arm_descriptor(descriptor.as_fd(), interest, ticket) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => Err(Wake::Ready),
            Err(error) => {
                failure = Some(error);
                Err(Wake::Closed)
            }
        }
    });
    failure.map_or(Ok(wake), Err)
}

/// Waits until one of several descriptors of the application may be ready for its events, given as bits of
/// epoll_ctl(2). Ignores a descriptor that epoll refuses because it is always or never ready.
///
/// # Errors
/// Errors of epoll_ctl(2), with EBADF also for a descriptor of the server.
///
/// # Parks
pub fn wait_any_descriptor(interests: &[(RawFd, u32)], deadline: Option<Instant>) -> io::Result<Wake> {
    let mut armed = Vec::with_capacity(interests.len());
    let mut failure = None;
    let first = interests.first().map_or(0, |(number, _)| u64::from(number.unsigned_abs()));
    let register = |state: &mut LoopState, ticket| {
        for &(number, events) in interests {
            let armed_now = LentDescriptor::new(number).map_err(io::Error::from).and_then(|descriptor| {
                state.poller.arm_descriptor(descriptor.as_fd(), Interest::Events(events), ticket)
            });
            match armed_now {
                Ok(source) => armed.push((source, ticket)),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {}
                Err(error) => {
                    failure = Some(error);
                    return Err(Wake::Closed);
                }
            }
        }
        Ok(None)
    };
    let wake = wait(Reason::Descriptors, [first, interests.len() as u64], deadline, register);
    with(|state| {
        for (source, ticket) in armed {
            state.poller.remove_wait(source, ticket);
        }
    });
    failure.map_or(Ok(wake), Err)
}

/// Ends every wait on a descriptor of the application with [`Wake::Closed`]. Call it before the descriptor is closed.
/// Returns `false` off the loop thread; call [`Runtime::descriptor_closes`] there.
pub fn descriptor_closes(number: RawFd) -> bool {
    with(|state| state.end_waits(number, Wake::Closed)).is_some()
}

/// Whether something waits on a descriptor of the application. `None` off the loop thread.
pub fn is_waited_for(number: RawFd) -> Option<bool> {
    with(|state| state.poller.is_waited_for(number))
}

impl Runtime {
    /// Whether the caller is on this loop's thread, and the loop has not ended.
    pub fn is_here(&self) -> bool {
        with(|state| std::ptr::eq(Arc::as_ptr(&state.runtime), self)).unwrap_or(false)
    }

    /// Makes every coroutine that waits on a descriptor check again: another thread is about to close it. By then the
    /// number may name another descriptor.
    pub fn descriptor_closes(&self, number: RawFd) {
        self.send(LoopMessage::Control(Box::new(move || {
            with(|state| state.end_waits(number, Wake::Ready));
        })));
    }
}

/// Waits until `deadline`.
///
/// # Parks
pub fn sleep(deadline: Instant) -> Wake {
    wait(Reason::Sleep, [0, 0], Some(deadline), |_, _| Ok(None))
}

/// Ends one wait from any thread. A second or late use does nothing.
#[derive(Clone)]
pub struct Waker {
    ticket: Ticket,
    runtime: Arc<Runtime>,
}

impl Waker {
    /// Whether the wait will never end because its loop has left it behind.
    pub fn is_lost(&self) -> bool {
        self.runtime.is_leaving()
    }

    /// The wait that this ends.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Ends the wait with `wake`. Returns whether it did; off the loop thread that shows later, and true is returned.
    pub fn wake(&self, wake: Wake) -> bool {
        let here = with(|state| Arc::ptr_eq(&state.runtime, &self.runtime) && state.wake(self.ticket, wake));
        here.unwrap_or_else(|| {
            self.runtime.send(LoopMessage::Wake(self.ticket, wake));
            true
        })
    }
}

/// Waits for `reason` until the waker passed to `register` is used. `register` returns `false` if there is nothing to
/// wait for. An outer reason takes precedence, as in [`because`](super::notes::because).
///
/// # Parks
pub fn wait_for_wake(
    reason: Reason,
    details: [u64; 2],
    deadline: Option<Instant>,
    register: impl FnOnce(Waker) -> bool,
) -> Wake {
    let mut register = Some(register);
    wait_with(reason, details, deadline, |unit| {
        let opened = with(|state| (state.open_wait(unit), Arc::clone(&state.runtime)));
        let (ticket, runtime) = opened.ok_or(Wake::Closed)?;
        match register.take().map(|register| register(Waker { ticket, runtime })) {
            Some(true) => Ok((ticket, None)),
            _ => Err(Wake::Ready),
        }
    })
}

pub(super) fn wait(
    reason: Reason,
    details: [u64; 2],
    deadline: Option<Instant>,
    register: impl FnOnce(&mut LoopState, Ticket) -> Result<Option<SourceId>, Wake>,
) -> Wake {
    wait_with(reason, details, deadline, |unit| {
        with(|state| {
            let ticket = state.open_wait(unit);
            register(state, ticket).map(|source| (ticket, source))
        })
        .unwrap_or(Err(Wake::Closed))
    })
}

fn wait_with(
    reason: Reason,
    details: [u64; 2],
    deadline: Option<Instant>,
    register: impl FnOnce(&Unit) -> Result<(Ticket, Option<SourceId>), Wake>,
) -> Wake {
    let Some(unit) = current::current() else { return Wake::Closed };
    debug_assert!(unit.may_park.get(), "a unit that leads, is idle or ends must not wait");
    let _noted = Noted::begin(&unit, reason, details);
    current::act_before_wait();
    if let Some(wake) = unit.postponed.take() {
        return wake;
    }
    if interrupts::is_pending(unit.work.get()) {
        return Wake::Interrupted;
    }
    let (ticket, source) = match register(&unit) {
        Ok(registered) => registered,
        Err(wake) => {
            unit.waiting.set(0);
            return wake;
        }
    };
    let timer = deadline.and_then(|at| with(|state| state.timers.insert(at, Target::Wait(ticket))));
    unit.record.waits(deadline.map_or(0, records::time_of));
    let counted = Waiting::begin(unit.record.reason());
    let wake = loop {
        if let Some(wake) = unit.wake.take() {
            break wake;
        }
        with(|state| {
            state.note_wait();
            state.hand_over(&unit);
        });
        park(&unit);
    };
    drop(counted);
    unit.waiting.set(0);
    unit.note_end_of_wait();
    let source = source.filter(|_| wake != Wake::Ready);
    if timer.is_some() || source.is_some() {
        with(|state| {
            if let Some(timer) = timer {
                state.timers.remove(timer);
            }
            if let Some(source) = source {
                state.poller.remove_wait(source, ticket);
            }
        });
    }
    wake
}

/// Parks `unit`. Nothing else in the loop parks a coroutine.
pub(super) fn park(unit: &Rc<Unit>) {
    current::count_park();
    let thread = cfg!(debug_assertions).then(rustix::thread::gettid);
    released(unit, || {
        unit.parking.park();
        // Ahead of the interpreter, which may take long to come back.
        current::set_current(Some(unit));
        activity::note_poll();
    });
    debug_assert_eq!(thread, Some(rustix::thread::gettid()), "resumed on another thread");
    budget::begin();
}

/// Runs `blocking` in `unit` with the interpreter released.
pub(super) fn released(unit: &Unit, blocking: impl FnOnce()) {
    let mut blocking = Some(blocking);
    unit.host.released(&mut || {
        if let Some(blocking) = blocking.take() {
            blocking();
        }
    });
}
