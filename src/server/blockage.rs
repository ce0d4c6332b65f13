//! The watchdog's check of the loop itself: a turn that lasts longer than `block_warning` is reported, with its kind.
//!
//! Before a limit is reached, the loop's thread is looked at a few times. The watchdog's second thread then asks for the
//! interpreter. Together they tell the kinds of blockage apart:
//!
//! | the interpreter    | the loop's thread                 | kind                                       |
//! |--------------------|-----------------------------------|--------------------------------------------|
//! | comes              | waits all the time                | a call that waits without parking          |
//! | is free            | runs                              | C code that has released the interpreter   |
//! | comes              | runs                              | Python code                                |
//! | does not come      | waits for it, again and again     | C code of another thread holds it          |
//! | does not come      | runs, or waits in one call        | C code of the loop's thread holds it       |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::blockage_report::{BlockageKind, Look, Reported, Reporter};
use super::watchdog::{Check, Job, Turn, Wishes};
use crate::event_loop::activity::{self, Activity};
use crate::kernel::{SystemCall, ThreadState};

/// The length of a turn of an unpatched program from which a wait is pointed out, once.
const HINT: Duration = Duration::from_millis(200);

/// The least number of looks in the time of a limit.
const LOOKS: u32 = 4;

/// The number of limits after which the stacks of all coroutines are written.
const STUCK_LIMITS: u32 = 10;

/// The time before a limit in which the loop's thread is looked at.
const SAMPLING: Duration = Duration::from_millis(60);

/// The time between two looks at the thread.
const SAMPLE: Duration = Duration::from_millis(12);

/// Looks at the thread that make a judgement.
const SAMPLES: usize = 4;

/// How long the interpreter may take to come. Python code lets it go after 5 ms (`sys.setswitchinterval`).
const INTERPRETER_PATIENCE: Duration = Duration::from_millis(150);

/// How long the report may take once the interpreter has come: a handler of the log may wait.
const LOG_PATIENCE: Duration = Duration::from_millis(120);

/// An interpreter that comes within this time was free.
const FREE: Duration = Duration::from_millis(2);

/// The time between two looks at a turn that was reported, so that its end is known well.
const REPORTED_LOOK: Duration = Duration::from_millis(50);

/// The check.
pub struct Blockages {
    limit: Duration,
    /// A wait of this unpatched program is still to be pointed out.
    hints: Arc<AtomicBool>,
    reporter: Arc<Reporter>,
    episode: Option<BlockedTurn>,
}

/// A turn that may become a blockage.
struct BlockedTurn {
    activity: Activity,
    age: Duration,
    stage: BlockageStage,
    samples: Vec<Sample>,
    question: Option<Arc<AskedReport>>,
    /// Written by the threads that report.
    reported: Arc<Reported>,
}

/// The next thing to do about a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockageStage {
    /// To point out a wait of an unpatched program.
    Hint,
    /// To report the blockage.
    Warning,
    /// To write all stacks.
    Stuck,
    /// Nothing.
    Done,
}

/// A look at the loop's thread.
#[derive(Clone, Copy)]
struct Sample {
    state: ThreadState,
    call: Option<SystemCall>,
}

/// The conduct of the loop's thread over a few looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Runs,
    /// It waits in one call all the time.
    Waits(Option<SystemCall>),
    /// It waits again and again for short times, as for the interpreter.
    Contends,
    /// It waits again and again in other calls.
    Mixed,
}

/// A report that the second thread was asked for.
struct AskedReport {
    stage: BlockageStage,
    asked: Instant,
    /// How long the interpreter took to come, in nanoseconds plus one; 0 while it has not come.
    came: AtomicU64,
    is_done: AtomicBool,
    /// The first thread has reported by itself.
    is_answered: AtomicBool,
}

