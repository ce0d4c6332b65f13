//! The waits that Python code can ask for: for some time, or for a descriptor.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::errors::{io_error, os_error, wake_error};
use super::on_thread::call_on_thread;
use crate::event_loop::{self, Interest, Wake};
use crate::kernel::{LentDescriptor, poll_events, poll_numbers, timespec};

/// The longest wait, a hundred years. Longer ones are shortened to it.
const LONGEST_WAIT: Duration = Duration::from_secs(100 * 366 * 86_400);

/// The longest timeout in seconds that CPython takes: 2^63 nanoseconds.
const LONGEST_TIMEOUT: f64 = 9_223_372_036.854_776;

/// How long an OS thread blocks until it looks for signals: a signal that arrives just before poll(2) does not
/// interrupt it.
pub const SIGNAL_CHECK: Duration = Duration::from_millis(250);

/// Parks for `seconds`; 0 lets everything else that is ready run first. Outside a coroutine it is `time.sleep`.
///
/// # Errors
/// ValueError for a negative or non-finite value; [`super::CoroutineExit`] when the server stops.
pub fn sleep(py: Python<'_>, seconds: f64) -> PyResult<()> {
    let deadline = deadline_after("seconds", seconds)?;
    if !event_loop::can_park() {
        let blocking = py.import("time")?.getattr("sleep")?;
        return call_on_thread(&blocking, &(seconds,).into_pyobject(py)?).map(drop);
    }
    match if seconds == 0.0 { event_loop::after_next_poll() } else { event_loop::sleep(deadline) } {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}

/// Parks until `time.monotonic()` is `at`, or not at all if that time is past. Sleepers wake in the order of their
/// times, and sleepers of the same time in the order of their calls. In a coroutine only.
///
/// # Errors
/// [`super::CoroutineExit`], and an exception thrown into the coroutine.
///
/// # Parks
pub fn sleep_until(at: f64) -> PyResult<()> {
    let (instant, seconds) = both_clocks();
    let ahead = Duration::try_from_secs_f64((at - seconds).max(0.0)).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    match event_loop::sleep(instant + ahead) {
        Wake::Ready | Wake::TimedOut => Ok(()),
        wake => Err(wake_error(wake)),
    }
}

/// A time on the clock of `time.monotonic()`.
pub fn monotonic(at: Instant) -> f64 {
    let (instant, seconds) = both_clocks();
    let (later, earlier) = (at.saturating_duration_since(instant), instant.saturating_duration_since(at));
    seconds + later.as_secs_f64() - earlier.as_secs_f64()
}

/// One time on the clock of `Instant` and on that of `time.monotonic()`. Both are CLOCK_MONOTONIC. They are compared
/// once, so that the order of two times is never reversed.
fn both_clocks() -> (Instant, f64) {
    static BOTH: OnceLock<(Instant, f64)> = OnceLock::new();
    *BOTH.get_or_init(|| {
        let now = clock_gettime(ClockId::Monotonic);
        (Instant::now(), Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec.try_into().unwrap_or(0)).as_secs_f64())
    })
}

/// Waits until a descriptor is ready, at most `timeout` seconds (None: for ever). Returns whether it is.
///
/// # Errors
/// ValueError for a negative timeout, OSError for a bad descriptor or one that is closed during the wait,
/// [`super::CoroutineExit`].
pub fn wait_descriptor(py: Python<'_>, number: RawFd, interest: Interest, timeout: Option<f64>) -> PyResult<bool> {
    let deadline = timeout.map(|seconds| deadline_after("timeout", seconds)).transpose()?;
    if event_loop::can_park() {
        return match event_loop::wait_descriptor(number, interest, deadline).map_err(io_error)? {
            Wake::Ready => Ok(true),
            Wake::TimedOut => Ok(false),
            wake => Err(wake_error(wake)),
        };
    }
    let descriptor = LentDescriptor::new(number).map_err(|_| wake_error(Wake::Closed))?;
    let flags = match interest {
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
        Interest::Both => PollFlags::IN | PollFlags::OUT,
        // The numbers are the same; beyond 16 bits are flags that are no events.
        Interest::Events(bits) => poll_events(u16::try_from(bits & 0xffff).unwrap_or_default()),
    };
    loop {
        if block(py, descriptor, flags, deadline)? {
            return Ok(true);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// Waits until one of several descriptors may be ready for its events (those of poll(2)), at most `seconds`. Returns
/// whether one may be. In a coroutine.
///
/// # Errors
/// OSError for a bad descriptor, for one of the server's own, and for one that is closed during the wait; the errors of
/// a wait.
///
/// # Parks
pub fn wait_any(interests: &[(RawFd, u32)], seconds: f64) -> PyResult<bool> {
    let deadline = deadline_after("timeout", seconds)?;
    match event_loop::wait_any_descriptor(interests, Some(deadline)).map_err(io_error)? {
        Wake::Ready => Ok(true),
        Wake::TimedOut => Ok(false),
        wake => Err(wake_error(wake)),
    }
}

/// The events (those of poll(2)) that a descriptor is ready for now, of `events`, with errors and the end of a stream.
///
/// # Errors
/// OSError where poll(2) has none of its events to report it by.
pub fn events_now(number: RawFd, events: u16) -> PyResult<u16> {
    let Ok(descriptor) = LentDescriptor::new(number) else { return Ok(poll_numbers(PollFlags::NVAL)) };
    let mut polled = [PollFd::new(&descriptor, poll_events(events))];
    loop {
        match poll(&mut polled, Some(&Timespec::default())) {
            Ok(_) => return Ok(poll_numbers(polled[0].revents())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(os_error(error)),
        }
    }
}

/// `seconds` from now, at most a hundred years: `threading.TIMEOUT_MAX`, which is more, says "for ever" in many a
/// program.
///
/// # Errors
/// ValueError naming the argument and the value if it is negative or not a finite number; OverflowError for more than
/// CPython takes.
pub fn deadline_after(name: &str, seconds: f64) -> PyResult<Instant> {
    if !(0.0..f64::INFINITY).contains(&seconds) {
        return Err(PyValueError::new_err(format!(
            "{name} must be a number of seconds >= 0, not {}",
            seconds.to_string().to_lowercase()
        )));
    }
    if seconds > LONGEST_TIMEOUT {
        return Err(PyOverflowError::new_err(format!("{name} is too large")));
    }
    Ok(Instant::now() + Duration::from_secs_f64(seconds).min(LONGEST_WAIT))
}

/// Blocks the OS thread on a descriptor. False when the deadline has passed, a signal was handled, or it is time to
/// look for one.
fn block(py: Python<'_>, descriptor: LentDescriptor, flags: PollFlags, deadline: Option<Instant>) -> PyResult<bool> {
    let ready = py.detach(|| {
        let left = deadline.map_or(SIGNAL_CHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.min(SIGNAL_CHECK);
        let mut polled = [PollFd::new(&descriptor, flags)];
        poll(&mut polled, Some(&timespec(left))).map(|count| (count, polled[0].revents()))
    });
    py.check_signals()?;
    match ready {
        Ok((_, revents)) if revents.contains(PollFlags::NVAL) => Err(wake_error(Wake::Closed)),
        Ok((count, _)) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(os_error(error)),
    }
}

/// Runs `action`, which parks a coroutine where it waits and blocks an OS thread: the latter lets go of the
/// interpreter.
///
/// # Parks
pub fn park_or_detach<R: Send>(py: Python<'_>, action: impl FnOnce() -> R + Send) -> R {
    if event_loop::can_park() { action() } else { py.detach(action) }
}
