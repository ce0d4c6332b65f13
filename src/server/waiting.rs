//! The thread that runs a server: it waits for the end, runs signal handlers, and passes a stop on to the loop.

use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

use super::lifecycle::{Server, with_service};
use super::stop_signal::StopTerms;
use crate::event_loop::{LoopMessage, Runtime};
use crate::interp;
use crate::kernel::{LentDescriptor, timespec_until};
use crate::output;

/// SIGABRT as it arrives through the file descriptor of `signal.set_wakeup_fd`.
const ABORT: u8 = libc::SIGABRT.to_le_bytes()[0];

/// Signals whose handlers end the server.
const ENDS: [u8; 3] = [libc::SIGTERM.to_le_bytes()[0], libc::SIGINT.to_le_bytes()[0], libc::SIGQUIT.to_le_bytes()[0]];

/// Signals that end the process in a hurry if they cannot be handled during a stop.
const HURRYING: [u8; 2] = [libc::SIGINT.to_le_bytes()[0], libc::SIGQUIT.to_le_bytes()[0]];

/// How long the handler of SIGABRT may wait for the interpreter.
const ABORT_GRACE: Duration = Duration::from_millis(300);

/// How long the thread that runs the server may take to end the process in order after the grace period. Coroutines,
/// the loop and the handlers at exit have two seconds each.
const EXIT_GRACE: Duration = Duration::from_secs(6);

/// How long a stop waits in silence for requests in progress.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// How long a stop by Ctrl-C waits in silence.
const FIRST_WORD_TO_A_PERSON: Duration = Duration::from_millis(200);

/// The time between two lines about the requests that a stop waits for.
const NEXT_WORD: Duration = Duration::from_secs(10);

/// How long the loop may take to say what is waited for. Then it computes.
const LOOP_ANSWERS: Duration = Duration::from_millis(300);

/// When the next line about the requests that a stop waits for is due.
#[derive(Default)]
struct Words {
    next: Option<Instant>,
    to_a_person: bool,
    /// The loop was asked to say a line by this time. The flag is set once it has.
    asked: Option<(Instant, Arc<AtomicBool>)>,
}

impl Server {
    /// Blocks until the server has drained, or the grace period or the loop is over.
    pub(super) fn wait(
        &self,
        py: Python<'_>,
        runtime: &Runtime,
        wakeup_fd: RawFd,
        exit_status: Option<i32>,
        mut on_stop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let mut is_armed = false;
        let mut words = Words::default();
        let wakeup = LentDescriptor::new(wakeup_fd);
        loop {
            let terms = self.pass_the_stop_on(runtime);
            if self.stop_signal.is_stopping()
                && let Some(on_stop) = on_stop.take()
            {
                on_stop.call0()?;
            }
            if self.stop_signal.is_drained() || runtime.has_ended() {
                return Ok(());
            }
            let deadline = terms.map(|terms| terms.deadline);
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            let wake_at = match terms {
                Some(terms) if !self.stop_signal.is_stopping() => Some(terms.begins),
                Some(terms) => Some(terms.deadline.min(self.say_what_is_waited_for(py, runtime, terms, &mut words))),
                None => None,
            };
            let (rung, in_time, may_end) = py.detach(|| {
                let mut descriptors = vec![
                    PollFd::from_borrowed_fd(self.stop_signal.bell(), PollFlags::IN),
                    PollFd::from_borrowed_fd(runtime.end_bell(), PollFlags::IN),
                ];
                if let Ok(wakeup) = &wakeup {
                    descriptors.push(PollFd::new(wakeup, PollFlags::IN));
                }
                let timeout = wake_at.map(timespec_until);
                let rung = poll(&mut descriptors, timeout.as_ref());
                // Armed while detached, since something may hold the interpreter for ever.
                if let (Some(status), Some(deadline)) = (exit_status, deadline)
                    && (self.stop_signal.is_drained() || Instant::now() >= deadline)
                    && !std::mem::replace(&mut is_armed, true)
                {
                    interp::arm_exit(deadline.saturating_duration_since(Instant::now()) + EXIT_GRACE, status);
                }
                let signals = signals_of(wakeup_fd);
                // The handlers of these signals need the interpreter, too.
                let asked = exit_status.filter(|_| ENDS.iter().any(|number| signals.contains(number)));
                if let Some(status) = asked {
                    self.arm_exit(wakeup.as_ref().ok(), status);
                }
                (rung, signals.contains(&ABORT).then(abort_unless_in_time), asked.is_some())
            });
            if let Some(in_time) = in_time {
                in_time.store(true, Ordering::Release);
            }
            if let Err(error) = rung
                && error != rustix::io::Errno::INTR
            {
                return Err(interp::os_error(error));
            }
            self.stop_signal.silence_bell();
            py.check_signals()?;
            if may_end && self.stop_signal.terms().is_none() {
                // The handler is the application's own, and has not asked for a stop.
                interp::disarm_exit();
            }
        }
    }

