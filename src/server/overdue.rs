//! Requests and coroutines that compute past their deadline: a check of the watchdog.
//!
//! Work that waits is ended by the loop itself (`event_loop::deadlines`). Work that computes keeps the loop from that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::watchdog::{Check, Job, Turn, Wishes};
use crate::crew::seat::Seat;
use crate::event_loop::activity::Activity;
use crate::event_loop::deadlines;
use crate::event_loop::records::{self, Record};
use crate::http::redaction::redacted;
use crate::interp::{self, EndReason};
use crate::output;

/// How long a turn has lasted at least in which work computes. Younger ones end by themselves, as a rule.
const COMPUTES: Duration = Duration::from_millis(15);

/// The time between two looks at overdue work that computes.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long overdue work may go on computing, until nothing is expected to end it. Its second exception comes after two
/// seconds.
const STUCK: Duration = Duration::from_secs(3);

/// The reason for which the worker asks to be replaced (`crew::scoreboard::REASONS`).
const REASON: &str = "stuck";

/// The check.
pub struct OverdueCheck {
    seat: Arc<Seat>,
    seen: Option<Overdue>,
    /// A job waits for the interpreter, or runs.
    is_busy: Arc<AtomicBool>,
}

/// Overdue work that computes.
struct Overdue {
    work: u64,
    activity: Activity,
    since: Instant,
    is_given_up: bool,
}

impl OverdueCheck {
    /// A check that asks in `seat` for the replacement of a worker that nothing ends.
    pub fn new(seat: Arc<Seat>) -> OverdueCheck {
        OverdueCheck { seat, seen: None, is_busy: Arc::default() }
    }

    fn give_up(&self, record: &Record) {
        let what = format!("the request or coroutine {:?}", redacted(&record.label()));
        let why = "it computes in C, or blocks in a call that does not park";
        let then = match self.seat.shared() {
            // Only our own arbiter has set a key, and it alone looks.
            Some((board, slot)) if board.service_key().is_some() && board.ask(slot, REASON) => {
                "The master replaces this worker"
            }
            _ => "Only the end of this process ends it; several workers (--workers) replace such a worker",
        };
        output::say(&format!("{what} goes on 3 s after it was ended: {why}. {then}."));
    }

    /// A job that ends `work`. `None` while an earlier one is not done.
    fn job(&self, work: u64) -> Option<Job> {
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        let is_busy = Arc::clone(&self.is_busy);
        Some(Box::new(move |py, _| {
            interp::end_work(py, work, EndReason::Deadline);
            is_busy.store(false, Ordering::Release);
        }))
    }
}

impl Check for OverdueCheck {
    fn look(&mut self, turn: Option<Turn>) -> Wishes {
        let found = turn.zip(records::running().map(|(record, _)| record));
        let Some((turn, record)) = found else {
            self.seen = None;
            return Wishes::default();
        };
        let Some(at) = deadlines::of(&record).filter(|_| record.wait().is_none()) else {
            self.seen = None;
            return Wishes::default();
        };
        let left = Duration::from_nanos(at.saturating_sub(records::now())).max(COMPUTES.saturating_sub(turn.age));
        if !left.is_zero() {
            self.seen = None;
            return Wishes { next: Some(left), job: None };
        }
        let work = record.work();
        let is_known = self.seen.as_ref().is_some_and(|seen| (seen.work, seen.activity) == (work, turn.activity));
        if !is_known {
            self.seen = Some(Overdue { work, activity: turn.activity, since: Instant::now(), is_given_up: false });
        }
        let is_stuck = self
            .seen
            .as_mut()
            .is_some_and(|seen| seen.since.elapsed() >= STUCK && !std::mem::replace(&mut seen.is_given_up, true));
        if is_stuck {
            self.give_up(&record);
        }
        Wishes { next: Some(LOOK_AGAIN), job: self.job(work) }
    }
}
