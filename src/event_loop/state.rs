//! The loop's state: one per process, on the loop thread, borrowed only for moments and never across a park.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::current;
use super::inbox::LoopMessage;
use super::poller::{Notice, Poller};
use super::roles::{Host, Service, StreamWatcher};
use super::runtime::Runtime;
use super::timers::{Target, Timers};
use super::tokens::{SourceId, Ticket, WorkId};
use super::unit::{Command, Unit};
use super::wake::Wake;

/// Idle units kept whatever happens: enough for the ordinary ups and downs of a small site.
const IDLE_UNITS_KEPT: usize = 16;

/// How often spare idle units are looked for. Only while there are more than [`IDLE_UNITS_KEPT`].
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Work for a unit.
pub enum Work {
    /// A stream or listener of the service's has something to read.
    Serve(SourceId, usize),
    /// A source's deadline has passed.
    Expired(SourceId, usize),
    /// Something has happened to a source that has a watcher.
    Watch(SourceId),
    /// A function to run.
    Task(Box<dyn FnOnce()>),
    /// A wait for the next poll ends: after the tasks that were queued before that poll.
    Resume(Ticket),
}

/// Everything the leader looks after.
pub struct LoopState {
    /// The process whose loop it is.
    pub process: rustix::process::Pid,
    pub host: Arc<dyn Host>,
    pub runtime: Arc<Runtime>,
    pub service: Option<Rc<dyn Service>>,
    pub poller: Poller,
    pub timers: Timers,
    pub units: Slab<Rc<Unit>>,
    /// Idle units, the one used last on top: its stack is warm.
    pub idle: Vec<Rc<Unit>>,
    /// The slot of the unit that polls.
    pub leader: usize,
    /// Work that the cap does not hold back.
    pub tasks: VecDeque<Work>,
    /// Requests and connections: taken only below the cap.
    pub requests: VecDeque<Work>,
    /// Requests in progress, parked ones included.
    pub busy_requests: usize,
    /// The cap on `busy_requests`.
    pub request_limit: usize,
    /// The service leaves new connections alone.
    pub paused: bool,
    /// Waits for the next poll: `sleep(0)`.
    pub after_poll: Vec<Ticket>,
    /// Turns that were cut off. They go on after all other work, for one budget between two polls.
    pub later: VecDeque<Work>,
    /// Pieces of `later` to run before the next poll.
    pub later_budget: usize,
    /// When, on the coarse clock of [`turn`](super::turn), the time for `later` is up; none before the first piece of it.
    pub later_end: Option<u64>,
    /// Coroutines made runnable since the leader last let them run.
    pub woken: usize,
    /// Pieces of work to run before the next poll.
    pub budget: usize,
    /// Functions for the leader to run before it takes work.
    pub controls: Vec<Box<dyn FnOnce() + Send>>,
    /// No follower could be made: when to try again.
    pub retry_follower: Option<Instant>,
    /// When that was so last.
    pub last_follower_failure: Option<Instant>,
    /// The loop ends when the last busy unit has ended.
    pub ending: bool,
    /// It ends without those that still wait.
    pub leaving: bool,
    ticket_number: u64,
    work_number: u64,
    idle_low_water: usize,
    next_trim: Option<Instant>,
}

