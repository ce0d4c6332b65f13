//! Leader and followers: the life of a unit.
//!
//! One unit at a time leads: it polls and runs ready work inline, on its own warm stack. When that work waits, the unit
//! hands leadership to an idle follower and parks. After the work, the unit is a follower itself.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::activity;
use super::budget;
use super::current;
use super::ends;
use super::poller;
use super::roles::{Host, LoopFigures, Service};
use super::runtime::Runtime;
use super::schedule::Step;
use super::state::{self, LoopState, Work, with};
use super::tokens::SourceId;
use super::unit::{Command, Unit};
use super::waiting;
use super::waits::{park, released};
use super::wake::Wake;
use crate::coroutine::{self, StackBounds};
use crate::output;

/// Delay before the next attempt to make a follower, after its stack found no memory.
const NO_FOLLOWER_RETRY: Duration = Duration::from_millis(50);

/// Time without a failed follower after which the next failure is logged again.
const EPISODE_END: Duration = Duration::from_secs(10);

/// Descriptors that must be free when a loop starts: the coroutine scheduler's epoll and eventfd, the loop's epoll and
/// timerfd, and a few for the first client and its request.
const FIRST_DESCRIPTORS: usize = 8;

impl Runtime {
    /// Starts a loop on the process's loop thread. Call it after any fork.
    ///
    /// # Errors
    /// Fails if there is no memory for the first stack or no descriptor left.
    pub fn start(host: Arc<dyn Host>) -> io::Result<Arc<Runtime>> {
        let runtime = Arc::new(Runtime::new()?);
        // Checked first: without spare descriptors the coroutine scheduler panics.
        let spare: io::Result<Vec<OwnedFd>> =
            (0..FIRST_DESCRIPTORS).map(|_| runtime.end_bell().try_clone_to_owned()).collect();
        drop(spare.map_err(cannot_start)?);
        spawn_first(host, Arc::clone(&runtime))?;
        Ok(runtime)
    }
}

/// Starts the first unit of a loop, which leads.
///
/// # Errors
/// Fails if there is no memory for the unit's stack.
fn spawn_first(host: Arc<dyn Host>, runtime: Arc<Runtime>) -> io::Result<()> {
    coroutine::remember_handlers();
    let body = move || {
        coroutine::install_overflow_handler();
        coroutine::measure_parking();
        activity::begin();
        waiting::begin();
        match LoopState::new(Arc::clone(&host), Arc::clone(&runtime)) {
            Ok(mut state) => {
                let unit = Unit::new(state.units.vacant_key(), host);
                unit.command.set(Some(Command::Lead));
                state.leader = unit.slot;
                state.units.insert(Rc::clone(&unit));
                state::install(Some(state));
                live(&unit);
            }
            Err(error) => {
                activity::end();
                runtime.ended(Err(cannot_start(error)));
            }
        }
    };
    coroutine::spawn(Box::new(body))
}

/// Adds the remedy to an error that keeps a loop from starting.
fn cannot_start(error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("the loop cannot start: {error}. Raise the limit of open files (ulimit -n) or of memory"),
    )
}

/// Spawns a follower, which counts as idle at once.
#[inline(never)]
fn spawn_follower() -> io::Result<()> {
    let Some((slot, host)) = with(|state| (state.units.vacant_key(), Arc::clone(&state.host))) else {
        return Ok(());
    };
    let unit = Unit::new(slot, host);
    let carrier = Carrier(Rc::clone(&unit));
    coroutine::spawn(Box::new(move || {
        let Carrier(unit) = { carrier };
        live(&unit);
    }))?;
    with(|state| {
        state.units.insert(Rc::clone(&unit));
        state.idle.insert(0, unit);
    });
    Ok(())
}

/// Ensures that a coroutine spawned now can start, for a caller that parks until it has started.
///
/// # Errors
/// OutOfMemory if there is no room for the coroutine's stack.
pub fn make_room() -> io::Result<()> {
    // While the caller waits, one follower leads and needs a second one to run the task.
    while with(|state| state.idle.len()).is_some_and(|idle| idle < 2) {
        spawn_follower()?;
    }
    Ok(())
}

/// Carries a unit into its coroutine's closure.
struct Carrier(Rc<Unit>);

#[expect(unsafe_code, reason = "may asks for Send, and a unit never leaves the loop thread")]
// SAFETY: with one worker every coroutine runs on the thread that spawns followers, the loop thread. One thread alone
// touches the Rc's count.
unsafe impl Send for Carrier {}

/// Runs a unit from its first instruction to its last.
fn live(unit: &Rc<Unit>) {
    unit.parking.begin(StackBounds::of_caller(coroutine::stack_bytes()));
    current::set_current(Some(unit));
    let lived = catch_unwind(AssertUnwindSafe(|| unit.host.enter(&mut || follow(unit))));
    if lived.is_err() {
        // The panic's message is on stderr already. The state after a panic cannot be trusted.
        output::say("internal error in a coroutine; the process ends");
        std::process::abort();
    }
    leave(unit);
    unit.parking.end();
}

