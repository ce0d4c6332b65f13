//! The stop of a server, and its counters: shared by the loop and the thread that runs the server.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::crew::scoreboard::WorkerState;
use crate::crew::seat::Seat;
use crate::kernel::Bell;
use crate::sync::lock;
use crate::wsgi::StopFlag;

/// The state that both sides share.
pub struct StopSignal {
    bell: Bell,
    drained: AtomicBool,
    flag: StopFlag,
    stop: Mutex<StopRequest>,
    failure: Mutex<Option<String>>,
    grace: Duration,
    seat: Arc<Seat>,
    clients_gone: AtomicU64,
}

#[derive(Default)]
struct StopRequest {
    deadline: Option<Instant>,
    is_passed_on: bool,
}

impl StopSignal {
    /// The state of a server whose requests have `grace` to end after a failure. It notes its work in `seat`.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(flag: StopFlag, grace: Duration, seat: Arc<Seat>) -> io::Result<StopSignal> {
        Ok(StopSignal {
            bell: Bell::new()?,
            drained: AtomicBool::new(false),
            flag,
            stop: Mutex::default(),
            failure: Mutex::default(),
            grace,
            seat,
            clients_gone: AtomicU64::new(0),
        })
    }

    /// Notes that every connection is closed.
    pub fn drained(&self) {
        self.drained.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Was a stop asked for?
    pub fn is_stopping(&self) -> bool {
        self.flag.is_set()
    }

    /// Is every connection closed, after a stop?
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Asks for a stop; requests in progress must be done by `deadline`, or by an earlier one that was set before.
    pub fn ask_to_stop(&self, deadline: Instant) {
        {
            let mut stop = lock(&self.stop);
            stop.deadline = Some(stop.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        }
        // Set at once, before the loop acts on it: the request that asks for the stop is its connection's last.
        self.flag.set();
        self.seat.set_state(WorkerState::Draining);
        self.bell.ring();
    }

    /// Asks for a stop after a failure.
    pub fn fail(&self, why: String) {
        lock(&self.failure).get_or_insert(why);
        self.ask_to_stop(Instant::now() + self.grace);
    }

    /// The reason of the failure.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// The deadline of a stop, once one was asked for, and whether this is the first call that returns it.
    pub fn stop_asked(&self) -> Option<(Instant, bool)> {
        let mut stop = lock(&self.stop);
        let deadline = stop.deadline?;
        Some((deadline, !std::mem::replace(&mut stop.is_passed_on, true)))
    }

    /// The deadline of a stop, once one was asked for.
    pub fn deadline(&self) -> Option<Instant> {
        lock(&self.stop).deadline
    }

    /// The seat in which the server notes its work.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    /// Counts a finished request. On the loop thread.
    pub fn count(&self, client_gone: bool) {
        self.seat.count_answered();
        if client_gone {
            self.clients_gone.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.seat.counters().requests
    }

    /// Requests whose client went away before the answer was complete.
    pub fn clients_gone(&self) -> u64 {
        self.clients_gone.load(Ordering::Relaxed)
    }

    /// Makes the bell unreadable, until there is more news.
    pub fn silence_bell(&self) {
        self.bell.silence();
    }

    /// A descriptor that becomes readable when there is something new.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