thread_local! {
    static STATE: RefCell<Option<LoopState>> = const { RefCell::new(None) };
    /// There is a state on this thread. Needs no destructor, so it can be asked for at any time of a thread's life.
    static HERE: Cell<bool> = const { Cell::new(false) };
    static FORGOTTEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `action` on the loop's state. `None` on any other thread.
///
/// # Panics
/// When called from within another `with`: a bug, since no action calls out.
pub fn with<R>(action: impl FnOnce(&mut LoopState) -> R) -> Option<R> {
    STATE.with(|state| state.borrow_mut().as_mut().map(action))
}

/// Whether this is the loop's thread.
pub fn is_here() -> bool {
    HERE.get()
}

/// Puts a new state in place, or takes it away.
pub fn install(state: Option<LoopState>) {
    HERE.set(state.is_some());
    // Dropped outside the borrow: streams that are dropped look for the state.
    let previous = STATE.with(|slot| slot.replace(state));
    drop(previous);
}

/// Takes the state away without giving anything back: descriptors and stacks are shared with another process.
pub fn forget() {
    current::forget();
    FORGOTTEN.with(|forgotten| forgotten.set(with(|_| ()).is_some()));
    HERE.set(false);
    std::mem::forget(STATE.with(|slot| slot.borrow_mut().take()));
}

/// Whether the state was taken away by [`forget`].
pub fn is_forgotten() -> bool {
    FORGOTTEN.with(Cell::get)
}

impl LoopState {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(host: Arc<dyn Host>, runtime: Arc<Runtime>) -> io::Result<LoopState> {
        let poller = Poller::new(runtime.inbox.bell())?;
        Ok(LoopState {
            process: rustix::process::getpid(),
            host,
            runtime,
            service: None,
            poller,
            timers: Timers::default(),
            units: Slab::new(),
            idle: Vec::new(),
            leader: 0,
            tasks: VecDeque::new(),
            requests: VecDeque::new(),
            busy_requests: 0,
            request_limit: usize::MAX,
            paused: false,
            after_poll: Vec::new(),
            later: VecDeque::new(),
            later_budget: 0,
            later_end: None,
            woken: 0,
            budget: 0,
            controls: Vec::new(),
            retry_follower: None,
            last_follower_failure: None,
            ending: false,
            leaving: false,
            ticket_number: 0,
            work_number: 0,
            idle_low_water: 0,
            next_trim: None,
        })
    }

    /// Opens a wait of `unit`'s.
    pub fn open_wait(&mut self, unit: &Unit) -> Ticket {
        self.ticket_number += 1;
        unit.waiting.set(self.ticket_number);
        unit.wake.set(None);
        Ticket { unit: unit.slot, number: self.ticket_number }
    }

    /// Ends a wait, if it is still open.
    pub fn wake(&mut self, ticket: Ticket, wake: Wake) {
        let Some(unit) = self.units.get(ticket.unit) else { return };
        if unit.waiting.get() != ticket.number || unit.wake.get().is_some() || self.leaving {
            return;
        }
        unit.wake.set(Some(wake));
        unit.unpark();
        self.woken += 1;
    }

    /// Ends every wait on a descriptor of the application's.
    pub fn end_waits(&mut self, number: std::os::fd::RawFd, wake: Wake) {
        for ticket in self.poller.take_waits(number) {
            self.wake(ticket, wake);
        }
    }

    /// Notes that `unit` begins a piece of work.
    pub fn begin_work(&mut self, unit: &Unit) {
        self.work_number += 1;
        unit.work.set(self.work_number);
    }

    /// The unit that runs `work`, if that has not ended.
    pub fn unit_of(&self, work: WorkId) -> Option<&Rc<Unit>> {
        self.units.get(work.unit).filter(|unit| unit.busy.get() && unit.work.get() == work.number)
    }

    /// Ends the wait that `work` is in; in none, its next one ends at once.
    pub fn interrupt(&mut self, work: WorkId) {
        let Some(unit) = self.unit_of(work) else { return };
        let ticket = Ticket { unit: work.unit, number: unit.waiting.get() };
        if ticket.number == 0 || unit.wake.get().is_some() {
            unit.postponed.set(Some(Wake::Interrupted));
        } else {
            self.wake(ticket, Wake::Interrupted);
        }
    }

    fn alarm(&mut self, work: WorkId, number: u64) {
        if let Some(unit) = self.unit_of(work) {
            unit.alarms.borrow_mut().push(number);
            self.interrupt(work);
        }
    }

    /// Units that run work, parked ones included.
    pub fn busy_units(&self) -> usize {
        self.units.iter().filter(|(_, unit)| unit.busy.get()).count()
    }

    /// Sets or moves the deadline of a source at rest. Cheap when it moves later: the entry is moved when it fires.
    pub fn set_deadline(&mut self, id: SourceId, deadline: Option<Instant>) {
        let Some(source) = self.poller.source(id) else { return };
        source.deadline = deadline;
        let Some(at) = deadline else { return };
        match source.armed {
            Some(key) if key.at() <= at => return,
            Some(key) => self.timers.remove(key),
            None => {}
        }
        source.armed = Some(self.timers.insert(at, Target::Source(id)));
    }

    /// Gives a source a watcher, and queues a call of it, or takes it away. Returns the one before.
    pub fn set_stream_watcher(
        &mut self,
        id: SourceId,
        watcher: Option<Arc<dyn StreamWatcher>>,
    ) -> Option<Arc<dyn StreamWatcher>> {
        let source = self.poller.source(id)?;
        if watcher.is_some() && !std::mem::replace(&mut source.is_watch_queued, true) {
            self.tasks.push_back(Work::Watch(id));
        }
        std::mem::replace(&mut source.watcher, watcher)
    }

    /// Calls a source's watcher after what is ready now, unless it is going to be called.
    pub fn watch_soon(&mut self, id: SourceId) {
        if self.announce_watch(id) {
            self.tasks.push_back(Work::Watch(id));
        }
    }

    /// Calls a source's watcher after all others, unless it is going to be called.
    pub fn watch_later(&mut self, id: SourceId) {
        if self.announce_watch(id) {
            self.later.push_back(Work::Watch(id));
        }
    }

    fn announce_watch(&mut self, id: SourceId) -> bool {
        self.poller
            .source(id)
            .is_some_and(|source| source.watcher.is_some() && !std::mem::replace(&mut source.is_watch_queued, true))
    }

    /// The watcher of a source, for a call that covers all events so far.
    pub fn begin_watching(&mut self, id: SourceId) -> Option<Arc<dyn StreamWatcher>> {
        let source = self.poller.source(id)?;
        source.is_watch_queued = false;
        source.watcher.clone()
    }

    /// Forgets a source of the service's.
    pub fn remove_source(&mut self, id: SourceId, descriptor: Option<std::os::fd::BorrowedFd<'_>>) {
        let (waits, armed) = self.poller.remove(id, descriptor);
        if let Some(key) = armed {
            self.timers.remove(key);
        }
        for ticket in waits {
            self.wake(ticket, Wake::Closed);
        }
    }

    /// Turns a batch of events into wake-ups and work. Returns whether the alarm went off.
    pub fn take_events(&mut self, events: &[rustix::event::epoll::Event]) -> bool {
        let mut wakes = Vec::new();
        let (mut rung, mut alarmed) = (false, false);
        let (requests, tasks) = (&mut self.requests, &mut self.tasks);
        self.poller.sort(events, |notice| match notice {
            Notice::Wake(ticket) => wakes.push(ticket),
            Notice::Serve(id, owner) => requests.push_back(Work::Serve(id, owner)),
            Notice::Watch(id) => tasks.push_back(Work::Watch(id)),
            Notice::Inbox => rung = true,
            Notice::Alarm => alarmed = true,
        });
        for ticket in wakes {
            self.wake(ticket, Wake::Ready);
        }
        if rung {
            self.take_messages();
        }
        alarmed
    }

    fn take_messages(&mut self) {
        for message in self.runtime.inbox.drain() {
            match message {
                LoopMessage::Wake(ticket, wake) => self.wake(ticket, wake),
                LoopMessage::Task(task) => self.tasks.push_back(Work::Task(task)),
                LoopMessage::Control(control) => self.controls.push(control),
            }
        }
    }

    /// Ends the waits whose deadline has passed.
    pub fn take_expired(&mut self, now: Instant) {
        while let Some(target) = self.timers.pop_expired(now) {
            match target {
                Target::Wait(ticket) => self.wake(ticket, Wake::TimedOut),
                Target::Source(id) => self.source_expired(id, now),
                Target::Service => self.paused = true,
                Target::Alarm(work, number) => self.alarm(work, number),
            }
        }
    }

    fn source_expired(&mut self, id: SourceId, now: Instant) {
        let Some(source) = self.poller.source(id) else { return };
        source.armed = None;
        match source.deadline {
            Some(at) if at > now => self.set_deadline(id, Some(at)),
            Some(_) => {
                source.deadline = None;
                if let Some(watcher) = source.watcher.clone() {
                    self.tasks.push_back(Work::Task(Box::new(move || watcher.expired())));
                } else if let super::poller::SourceOwner::Service(owner) = source.owner {
                    self.tasks.push_back(Work::Expired(id, owner));
                }
            }
            None => {}
        }
    }

    /// Gives leadership away, if `unit` has it, so that it may park.
    pub fn hand_over(&mut self, unit: &Unit) {
        if self.leader != unit.slot {
            return;
        }
        // `leader::lead` never starts a piece of work without a follower at hand.
        if let Some(follower) = self.idle.pop() {
            self.idle_low_water = self.idle_low_water.min(self.idle.len());
            self.leader = follower.slot;
            follower.command.set(Some(Command::Lead));
            follower.unpark();
        }
    }

    /// Ends idle units that were not needed for a while. Only half go at a time, so that a burst that comes back soon
    /// finds most units. Returns when to look again.
    pub fn trim_idle(&mut self) -> Option<Instant> {
        if self.idle.len() <= IDLE_UNITS_KEPT {
            self.next_trim = None;
            return None;
        }
        let now = Instant::now();
        match self.next_trim {
            Some(at) if now < at => return Some(at),
            Some(_) => {
                let spare = self.idle_low_water.saturating_sub(IDLE_UNITS_KEPT);
                let leaving = spare.div_ceil(2).min(self.idle.len());
                for unit in self.idle.drain(..leaving) {
                    unit.command.set(Some(Command::End));
                    unit.unpark();
                    self.woken += 1;
                }
            }
            None => {}
        }
        self.idle_low_water = self.idle.len();
        self.next_trim = Some(now + TRIM_INTERVAL);
        self.next_trim
    }

    /// Marks the source as resting: the service gets its next event. Returns true, without marking it, if unread input is
    /// already known.
    pub fn rest(&mut self, id: SourceId) -> bool {
        let Some(source) = self.poller.source(id) else { return false };
        if source.readable {
            return true;
        }
        source.at_rest = true;
        false
    }
}
