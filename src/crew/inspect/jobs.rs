//! Questions that need the interpreter, answered on a thread that may wait for it.
//!
//! The thread starts with the first such question. While C code holds the interpreter, the thread waits, and the asker
//! does not: it takes its question back after a time. A question that was taken back is never acted on.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::question::{Inquiry, refusal};
use crate::kernel::Bell;
use crate::sync::{lock, recover};

/// Questions that wait for the interpreter at most.
const WAITING_JOBS: usize = 64;

/// How long the end of the thread is waited for. It may be at work in Python, which may wait for anything.
const END_TIME: Duration = Duration::from_secs(2);

/// The interpreter of this process.
pub trait InspectHost: Send + Sync + 'static {
    /// Takes the interpreter, asks `may_begin`, and answers. `None` if it may not begin. May take any time.
    fn answer(&self, question: &Inquiry, may_begin: &dyn Fn() -> bool) -> Option<Value>;
}

const WAITS: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// One question.
pub(super) struct InspectJob {
    question: Inquiry,
    state: AtomicU8,
    answer: Mutex<Option<Value>>,
}

impl InspectJob {
    /// The answer, once it is there.
    pub(super) fn answer(&self) -> Option<Value> {
        lock(&self.answer).take()
    }

    /// Takes the question back. Returns false if the interpreter is at work on it already.
    pub(super) fn withdraw(&self) -> bool {
        self.state.compare_exchange(WAITS, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn take(&self) -> bool {
        self.state.compare_exchange(WAITS, TAKEN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The queue, and its thread.
pub(super) struct InspectJobs {
    shared: Arc<InspectQueue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct InspectQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
    /// Rings when an answer is there.
    bell: Arc<Bell>,
    host: Box<dyn InspectHost>,
}

#[derive(Default)]
struct QueueState {
    waiting: VecDeque<Arc<InspectJob>>,
    is_over: bool,
    is_running: bool,
}

impl InspectJobs {
    pub(super) fn new(host: Box<dyn InspectHost>, bell: Arc<Bell>) -> InspectJobs {
        let shared = InspectQueue { state: Mutex::default(), changed: Condvar::new(), bell, host };
        InspectJobs { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// Queues a question.
    ///
    /// # Errors
    /// WouldBlock if too many wait already or the process ends, and errors of clone(2).
    pub(super) fn ask(&self, question: Inquiry) -> io::Result<Arc<InspectJob>> {
        let mut state = lock(&self.shared.state);
        state.waiting.retain(|job| job.state.load(Ordering::Acquire) == WAITS);
        if state.is_over || state.waiting.len() >= WAITING_JOBS {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if !state.is_running {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("inspect-stacks".into()).spawn(move || shared.run())?;
            *lock(&self.thread) = Some(thread);
            state.is_running = true;
        }
        let job = Arc::new(InspectJob { question, state: AtomicU8::new(WAITS), answer: Mutex::default() });
        state.waiting.push_back(Arc::clone(&job));
        self.shared.changed.notify_all();
        Ok(job)
    }

    /// Ends the thread. The caller does not hold the interpreter, which the thread may wait for.
    pub(super) fn stop(&self) {
        let deadline = Instant::now() + END_TIME;
        let mut state = lock(&self.shared.state);
        state.is_over = true;
        for job in &state.waiting {
            job.withdraw();
        }
        self.shared.changed.notify_all();
        while state.is_running {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = recover(self.shared.changed.wait_timeout(state, left)).0;
        }
        drop(state);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }
}

impl InspectQueue {
    fn run(&self) {
        let _over = OverAtEnd(self);
        loop {
            let job = {
                let mut state = lock(&self.state);
                loop {
                    if state.is_over {
                        return;
                    }
                    match state.waiting.pop_front() {
                        Some(job) => break job,
                        None => state = recover(self.changed.wait(state)),
                    }
                }
            };
            if job.state.load(Ordering::Acquire) != WAITS {
                continue;
            }
            if let Some(answer) = self.host.answer(&job.question, &|| job.take()) {
                *lock(&job.answer) = Some(answer);
            } else if job.withdraw() {
                *lock(&job.answer) = Some(refusal("the interpreter of the worker ends"));
            }
            self.bell.ring();
        }
    }
}

/// Notes that the thread is over, also after a panic.
struct OverAtEnd<'a>(&'a InspectQueue);

impl Drop for OverAtEnd<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).is_running = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use serde_json::json;

    use super::*;

    /// An interpreter that is free once for each message, and notes the questions that it has acted on.
    struct Host {
        free: Mutex<Receiver<()>>,
        acted: Arc<Mutex<Vec<Inquiry>>>,
    }

    impl InspectHost for Host {
        fn answer(&self, question: &Inquiry, may_begin: &dyn Fn() -> bool) -> Option<Value> {
            lock(&self.free).recv().ok()?;
            may_begin().then(|| {
                lock(&self.acted).push(question.clone());
                json!({})
            })
        }
    }

    fn jobs() -> (InspectJobs, Sender<()>, Arc<Mutex<Vec<Inquiry>>>) {
        let (sender, receiver) = channel();
        let acted = Arc::default();
        let host = Host { free: Mutex::new(receiver), acted: Arc::clone(&acted) };
        (InspectJobs::new(Box::new(host), Arc::new(Bell::new().unwrap())), sender, acted)
    }

    fn await_answer(job: &InspectJob) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while job.answer().is_none() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_question_that_was_taken_back_is_never_acted_on() {
        let (jobs, free, acted) = jobs();
        let first = jobs.ask(Inquiry::LogLevel("debug")).unwrap();
        let second = jobs.ask(Inquiry::LogLevel("info")).unwrap();
        let third = jobs.ask(Inquiry::LogLevel("error")).unwrap();
        // The thread waits for the interpreter with the first one.
        assert!(first.withdraw() && second.withdraw());
        for _ in 0..3 {
            free.send(()).unwrap();
        }
        await_answer(&third);
        assert!(!third.withdraw());
        assert_eq!(*lock(&acted), [Inquiry::LogLevel("error")]);
        drop(free);
        jobs.stop();
        assert!(jobs.ask(Inquiry::Workers).is_err());
    }

    #[test]
    fn questions_that_wait_for_the_interpreter_have_a_bound() {
        let (jobs, free, _) = jobs();
        let asked: Vec<_> = (0..2 * WAITING_JOBS).map_while(|_| jobs.ask(Inquiry::Workers).ok()).collect();
        // The thread may have taken one.
        assert!((WAITING_JOBS..=WAITING_JOBS + 1).contains(&asked.len()));
        for job in &asked {
            job.withdraw();
        }
        assert!(jobs.ask(Inquiry::Workers).is_ok());
        drop(free);
        jobs.stop();
    }
}