impl Blockages {
    /// A check with this limit. With `hints` the first wait of an unpatched program is pointed out.
    pub fn new(limit: Duration, hints: bool, reporter: Arc<Reporter>) -> Blockages {
        Blockages { limit, hints: Arc::new(AtomicBool::new(hints)), reporter, episode: None }
    }

    /// The end of an episode, if there is one.
    fn end(&mut self) -> Option<Job> {
        let episode = self.episode.take()?;
        let reporter = Arc::clone(&self.reporter);
        let BlockedTurn { age, reported, .. } = episode;
        reported.is_reported().then(|| -> Job { Box::new(move |py, _| reporter.ended(py, &reported, age)) })
    }

    fn limit_of(&self, stage: BlockageStage) -> Option<Duration> {
        match stage {
            BlockageStage::Hint => Some(HINT.min(self.limit)),
            BlockageStage::Warning => Some(self.limit),
            BlockageStage::Stuck => Some(self.limit.saturating_mul(STUCK_LIMITS)),
            BlockageStage::Done => None,
        }
    }

    /// Looks at a turn that goes on.
    fn look_at(&mut self, turn: Turn) -> Wishes {
        let hints = self.hints.load(Ordering::Relaxed) && HINT < self.limit;
        let mut episode = self.episode.take().unwrap_or_else(|| BlockedTurn::new(turn.activity, hints));
        episode.age = turn.age;
        let wishes = self.go_on(&mut episode);
        self.episode = Some(episode);
        wishes
    }

    fn go_on(&self, episode: &mut BlockedTurn) -> Wishes {
        if let Some(question) = episode.question.clone() {
            episode.sample();
            if self.is_over(episode, &question) {
                episode.question = None;
                episode.samples.clear();
            }
            return Wishes { next: Some(SAMPLE), job: None };
        }
        let Some(limit) = self.limit_of(episode.stage) else {
            return Wishes { next: Some(REPORTED_LOOK), job: None };
        };
        let left = limit.saturating_sub(episode.age);
        if left > SAMPLING {
            let most = if episode.reported.is_reported() { REPORTED_LOOK } else { Duration::MAX };
            return Wishes { next: Some((left - SAMPLING).min(most)), job: None };
        }
        episode.sample();
        if !left.is_zero() || episode.samples.len() < SAMPLES {
            return Wishes { next: Some(if left.is_zero() { SAMPLE } else { left.min(SAMPLE) }), job: None };
        }
        Wishes { next: Some(SAMPLE), job: self.ask(episode) }
    }

    /// Asks the second thread for a report, and moves on to the next stage.
    fn ask(&self, episode: &mut BlockedTurn) -> Option<Job> {
        let conduct = episode.conduct();
        let stage = episode.stage;
        episode.stage = match stage {
            BlockageStage::Hint => BlockageStage::Warning,
            BlockageStage::Warning => BlockageStage::Stuck,
            BlockageStage::Stuck | BlockageStage::Done => BlockageStage::Done,
        };
        let (activity, age) = (episode.activity, episode.age);
        let reporter = Arc::clone(&self.reporter);
        if stage == BlockageStage::Hint {
            episode.samples.clear();
            let hints = Arc::clone(&self.hints);
            return matches!(conduct, Conduct::Waits(_)).then(|| -> Job {
                Box::new(move |py, came| {
                    let is_same = activity::activity() == activity && came < INTERPRETER_PATIENCE;
                    if is_same && hints.load(Ordering::Relaxed) && reporter.hint(py, age) {
                        hints.store(false, Ordering::Relaxed);
                    }
                })
            });
        }
        let question = Arc::new(AskedReport::new(stage));
        episode.question = Some(Arc::clone(&question));
        let reported = Arc::clone(&episode.reported);
        Some(Box::new(move |py, came| {
            let nanoseconds = u64::try_from(came.as_nanos()).unwrap_or(u64::MAX);
            question.came.store(nanoseconds.saturating_add(1), Ordering::Release);
            answer(py, &question, &reporter, &reported, (activity, conduct, age, came));
            question.is_done.store(true, Ordering::Release);
        }))
    }

