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

/// The last part of the grace period, in which connections without a request are closed in order.
const LAST_PART: u32 = 8;

/// The longest [`LAST_PART`].
const LONGEST_LAST_PART: Duration = Duration::from_secs(1);

/// The part of the grace period over which the closes of WebSockets are spread.
const SPREAD_PART: u32 = 2;

/// The terms of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTerms {
    /// When accepting ends. Until then the server goes on as before.
    pub begins: Instant,
    /// When the grace period ends.
    pub deadline: Instant,
    /// How long an idle connection is kept; `None` for `keep_alive`.
    pub idle: Option<Duration>,
    /// Another process takes over.
    pub restarts: bool,
    /// Ctrl-C has asked for the stop, and a person waits for it.
    pub is_interrupt: bool,
    /// The process or `run()` ends within a second, in order or not.
    pub hurries: bool,
}

impl StopTerms {
    /// The terms when a second stop is asked for: only a shorter time changes.
    fn with(self, other: StopTerms) -> StopTerms {
        StopTerms {
            begins: self.begins.min(other.begins),
            deadline: self.deadline.min(other.deadline),
            idle: self.idle.into_iter().chain(other.idle).min(),
            restarts: self.restarts && other.restarts,
            is_interrupt: self.is_interrupt || other.is_interrupt,
            hurries: self.hurries || other.hurries,
        }
    }

    /// Until when connections are kept that wait for a request, or send one.
    pub fn kept_until(&self) -> Instant {
        let grace = self.deadline.saturating_duration_since(self.begins);
        self.begins + (grace - (grace / LAST_PART).min(LONGEST_LAST_PART))
    }

    /// Idle connections are closed at once.
    pub fn is_quick(&self) -> bool {
        self.idle.is_some_and(|idle| idle.is_zero())
    }

    /// The time over which the closes of WebSockets are spread.
    pub fn spread(&self) -> Duration {
        if self.is_quick() {
            Duration::ZERO
        } else {
            self.deadline.saturating_duration_since(self.begins) / SPREAD_PART
        }
    }
}

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
    terms: Option<StopTerms>,
    passed_on: Option<StopTerms>,
    is_delay_passed_on: bool,
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

    /// Has a stop begun?
    pub fn is_stopping(&self) -> bool {
        self.flag.is_set()
    }

    /// Is every connection closed, after a stop?
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Asks for a stop. The terms of an earlier stop may only become shorter.
    pub fn ask_to_stop(&self, terms: StopTerms) {
        {
            let mut stop = lock(&self.stop);
            let terms = stop.terms.map_or(terms, |earlier| earlier.with(terms));
            stop.terms = Some(terms);
            self.flag.set_terms(terms.kept_until(), terms.restarts);
            // Set at once, before the loop acts on it: the request that asks for the stop is its connection's last.
            if terms.begins <= Instant::now() {
                self.flag.set();
            }
        }
        self.seat.set_state(WorkerState::Draining);
        self.bell.ring();
    }

    /// Asks for a stop now, with the grace period `grace`.
    pub fn ask_to_stop_now(&self, grace: Duration) {
        let now = Instant::now();
        self.ask_to_stop(StopTerms {
            begins: now,
            deadline: now + grace,
            idle: None,
            restarts: false,
            is_interrupt: false,
            hurries: false,
        });
    }

    /// Asks for a stop after a failure.
    pub fn fail(&self, why: String) {
        lock(&self.failure).get_or_insert(why);
        self.ask_to_stop_now(self.grace);
    }

    /// The reason of the failure.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// The terms of a stop, once one was asked for. The flag says whether to notify the loop: the stop has begun,
    /// and its terms have changed since the last notification.
    pub fn stop_asked(&self) -> Option<(StopTerms, bool)> {
        let mut stop = lock(&self.stop);
        let terms = stop.terms?;
        if terms.begins > Instant::now() {
            return Some((terms, false));
        }
        self.flag.set();
        Some((terms, stop.passed_on.replace(terms) != Some(terms)))
    }

    /// The time until a stop that was asked for and has not begun; at the first call, and `None` at each later one.
    pub fn delay_asked(&self) -> Option<Duration> {
        let mut stop = lock(&self.stop);
        let delay = stop.terms?.begins.saturating_duration_since(Instant::now());
        (!delay.is_zero() && !std::mem::replace(&mut stop.is_delay_passed_on, true)).then_some(delay)
    }

    /// The terms of a stop, once one was asked for.
    pub fn terms(&self) -> Option<StopTerms> {
        lock(&self.stop).terms
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

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(delay: u64, grace: u64) -> StopTerms {
        let begins = Instant::now() + Duration::from_secs(delay);
        StopTerms {
            begins,
            deadline: begins + Duration::from_secs(grace),
            idle: None,
            restarts: true,
            is_interrupt: false,
            hurries: false,
        }
    }

    #[test]
    fn a_later_stop_only_shortens_the_first_one() {
        let stop = StopSignal::new(StopFlag::default(), Duration::ZERO, Arc::new(Seat::private())).unwrap();
        let (first, longer) = (terms(5, 30), terms(9, 60));
        stop.ask_to_stop(first);
        stop.ask_to_stop(longer);
        assert_eq!(stop.terms(), Some(first));
        assert!(!stop.is_stopping());
        assert_eq!(stop.stop_asked(), Some((first, false)));
        assert!(stop.delay_asked().is_some_and(|delay| delay <= Duration::from_secs(5)));
        assert_eq!(stop.delay_asked(), None);
        let interrupt = StopTerms { idle: Some(Duration::ZERO), is_interrupt: true, ..terms(0, 30) };
        stop.ask_to_stop(interrupt);
        assert!(stop.is_stopping());
        assert_eq!(stop.stop_asked(), Some((interrupt, true)));
        assert_eq!(stop.stop_asked(), Some((interrupt, false)));
    }

    #[test]
    fn connections_are_kept_until_shortly_before_the_end_of_the_grace_period() {
        let left = |grace| {
            let terms = terms(0, grace);
            terms.deadline - terms.kept_until()
        };
        assert_eq!((left(0), left(4), left(60)), (Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1)));
    }

    #[test]
    fn websockets_are_closed_over_half_of_the_grace_period_unless_the_stop_is_quick() {
        let calm = terms(5, 30);
        assert_eq!(calm.spread(), Duration::from_secs(15));
        assert_eq!(StopTerms { idle: Some(Duration::ZERO), ..calm }.spread(), Duration::ZERO);
    }
}