/// Takes a unit out of the loop. The last one ends the loop.
///
/// Not part of its caller: frames that coroutines wait in should be small.
#[inline(never)]
fn leave(unit: &Rc<Unit>) {
    let over = with(|state| {
        state.units.try_remove(unit.slot);
        unit.record.leave();
        state.idle.retain(|idle| !Rc::ptr_eq(idle, unit));
        if state.ending
            && state.units.len() == 1
            && let Some(leader) = state.units.get(state.leader)
        {
            leader.unpark();
        }
        state.units.is_empty().then(|| Arc::clone(&state.runtime))
    });
    current::set_current(None);
    // The leader goes last: the host holds nothing any more when the end is announced.
    if let Some(runtime) = over.flatten() {
        state::install(None);
        activity::end();
        runtime.ended(Ok(()));
    }
}

/// Obeys commands, and parks between two commands.
fn follow(unit: &Rc<Unit>) {
    loop {
        match unit.command.take() {
            Some(Command::Lead) => {
                if lead(unit) == Lead::Ended {
                    return;
                }
                with(|state| state.idle.push(Rc::clone(unit)));
            }
            Some(Command::End) => return,
            None => park(unit),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Lead {
    /// The work waited, and another unit leads now.
    HandedOver,
    /// The loop is over.
    Ended,
}

/// Polls and runs work until leadership is lost or the loop ends.
fn lead(unit: &Rc<Unit>) -> Lead {
    // Coroutines that keep waking each other must not starve the poll: the leader takes a step between two yields.
    let mut may_yield = true;
    loop {
        let step = with(|state| state.next_step(may_yield)).unwrap_or(Step::End);
        may_yield = !matches!(step, Step::Yield);
        if !matches!(step, Step::Run(Work::Serve(..), _))
            && let Some(action) = current::take_before_wait()
        {
            action();
        }
        match step {
            Step::Yield => {
                released(unit, coroutine::yield_now);
                current::set_current(Some(unit));
            }
            Step::Control(controls) => controls.into_iter().for_each(|control| control()),
            Step::MakeFollower => make_follower(),
            Step::Run(work, service) => {
                if run(unit, work, service) == Some(true) {
                    return Lead::HandedOver;
                }
            }
            Step::Poll => poll(unit),
            Step::End => {
                ends::forget_waiting();
                end_followers(unit);
                drop(with(|state| state.service.take()));
                return Lead::Ended;
            }
        }
    }
}

#[inline(never)]
fn make_follower() {
    let made = spawn_follower();
    with(|state| state.follower_made(made.err().as_ref()));
}

/// Runs a piece of work. Returns whether another unit leads afterwards.
fn run(unit: &Rc<Unit>, work: Work, service: Option<Rc<dyn Service>>) -> Option<bool> {
    let begun = budget::begin();
    with(|state| state.begin_work(unit, begun));
    unit.busy.set(true);
    unit.may_park.set(true);
    let mut requests = 0;
    match work {
        Work::Task(task) => {
            if with(|state| state.ending) == Some(true) {
                unit.killed.set(true);
                unit.postponed.set(Some(Wake::Killed));
            }
            task();
        }
        Work::Watch(source) => {
            look_in_a_row(unit, source);
        }
        Work::Resume(ticket) => {
            with(|state| state.wake(ticket, Wake::Ready));
        }
        Work::Serve(source, owner) => {
            requests = 1;
            unit.awaited.set(true);
            unit.is_request.set(true);
            if let Some(service) = service {
                service.serve(source, owner);
            }
        }
        Work::Expired(source, owner) => {
            if let Some(service) = service {
                service.expired(source, owner);
            }
        }
    }
    drop(unit.local.take());
    unit.record.end();
    unit.may_park.set(false);
    unit.busy.set(false);
    unit.killed.set(false);
    unit.awaited.set(false);
    unit.is_request.set(false);
    unit.postponed.set(None);
    unit.alarms.borrow_mut().clear();
    with(|state| {
        state.busy_requests -= requests;
        state.leader != unit.slot
    })
}

/// Calls the watcher of `source`, and those that follow in a row. A call costs less there than as a piece of work of its
/// own. The row ends when a call has waited, so that another unit leads.
// Not part of its caller: frames that coroutines wait in should be small.
#[inline(never)]
fn look_in_a_row(unit: &Rc<Unit>, source: SourceId) {
    // A row is short, and a look at the precise clock is not cheap.
    let now = Instant::now();
    let mut next = Some(source);
    while let Some(source) = next {
        if let Some(watcher) = with(|state| state.begin_watching(source)).flatten() {
            watcher.look(now);
        }
        budget::begin();
        next = with(|state| state.next_of_row(unit.slot)).flatten();
    }
}

/// Waits once for events, and turns them into work.
///
/// Not part of its caller: frames that coroutines wait in should be small.
#[inline(never)]
fn poll(unit: &Unit) {
    tell_service_of_the_cap();
    if let Some(service) = with(|state| state.service.clone()).flatten() {
        service.before_poll();
    }
    let Some((epoll, patience, pulse, mut events)) = with(|state| {
        state.register_fresh();
        state.look_for_burst();
        let mut deadline = state.timers.next();
        for at in [state.trim_idle(), state.retry_follower].into_iter().flatten() {
            deadline = Some(deadline.map_or(at, |first| first.min(at)));
        }
        let resumed = std::mem::take(&mut state.after_poll);
        // With work to run, the leader polls without waiting.
        let has_more = state.woken > 0 || !resumed.is_empty() || state.has_cut_off() || state.may_take_work();
        state.tasks.extend(resumed.into_iter().map(Work::Resume));
        let patience = if has_more { Some(Duration::ZERO) } else { state.poller.patience(deadline) };
        let pulse = state.pulse.clone().map(|pulse| (pulse, state.figures()));
        (state.poller.descriptor(), patience, pulse, std::mem::take(&mut state.events))
    }) else {
        return;
    };
    let may_wait = patience != Some(Duration::ZERO);
    released(unit, || {
        if may_wait {
            activity::note_wait();
            if let Some((pulse, figures)) = &pulse {
                pulse.waits(figures);
            }
        }
        if let Err(error) = poller::wait(&epoll, &mut events, patience) {
            output::say(&format!("epoll_wait fails: {error}; the process ends"));
            std::process::abort();
        }
        // Before the interpreter comes back, which may take long.
        activity::note_poll();
        activity::note_time_of_poll();
        if let Some((pulse, figures)) = &pulse {
            pulse.turns(figures);
        }
    });
    if let Some((pulse, _)) = &pulse {
        pulse.resumes();
    }
    with(|state| {
        let alarmed = state.take_events(&events);
        state.events = events;
        // After a wait without a limit, no deadline has passed unless the alarm went off.
        if alarmed || patience.is_some() {
            let now = Instant::now();
            state.take_expired(now);
            state.retry_follower = state.retry_follower.filter(|&at| at > now);
        }
        state.begin_round();
    });
}

impl LoopState {
    /// Registers new streams. Those that epoll refuses end, and the first one of an episode is logged.
    fn register_fresh(&mut self) {
        let Some((events, error)) = self.poller.register_fresh() else { return };
        let now = Instant::now();
        if self.last_refusal.replace(now).is_none_or(|last| now.duration_since(last) > EPISODE_END) {
            output::say(&format!(
                "connections are closed, since epoll does not take them: {error}. Look at fs.epoll.max_user_watches and \
                 at the machine's memory."
            ));
        }
        self.take_events(&events);
    }
}

/// Notifies the service when the cap is reached or left. At the cap, and without room for a follower, new connections
/// stay in the kernel's queue for other processes.
fn tell_service_of_the_cap() {
    let change = with(|state| {
        let at_cap = state.busy_requests >= state.request_limit || state.retry_follower.is_some();
        let service = (at_cap != state.paused).then(|| state.service.clone()).flatten();
        state.paused = at_cap;
        service.map(|service| (service, at_cap))
    });
    if let Some((service, at_cap)) = change.flatten() {
        service.at_capacity(at_cap);
    }
}

/// Ends every idle unit and parks until all are gone: a new unit starts only when nothing else is runnable. The last
/// unit to go wakes the leader (in [`live`]).
#[inline(never)]
fn end_followers(leader: &Rc<Unit>) {
    loop {
        let left = with(|state| {
            for unit in state.idle.drain(..) {
                unit.command.set(Some(Command::End));
                unit.unpark();
            }
            state.units.len()
        });
        if left.is_none_or(|left| left <= 1) {
            return;
        }
        park(leader);
    }
}

impl LoopState {
    /// The numbers of the loop at a poll. The unit that polls does not count.
    fn figures(&self) -> LoopFigures {
        let idle = self.idle.len();
        LoopFigures { busy: self.units.len().saturating_sub(idle + 1), idle, parks: current::number_of_parks() }
    }

    /// Records a failed attempt to make a follower. Work that needs a follower then waits for [`NO_FOLLOWER_RETRY`].
    /// The first failure of an episode is logged.
    fn follower_made(&mut self, failure: Option<&io::Error>) {
        let Some(error) = failure else { return };
        let now = Instant::now();
        let is_new = self.last_follower_failure.is_none_or(|last| now.duration_since(last) > EPISODE_END);
        self.last_follower_failure = Some(now);
        self.retry_follower = Some(now + NO_FOLLOWER_RETRY);
        if is_new {
            output::say(&format!(
                "there is no room for the stack of another coroutine: {error}. New requests and coroutines wait until \
                 others end."
            ));
        }
    }
}