    /// Whether a question needs no more attention. Without the interpreter, the first thread reports by itself.
    fn is_over(&self, episode: &BlockedTurn, question: &AskedReport) -> bool {
        if question.is_done.load(Ordering::Acquire) {
            return true;
        }
        let has_come = question.came.load(Ordering::Acquire) > 0;
        let patience = if has_come { INTERPRETER_PATIENCE + LOG_PATIENCE } else { INTERPRETER_PATIENCE };
        if question.asked.elapsed() < patience || question.is_answered.swap(true, Ordering::AcqRel) {
            return false;
        }
        let conduct = episode.conduct();
        let call = if let Conduct::Waits(call) = conduct { call } else { None };
        if question.stage == BlockageStage::Stuck {
            self.reporter.stuck_alone(&episode.reported, episode.age);
            return true;
        }
        let kind = match conduct {
            _ if has_come => kind_of(conduct, INTERPRETER_PATIENCE),
            Conduct::Contends => BlockageKind::Thread,
            _ => BlockageKind::Holds,
        };
        // A handler of a signal would cut some calls short, so a thread that waits in one gets none.
        let look = match conduct {
            _ if has_come => Look::None,
            Conduct::Runs => Look::Running,
            Conduct::Waits(Some(call)) if call.is_restarted() => Look::Running,
            Conduct::Waits(_) => Look::Waiting,
            Conduct::Contends => Look::Others,
            Conduct::Mixed => Look::None,
        };
        self.reporter.blocked_alone(&episode.reported, episode.age, kind, call, look);
        true
    }
}

impl Check for Blockages {
    fn look(&mut self, turn: Option<Turn>) -> Wishes {
        let is_same = |episode: &BlockedTurn| turn.is_some_and(|turn| turn.activity == episode.activity);
        if self.episode.as_ref().is_some_and(|episode| !is_same(episode))
            && let Some(job) = self.end()
        {
            return Wishes { next: Some(Duration::ZERO), job: Some(job) };
        }
        let wishes = turn.map_or_else(Wishes::default, |turn| self.look_at(turn));
        // A loop that waits for the interpreter does not say since when.
        let most = self.limit / LOOKS;
        Wishes { next: Some(wishes.next.map_or(most, |next| next.min(most))), ..wishes }
    }
}

/// The report of the second thread, which has got the interpreter.
fn answer(
    py: Python<'_>,
    question: &AskedReport,
    reporter: &Reporter,
    reported: &Reported,
    (activity, conduct, age, came): (Activity, Conduct, Duration, Duration),
) {
    if activity::activity() != activity {
        return;
    }
    let age = age + came;
    let is_late = question.is_answered.swap(true, Ordering::AcqRel);
    match (question.stage, is_late) {
        (BlockageStage::Stuck, false) => reporter.stuck(py, reported, age),
        (BlockageStage::Stuck, true) => {}
        (_, true) => reporter.let_go(py, reported, age),
        (_, false) => {
            let call = if let Conduct::Waits(call) = conduct { call } else { None };
            reporter.blocked(py, reported, age, kind_of(conduct, came), call);
        }
    }
}

/// The kind of a blockage during which the interpreter came after `came`.
fn kind_of(conduct: Conduct, came: Duration) -> BlockageKind {
    match conduct {
        Conduct::Waits(_) => BlockageKind::Waits,
        Conduct::Runs | Conduct::Mixed if came < FREE => BlockageKind::Computes,
        _ => BlockageKind::Python,
    }
}

impl BlockedTurn {
    fn new(activity: Activity, hints: bool) -> BlockedTurn {
        BlockedTurn {
            activity,
            age: Duration::ZERO,
            stage: if hints { BlockageStage::Hint } else { BlockageStage::Warning },
            samples: Vec::new(),
            question: None,
            reported: Arc::default(),
        }
    }

