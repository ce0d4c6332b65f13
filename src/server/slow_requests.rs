//! Slow requests: one line in the log for each request that takes longer than `slow_request`, with its stack at the
//! moment when it crossed the limit.
//!
//! A thread of its own reads the [records](crate::event_loop::records) of all requests. It sleeps until the next request
//! can cross the limit, and takes the interpreter only for a request that has. It also sees requests that compute.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::event_loop::records::{self, Record, WorkKind};
use crate::event_loop::{SourceId, interrupts, notes, streams};
use crate::http::redaction::redacted;
use crate::http::response::find_field;
use crate::interp::inspection::StackReader;
use crate::interp::{Level, log};
use crate::output;
use crate::sync::lock;
use crate::wsgi::{Finished, describe, in_context_of};

/// The shortest time between two looks at the requests.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);

/// How long the end of the server waits for a look that waits for the interpreter.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// A stack as lines of text, and the age of the request when it was taken.
type TakenStack = (Duration, Vec<String>);

/// The stacks of requests over the limit, by the number of their work. Written and read under the GIL.
type Stacks = Arc<Mutex<HashMap<u64, TakenStack>>>;

/// The limit, and the stacks of requests over it.
#[derive(Clone)]
pub struct SlowRequests {
    limit: Duration,
    stacks: Stacks,
}

/// A request whose time is taken.
pub struct TimedRequest {
    work: u64,
    begun: Instant,
    head: Duration,
    queue: Duration,
}

impl SlowRequests {
    /// Requests are slow after `limit`.
    pub fn new(limit: Duration) -> SlowRequests {
        SlowRequests { limit, stacks: Stacks::default() }
    }

    /// Begins to take the time of a request whose head is complete. The head had begun to arrive at `head_begun`; `None`
    /// if it came in one piece. `source` is its connection.
    pub fn begin(source: SourceId, head_begun: Option<Instant>) -> TimedRequest {
        notes::sum_waits();
        TimedRequest {
            work: interrupts::current_work().map_or(0, |work| work.number),
            begun: Instant::now(),
            head: head_begun.map(|begun| begun.elapsed()).unwrap_or_default(),
            queue: streams::input_waits(source),
        }
    }

    /// Notes the end of a request of `client`, and logs it if it was slow. WebSockets and streams of events last as long
    /// as their clients wish.
    ///
    /// # Parks
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    pub fn end(&self, py: Python<'_>, request: &TimedRequest, finished: &Finished<'_>, client: &str) {
        let sums = notes::take_sums().unwrap_or_default();
        let stack = lock(&self.stacks).remove(&request.work);
        let elapsed = request.begun.elapsed() + request.queue;
        if elapsed < self.limit || lasts(finished) {
            return;
        }
        let TimedRequest { head, queue, .. } = request;
        let sending = sums.sending();
        let application = elapsed.saturating_sub(*queue).saturating_sub(sending);
        let answer = match finished.status {
            0 => "without an answer".to_owned(),
            status => format!("answered with {status}"),
        };
        let mut text = format!(
            "{} from {client} took {} (slow_request is {} s), {answer}: head {}, queue {}, application {}, sending {}",
            redacted(&describe(&finished.environ)),
            seconds(elapsed),
            self.limit.as_secs_f64(),
            seconds(*head),
            seconds(*queue),
            seconds(application),
            seconds(sending),
        );
        for (index, (reason, waited)) in sums.longest().into_iter().enumerate() {
            let before = if index == 0 { "; it waited for " } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(text, "{before}{} {}", reason.name(), seconds(waited));
        }
        if let Some((age, lines)) = stack.filter(|(_, lines)| !lines.is_empty()) {
            let _ = write!(text, ". After {} it was here (most recent call last):", seconds(age));
            for line in lines {
                text.push_str("\n  ");
                text.push_str(&line);
            }
        }
        if let Err(error) = in_context_of(&finished.environ, || log(py, Level::Warning, &text, None)) {
            error.write_unraisable(py, None);
        }
    }
}

/// Does the request last as long as its client wishes?
fn lasts(finished: &Finished<'_>) -> bool {
    let is_stream = |kind: &[u8]| kind.to_ascii_lowercase().starts_with(b"text/event-stream");
    finished.status == 101 || find_field(&finished.fields, b"content-type").is_some_and(is_stream)
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// The thread that takes stacks.
pub struct SlowWatch {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: JoinHandle<()>,
    process: u32,
}

impl SlowWatch {
    /// Starts the thread. `None` if none can be started; slow requests are then logged without stacks.
    pub fn start(slow: SlowRequests) -> Option<SlowWatch> {
        let stop: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let (name, stops) = ("slow requests", Arc::clone(&stop));
        match thread::Builder::new().name(name.into()).spawn(move || slow.watch(&stops)) {
            Ok(thread) => Some(SlowWatch { stop, thread, process: std::process::id() }),
            Err(error) => {
                output::say(&format!("slow requests have no stacks: their thread cannot be started: {error}"));
                None
            }
        }
    }

    /// Ends the thread. Call it while detached: the thread may wait for the interpreter. If it waits for more than
    /// [`LAST_LOOK`], it is left alone. In a forked child, which has no such thread, it does nothing.
    pub fn stop(self) {
        if self.process != std::process::id() {
            std::mem::forget(self);
            return;
        }
        *lock(&self.stop.0) = true;
        self.stop.1.notify_all();
        let until = Instant::now() + LAST_LOOK;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
        if self.thread.is_finished() {
            let _ = self.thread.join();
        }
    }
}

impl SlowRequests {
    /// Takes the stack of each request that crosses the limit, until `stop` is set.
    fn watch(&self, (stop, changed): &(Mutex<bool>, Condvar)) {
        let mut seen: Vec<u64> = Vec::new();
        loop {
            let (slow, next) = self.look();
            let new: Vec<_> = slow.iter().filter(|(work, _)| !seen.contains(work)).collect();
            if !new.is_empty() {
                Python::attach(|py| self.take_stacks(py, &new));
            }
            seen = slow.into_iter().map(|(work, _)| work).collect();
            let stopped = lock(stop);
            if *stopped {
                return;
            }
            let waited = changed.wait_timeout(stopped, next);
            if waited.is_ok_and(|(stopped, _)| *stopped) {
                return;
            }
        }
    }

    /// The requests over the limit, each with the number of its work, and the time after which another can cross it.
    fn look(&self) -> (Vec<(u64, Arc<Record>)>, Duration) {
        let mut slow = Vec::new();
        let mut next = self.limit;
        for record in records::all() {
            if record.kind() != WorkKind::Request {
                continue;
            }
            match self.limit.checked_sub(age_of(&record)).filter(|left| !left.is_zero()) {
                Some(left) => next = next.min(left),
                None => slow.push((record.work(), record)),
            }
        }
        (slow, next.max(SHORTEST_LOOK))
    }

    fn take_stacks(&self, py: Python<'_>, slow: &[&(u64, Arc<Record>)]) {
        let mut reader = StackReader::new(py);
        for (work, record) in slow {
            // Under the GIL the request cannot end meanwhile.
            if record.work() != *work {
                continue;
            }
            let mut frames = reader.stack(record).unwrap_or_default();
            frames.reverse();
            let lines = frames
                .iter()
                .map(|frame| format!("File \"{}\", line {}, in {}", frame.file, frame.line, frame.function))
                .collect();
            lock(&self.stacks).insert(*work, (age_of(record), lines));
        }
    }
}

fn age_of(record: &Record) -> Duration {
    Duration::from_nanos(records::now().saturating_sub(record.begun()))
}
