//! The watchdog: two OS threads that look after a loop which does not turn.
//!
//! The first thread never takes the interpreter. It looks a few times a second at the loop's [`activity`], and has its
//! [checks](Check) look, too. While the loop waits for events it sleeps without a time limit, and the next turn wakes
//! it. The second thread is made when a check first has a [job](Job) that needs the interpreter, for which it may have
//! to wait. The first thread goes on meanwhile.
//!
//! A check may also ask for looks while the loop waits (`Check::longest_sleep`).
//!
//! A process may stand still as a whole: by SIGSTOP, or because the machine was suspended. A look that comes far too late
//! is the sign of it, and the time does not count as time of a turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::event_loop::activity::{self, Activity};
use crate::interp;
use crate::output;
use crate::sync::lock;

/// The longest time between two looks at a loop that turns.
const LONGEST_LOOK: Duration = Duration::from_millis(150);

/// The shortest time between two looks.
const SHORTEST_LOOK: Duration = Duration::from_millis(5);

/// The number of looks at a waiting loop after which the first thread sleeps until the next turn.
const IDLE_LOOKS: u32 = 14;

/// How late a look may be. A later one means that the process or the machine stood still.
const LATE: Duration = Duration::from_millis(300);

/// How long the end of the server waits for a job that runs, or waits for the interpreter.
const LAST_JOB: Duration = Duration::from_secs(1);

/// Work for the thread that may wait for the interpreter. Its second argument is how long the interpreter took to come.
pub type Job = Box<dyn FnOnce(Python<'_>, Duration) + Send>;

/// The turn that runs while a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The activity by which the turn is known again. Turns that began in the same tick of the clock share it.
    pub activity: Activity,
    /// How long it has lasted, without the time in which the process stood still.
    pub age: Duration,
}

/// The wishes of a check after a look.
#[derive(Default)]
pub struct Wishes {
    /// The next look comes at this time at the latest, if the loop still turns. `None` leaves it to the watchdog.
    pub next: Option<Duration>,
    /// A job for the thread that may wait for the interpreter. Jobs run in their order.
    pub job: Option<Job>,
}

/// A check of the loop, made by the first thread of the watchdog: the loop is blocked, or a request computes past its
/// deadline.
pub trait Check: Send {
    /// Looks at the loop, whose running turn is `turn`; `None` while the loop waits for events. The interpreter must
    /// not be taken, and nothing may be waited for. A loop that waits is looked at only once in a while.
    fn look(&mut self, turn: Option<Turn>) -> Wishes;

    /// The longest time without a look while the loop waits for events. `None`: the next turn is soon enough.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }
}

/// The watchdog of a server that runs.
pub struct Watchdog {
    stops: Arc<AtomicBool>,
    first: JoinHandle<()>,
    second: Arc<Mutex<Option<JoinHandle<()>>>>,
    process: u32,
}

impl Watchdog {
    /// Starts the first thread with its checks. `None` if there is nothing to check, or if no thread can be started.
    pub fn start(checks: Vec<Box<dyn Check>>) -> Option<Watchdog> {
        if checks.is_empty() {
            return None;
        }
        let stops = Arc::new(AtomicBool::new(false));
        let second = Arc::default();
        let watch = Watch {
            checks,
            stops: Arc::clone(&stops),
            sender: None,
            second: Arc::clone(&second),
            seen: None,
            looked: activity::coarse_now(),
            stood_still: (0, 0),
            idle_looks: 0,
        };
        let started = thread::Builder::new().name("watchdog".into()).spawn(move || watch.run());
        match started {
            Ok(first) => Some(Watchdog { stops, first, second, process: std::process::id() }),
            Err(error) => {
                output::say(&format!("there is no watchdog: its thread cannot be started: {error}"));
                None
            }
        }
    }

    /// Ends both threads. Call it while detached: a job may wait for the interpreter. A job that goes on for more than
    /// [`LAST_JOB`] is left alone. In a forked child, which has no such threads, it does nothing.
    pub fn stop(self) {
        if self.process != std::process::id() {
            // Joining would wait for ever.
            std::mem::forget(self);
            return;
        }
        self.stops.store(true, Ordering::Release);
        self.first.thread().unpark();
        let _ = self.first.join();
        let Some(second) = lock(&self.second).take() else { return };
        let until = Instant::now() + LAST_JOB;
        while !second.is_finished() && Instant::now() < until {
            thread::sleep(SHORTEST_LOOK);
        }
        if second.is_finished() {
            let _ = second.join();
        }
    }
}

/// The first thread.
struct Watch {
    checks: Vec<Box<dyn Check>>,
    stops: Arc<AtomicBool>,
    /// Jobs for the second thread, once it runs.
    sender: Option<mpsc::Sender<Job>>,
    second: Arc<Mutex<Option<JoinHandle<()>>>>,
    seen: Option<SeenTurn>,
    /// The time of the last look, on the coarse clock. The next look measures from here how late it is, so that no time
    /// lies between two looks in which the process could stand still unnoticed.
    looked: u64,
    /// Until when the process stood still last, on the coarse clock, and for how long.
    stood_still: (u64, u64),
    idle_looks: u32,
}