    /// Passes a stop that has begun on to the loop, and each change of its terms. Returns the terms.
    fn pass_the_stop_on(&self, runtime: &Runtime) -> Option<StopTerms> {
        if let Some(delay) = self.stop_signal.delay_asked() {
            runtime.send(LoopMessage::Control(Box::new(move || {
                with_service(|service| service.begin_draining(delay));
            })));
        }
        let (terms, is_new) = self.stop_signal.stop_asked()?;
        if is_new {
            runtime.send(LoopMessage::Control(Box::new(|| {
                Python::attach(|py| with_service(|service| service.begin_stop(py)));
            })));
        }
        Some(terms)
    }

    /// Says which requests the stop waits for, once it is time. Returns the time of the next call.
    fn say_what_is_waited_for(
        &self,
        py: Python<'_>,
        runtime: &Runtime,
        terms: StopTerms,
        words: &mut Words,
    ) -> Instant {
        let now = Instant::now();
        if terms.is_interrupt && !std::mem::replace(&mut words.to_a_person, true) {
            words.next = Some(now + FIRST_WORD_TO_A_PERSON);
        }
        if let Some((_, was_said)) = words.asked.take_if(|(by, _)| *by <= now)
            && !was_said.load(Ordering::Acquire)
        {
            let what = interp::running_subject(py).unwrap_or_else(|| "something".to_owned());
            output::say(&format!("waiting for {what}, which computes; press Ctrl-C again to stop now"));
        }
        let next = *words.next.get_or_insert(now + FIRST_WORD);
        if next > now {
            return words.asked.as_ref().map_or(next, |(by, _)| next.min(*by));
        }
        words.next = Some(now + NEXT_WORD);
        if terms.is_interrupt {
            let was_said = Arc::new(AtomicBool::new(false));
            words.asked = Some((now + LOOP_ANSWERS, Arc::clone(&was_said)));
            let say = move || {
                was_said.store(true, Ordering::Release);
                Python::attach(|py| with_service(|service| service.tell_a_person_what_is_waited_for(py)));
            };
            runtime.send(if output::has_reader() {
                LoopMessage::Control(Box::new(say))
            } else {
                // A task, since a handler of the log may wait.
                LoopMessage::Task(Box::new(say))
            });
            return now + LOOP_ANSWERS;
        }
        let graceful_timeout = self.graceful_timeout;
        // A task, since a handler of the log may wait.
        runtime.send(LoopMessage::Task(Box::new(move || {
            Python::attach(|py| {
                with_service(|service| service.say_what_is_waited_for(py, terms.deadline, graceful_timeout));
            });
        })));
        now + NEXT_WORD
    }

    /// Ends the process after the longest time that a stop may take from now on, or soon after a second signal that
    /// cannot be handled.
    fn arm_exit(&self, wakeup: Option<&LentDescriptor>, status: i32) {
        let after = self.drain_delay + self.graceful_timeout + EXIT_GRACE;
        match wakeup.map(|wakeup| wakeup.as_fd().try_clone_to_owned()) {
            Some(Ok(signals)) => interp::arm_exit_and_watch(after, status, signals, &HURRYING),
            _ => interp::arm_exit(after, status),
        }
    }
}

/// Reads the numbers of the signals that Python has noted.
fn signals_of(wakeup_fd: RawFd) -> Vec<u8> {
    let mut numbers = vec![0; 512];
    let count = LentDescriptor::new(wakeup_fd).and_then(|wakeup| rustix::io::read(wakeup, &mut numbers)).unwrap_or(0);
    numbers.truncate(count);
    numbers
}

/// Aborts the process after [`ABORT_GRACE`], unless the returned flag is set by then. SIGABRT has come, and its handler
/// in Python waits for an interpreter that C code may hold for ever.
fn abort_unless_in_time() -> Arc<AtomicBool> {
    let in_time = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&in_time);
    // Without a thread the sender of the signal has to send another one.
    let _ = std::thread::Builder::new().name("abort".into()).spawn(move || {
        std::thread::sleep(ABORT_GRACE);
        if !seen.load(Ordering::Acquire) {
            std::process::abort();
        }
    });
    in_time
}