    /// Looks at the loop's thread.
    fn sample(&mut self) {
        let state = activity::loop_thread().and_then(|thread| Some((thread, ThreadState::of(thread)?)));
        if let Some((thread, state)) = state {
            let call = if state.is_running { None } else { SystemCall::of(thread) };
            self.samples.push(Sample { state, call });
        }
    }

    /// The conduct of the loop's thread in the last looks.
    fn conduct(&self) -> Conduct {
        let last = self.samples.get(self.samples.len().saturating_sub(SAMPLES)..).unwrap_or_default();
        conduct_of(last)
    }
}

fn conduct_of(samples: &[Sample]) -> Conduct {
    let Some(first) = samples.first() else { return Conduct::Runs };
    let running = samples.iter().filter(|sample| sample.state.is_running).count();
    if running == 0 && samples.iter().all(|sample| sample.state.waits == first.state.waits) {
        return Conduct::Waits(first.call);
    }
    let waiting = samples.len() - running;
    let futexes = samples.iter().filter(|sample| sample.call.and_then(SystemCall::name) == Some("futex")).count();
    // A thread that waits for the interpreter does so for 5 ms at a time. On a busy machine it then waits for a
    // processor for longer, and seems to run. Code that computes does not wait at all.
    let has_waited_each_time = samples.is_sorted_by(|one, next| one.state.waits < next.state.waits);
    if has_waited_each_time && samples.len() > 1 && futexes * 2 >= waiting {
        return Conduct::Contends;
    }
    if running * 2 >= samples.len() { Conduct::Runs } else { Conduct::Mixed }
}

impl AskedReport {
    fn new(stage: BlockageStage) -> AskedReport {
        AskedReport {
            stage,
            asked: Instant::now(),
            came: AtomicU64::new(0),
            is_done: AtomicBool::new(false),
            is_answered: AtomicBool::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(is_running: bool, waits: u64, call: i64) -> Sample {
        let call = (!is_running).then_some(SystemCall { number: call, first: 0 });
        Sample { state: ThreadState { is_running, waits: Some(waits) }, call }
    }

    #[test]
    fn the_conduct_of_a_thread_follows_from_a_few_looks() {
        let sleep = libc::SYS_clock_nanosleep;
        let waits = conduct_of(&[sample(false, 7, sleep); 4]);
        assert_eq!(waits, Conduct::Waits(Some(SystemCall { number: sleep, first: 0 })));
        let contends: Vec<Sample> = (0..4).map(|count| sample(false, count, libc::SYS_futex)).collect();
        assert_eq!(conduct_of(&contends), Conduct::Contends);
        let on_a_busy_machine: Vec<Sample> = (0..4).map(|count| sample(true, count, 0)).collect();
        assert_eq!(conduct_of(&on_a_busy_machine), Conduct::Contends);
        let mixed: Vec<Sample> = (0..4).map(|count| sample(false, count, libc::SYS_read)).collect();
        assert_eq!(conduct_of(&mixed), Conduct::Mixed);
        assert_eq!(conduct_of(&[sample(true, 7, 0), sample(false, 7, 0), sample(true, 7, 0)]), Conduct::Runs);
        assert_eq!(conduct_of(&[]), Conduct::Runs);
    }

    #[test]
    fn the_kind_follows_from_the_conduct_and_the_interpreter() {
        let (soon, later) = (Duration::from_micros(100), Duration::from_millis(8));
        for (conduct, came, kind) in [
            (Conduct::Waits(None), soon, BlockageKind::Waits),
            (Conduct::Waits(None), later, BlockageKind::Waits),
            (Conduct::Runs, soon, BlockageKind::Computes),
            (Conduct::Runs, later, BlockageKind::Python),
            (Conduct::Contends, later, BlockageKind::Python),
            (Conduct::Mixed, later, BlockageKind::Python),
        ] {
            assert_eq!(kind_of(conduct, came), kind);
        }
    }
}