/// A turn, as far as it was seen.
#[derive(Clone, Copy)]
struct SeenTurn {
    activity: Activity,
    /// When it began, or was first seen, on the coarse clock. Time in which the process stood still moves it.
    since: u64,
}

impl Watch {
    fn run(mut self) {
        let mut pause = SHORTEST_LOOK;
        loop {
            thread::park_timeout(pause);
            if self.stops.load(Ordering::Acquire) {
                return;
            }
            let now = activity::coarse_now();
            self.woke_up(now, pause);
            let turn = self.turn(now);
            pause = self.look(turn);
            if turn.is_some() {
                self.idle_looks = 0;
                continue;
            }
            self.idle_looks += 1;
            if self.idle_looks == IDLE_LOOKS {
                activity::wake_me_at_the_next_turn();
            } else if self.idle_looks > IDLE_LOOKS {
                let has_begun = self.sleep_until_a_turn();
                self.looked = activity::coarse_now();
                if !has_begun {
                    pause = SHORTEST_LOOK;
                    continue;
                }
                self.idle_looks = 0;
                // The turn that has woken this thread begins now.
                self.stood_still = (self.looked, u64::MAX);
            }
        }
    }

    /// Sleeps until the next turn, which is to wake this thread, or until the end of the server. Returns false if a
    /// check has to look earlier.
    fn sleep_until_a_turn(&self) -> bool {
        let longest = self.checks.iter().filter_map(|check| check.longest_sleep()).min();
        let until = longest.map(|longest| Instant::now() + longest);
        while activity::will_be_woken() && !self.stops.load(Ordering::Acquire) {
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(left) if left.is_zero() => return false,
                Some(left) => thread::park_timeout(left),
            }
        }
        true
    }

    /// Has the checks look. Returns the time until the next look.
    fn look(&mut self, turn: Option<Turn>) -> Duration {
        let mut pause = LONGEST_LOOK;
        let mut jobs = Vec::new();
        for check in &mut self.checks {
            let Wishes { next, job } = check.look(turn);
            pause = next.map_or(pause, |next| next.clamp(SHORTEST_LOOK, pause));
            jobs.extend(job);
        }
        for job in jobs {
            self.send(job);
        }
        pause
    }

    /// The turn that runs at the time `now` of a look.
    fn turn(&mut self, now: u64) -> Option<Turn> {
        let activity = activity::activity();
        let first = match activity {
            Activity::Waits => {
                self.seen = None;
                return None;
            }
            Activity::Turns(begun) => self.beginning(begun),
            Activity::Polled(_) => now,
        };
        let known = self.seen.filter(|seen| seen.activity == activity);
        let seen = known.unwrap_or(SeenTurn { activity, since: first });
        self.seen = Some(seen);
        Some(Turn { activity, age: Duration::from_nanos(now.saturating_sub(seen.since)) })
    }

    /// Notes a look at the time `now` that came later than it was asked for: the process has stood still for that time.
    fn woke_up(&mut self, now: u64, pause: Duration) {
        let passed = Duration::from_nanos(now.saturating_sub(self.looked));
        self.looked = now;
        let late = passed.saturating_sub(pause);
        if late < LATE {
            return;
        }
        let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.stood_still = (now, late);
        if let Some(seen) = &mut self.seen {
            seen.since = seen.since.saturating_add(late);
        }
    }

    /// The beginning of a turn that is seen for the first time, without the time in which the process stood still.
    fn beginning(&self, begun: u64) -> u64 {
        let (until, late) = self.stood_still;
        if begun < until { begun.saturating_add(late).min(until) } else { begun }
    }

    /// Sends a job to the second thread, which is made now if it is the first job.
    fn send(&mut self, job: Job) {
        if self.sender.is_none() {
            let (sender, receiver) = mpsc::channel::<Job>();
            let stops = Arc::clone(&self.stops);
            let work = move || {
                while let Ok(job) = receiver.recv() {
                    if stops.load(Ordering::Acquire) {
                        return;
                    }
                    let asked = Instant::now();
                    // Without the interpreter, which is about to end, the job is lost.
                    let _ = Python::try_attach(|py| {
                        interp::wait_for_readers(py);
                        job(py, asked.elapsed());
                    });
                }
            };
            match thread::Builder::new().name("watchdog-python".into()).spawn(work) {
                Ok(thread) => *lock(&self.second) = Some(thread),
                // The next job tries again.
                Err(_) => return,
            }
            self.sender = Some(sender);
        }
        if let Some(sender) = &self.sender {
            let _ = sender.send(job);
        }
    }
}
