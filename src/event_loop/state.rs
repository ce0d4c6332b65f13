//! The loop's state: one per process, on the loop thread. Each borrow is short and never crosses a park.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::Event;
use slab::Slab;

use super::current;
use super::inbox::LoopMessage;
use super::peaks::Peaks;
use super::peers;
use super::poller::{Notice, Poller};
use super::roles::{Host, Pulse, Service, StreamWatcher};
use super::runtime::Runtime;
use super::timers::{Target, TimedCall, TimerKey, Timers};
use super::tokens::{SourceId, Ticket, WorkId};
use super::unit::{Command, Unit};
use super::wake::Wake;

/// Number of idle units that are always kept: enough for the ordinary changes of load of a small site.
const IDLE_UNITS_KEPT: usize = 16;

/// Interval between two trims of spare idle units, while there are more than [`IDLE_UNITS_KEPT`].
const TRIM_INTERVAL: Duration = Duration::from_millis(200);

/// Work for a unit.
pub enum Work {
    /// A stream or listener of the service has something to read.
    Serve(SourceId, usize),
    /// A source's deadline has passed.
    Expired(SourceId, usize),
    /// The watcher of a source is due for a call.
    Watch(SourceId),
    /// A function to run.
    Task(Box<dyn FnOnce()>),
    /// A wait for the next poll ends, after the tasks that were queued before that poll.
    Resume(Ticket),
}

/// The state that the leader manages.
pub struct LoopState {
    /// The process that owns the loop.
    pub process: rustix::process::Pid,
    /// For units that are made later.
    pub host: Arc<dyn Host>,
    pub runtime: Arc<Runtime>,
    pub service: Option<Rc<dyn Service>>,
    /// Observes the turns; `None` if no other process asks.
    pub pulse: Option<Rc<dyn Pulse>>,
    pub poller: Poller,
    pub timers: Timers,
    pub units: Slab<Rc<Unit>>,
    /// Idle units. The most recently used one is on top: its stack is warm.
    pub idle: Vec<Rc<Unit>>,
    /// The slot of the unit that polls.
    pub leader: usize,
    /// Work that the cap does not hold back.
    pub tasks: VecDeque<Work>,
    /// Requests and connections, which are taken only below the cap.
    pub requests: VecDeque<Work>,
    /// Requests in progress, parked ones included.
    pub busy_requests: usize,
    /// The cap on `busy_requests`.
    pub request_limit: usize,
    /// The service leaves new connections to the kernel.
    pub paused: bool,
    /// Waits that end after the next poll: `sleep(0)`.
    pub after_poll: Vec<Ticket>,
    /// Turns that were cut off, and work that can wait. They run after all other work, for one budget between two polls.
    pub later: VecDeque<Work>,
    /// Number of pieces of `later` that may run before the next poll.
    pub later_budget: usize,
    /// The time when `later` must stop, on the coarse clock of [`turn`](super::turn). `None` until `later` begins.
    pub later_end: Option<u64>,
    /// Number of coroutines made runnable since the leader last let them run.
    pub woken: usize,
    /// The start of the turn after which a row of calls of watchers goes on, on the coarse clock; none outside a row.
    pub row_begun: Option<u64>,
    /// Number of pieces of work that may run before the next poll.
    pub budget: usize,
    /// Functions for the leader to run before it takes work.
    pub controls: Vec<Box<dyn FnOnce() + Send>>,
    /// The time of the next attempt to make a follower, after a failed one.
    pub retry_follower: Option<Instant>,
    /// The time of the last failed attempt to make a follower.
    pub last_follower_failure: Option<Instant>,
    /// The time at which epoll last refused a stream.
    pub last_refusal: Option<Instant>,
    /// The loop ends when the last busy unit has ended.
    pub ending: bool,
    /// The loop ends without the units that still wait.
    pub leaving: bool,
    /// A timer for the next sweep is set.
    pub is_sweep_due: bool,
    /// The most units and sources lately.
    pub peaks: Peaks,
    /// The time of the next look at overdue work, on the clock of [`records`](super::records), and its timer.
    pub next_look: Option<(u64, TimerKey)>,
    /// The buffer of the unit that polls.
    pub events: Vec<Event>,
    ticket_number: u64,
    work_number: u64,
    idle_low_water: usize,
    next_trim: Option<Instant>,
}

thread_local! {
    static STATE: RefCell<Option<LoopState>> = const { RefCell::new(None) };
    /// This thread has a state. The flag has no destructor, so it can be read at any time of a thread's life.
    static HERE: Cell<bool> = const { Cell::new(false) };
    static FORGOTTEN: Cell<bool> = const { Cell::new(false) };
    /// `next_look` of this thread's state is set. A flag is cheaper to read than the state.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `action` on the loop's state. `None` on any other thread.
///
/// # Panics
/// Panics inside another `with`, which is a bug: no action calls out.
pub fn with<R>(action: impl FnOnce(&mut LoopState) -> R) -> Option<R> {
    STATE.with(|state| state.borrow_mut().as_mut().map(action))
}

/// Whether this is the loop's thread.
pub fn is_here() -> bool {
    HERE.get()
}

/// Whether the time of the next look at overdue work is set.
#[inline]
pub fn is_look_set() -> bool {
    LOOKS.get()
}

/// Installs a new state or removes the present one.
pub fn install(state: Option<LoopState>) {
    HERE.set(state.is_some());
    LOOKS.set(false);
    // Dropped outside the borrow: streams access the state when they drop.
    let previous = STATE.with(|slot| slot.replace(state));
    drop(previous);
}

/// Removes the state without freeing anything: another process shares its descriptors and stacks. A second call does
/// nothing.
pub fn forget() {
    current::forget();
    FORGOTTEN.with(|forgotten| forgotten.set(forgotten.get() || with(|_| ()).is_some()));
    HERE.set(false);
    std::mem::forget(STATE.with(|slot| slot.borrow_mut().take()));
}

/// Whether [`forget`] has removed the state.
pub fn is_forgotten() -> bool {
    FORGOTTEN.with(Cell::get)
}

impl LoopState {
    /// Sets the time of the next look at overdue work, or forgets it. Returns the previous one.
    pub fn replace_next_look(&mut self, next: Option<(u64, TimerKey)>) -> Option<(u64, TimerKey)> {
        LOOKS.set(next.is_some());
        std::mem::replace(&mut self.next_look, next)
    }

    /// # Errors
    /// Fails if the process has no descriptor left.
    pub fn new(host: Arc<dyn Host>, runtime: Arc<Runtime>) -> io::Result<LoopState> {
        let poller = Poller::new(runtime.inbox.bell())?;
        Ok(LoopState {
            process: rustix::process::getpid(),
            host,
            runtime,
            service: None,
            pulse: None,
            poller,
            timers: Timers::new(),
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
            row_begun: None,
            budget: 0,
            controls: Vec::new(),
            retry_follower: None,
            last_follower_failure: None,
            last_refusal: None,
            ending: false,
            leaving: false,
            is_sweep_due: false,
            peaks: Peaks::default(),
            next_look: None,
            events: Poller::event_buffer(),
            ticket_number: 0,
            work_number: 0,
            idle_low_water: 0,
            next_trim: None,
        })
    }

    /// Opens a wait of `unit`.
    pub fn open_wait(&mut self, unit: &Unit) -> Ticket {
        self.ticket_number += 1;
        unit.waiting.set(self.ticket_number);
        unit.wake.set(None);
        Ticket { unit: unit.slot, number: self.ticket_number }
    }

    /// Ends a wait, if it is still open. Returns whether it was.
    pub fn wake(&mut self, ticket: Ticket, wake: Wake) -> bool {
        let Some(unit) = self.units.get(ticket.unit) else { return false };
        if unit.waiting.get() != ticket.number || unit.wake.get().is_some() || self.leaving {
            return false;
        }
        unit.wake.set(Some(wake));
        unit.note_end_of_wait();
        unit.unpark();
        self.woken += 1;
        true
    }

    /// Ends every wait on a descriptor of the application.
    pub fn end_waits(&mut self, number: std::os::fd::RawFd, wake: Wake) {
        for ticket in self.poller.take_waits(number) {
            self.wake(ticket, wake);
        }
    }

    /// Records that `unit` begins a piece of work, at `begun` on the clock of turns.
    pub fn begin_work(&mut self, unit: &Unit, begun: u64) {
        self.work_number += 1;
        unit.work.set(self.work_number);
        unit.record.begin(self.work_number, begun);
    }

    /// The unit that runs `work`, unless that work has ended.
    pub fn unit_of(&self, work: WorkId) -> Option<&Rc<Unit>> {
        self.units.get(work.unit).filter(|unit| unit.busy.get() && unit.work.get() == work.number)
    }

    /// Ends the present wait of `work`. Without one, the next wait ends at once.
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

    /// Sets a source's watcher and queues a call of it, or removes the watcher. Returns the previous watcher.
    pub fn set_stream_watcher(
        &mut self,
        id: SourceId,
        watcher: Option<Arc<dyn StreamWatcher>>,
    ) -> Option<Arc<dyn StreamWatcher>> {
        let source = self.poller.source(id)?;
        if watcher.is_some() && !std::mem::replace(&mut source.is_watch_queued, true) {
            self.tasks.push_back(Work::Watch(id));
        }
        source.replace_watcher(watcher)
    }

    /// Queues a call of a source's watcher after all ready work, unless a call is queued already.
    pub fn watch_soon(&mut self, id: SourceId) {
        if self.announce_watch(id) {
            self.tasks.push_back(Work::Watch(id));
        }
    }

    /// Queues a call of a source's watcher after all other work, unless a call is queued already.
    pub fn watch_later(&mut self, id: SourceId) {
        if self.announce_watch(id) {
            self.later.push_back(Work::Watch(id));
        }
    }

    fn announce_watch(&mut self, id: SourceId) -> bool {
        self.poller
            .source(id)
            .is_some_and(|source| source.has_watcher() && !std::mem::replace(&mut source.is_watch_queued, true))
    }

    /// The watcher of a source, for a call that covers all events so far.
    pub fn begin_watching(&mut self, id: SourceId) -> Option<Arc<dyn StreamWatcher>> {
        let source = self.poller.source(id)?;
        source.is_watch_queued = false;
        source.watcher().cloned()
    }

    /// Forgets a source of the service.
    pub fn remove_source(&mut self, id: SourceId, descriptor: Option<std::os::fd::BorrowedFd<'_>>) {
        self.disarm(id);
        for ticket in self.poller.remove(id, descriptor) {
            self.wake(ticket, Wake::Closed);
        }
    }

    /// Turns a batch of events into wake-ups and work. Returns whether the alarm went off.
    pub fn take_events(&mut self, events: &[Event]) -> bool {
        let mut wakes = Vec::new();
        let (mut rung, mut alarmed) = (false, false);
        let (requests, tasks) = (&mut self.requests, &mut self.tasks);
        self.poller.sort(events, |notice| match notice {
            Notice::Wake(ticket) => wakes.push(ticket),
            Notice::Serve(id, owner) => requests.push_back(Work::Serve(id, owner)),
            Notice::Watch(id) => tasks.push_back(Work::Watch(id)),
            Notice::HungUp(work) => tasks.push_back(Work::Task(Box::new(move || peers::hung_up(work)))),
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
                LoopMessage::Wake(ticket, wake) => _ = self.wake(ticket, wake),
                LoopMessage::Task(task) => self.tasks.push_back(Work::Task(task)),
                LoopMessage::Control(control) => self.controls.push(control),
            }
        }
    }

    /// Handles every deadline that has passed.
    pub fn take_expired(&mut self, now: Instant) {
        while let Some(target) = self.timers.pop_expired(now) {
            match target {
                Target::Wait(ticket) => _ = self.wake(ticket, Wake::TimedOut),
                Target::Source(id) => self.source_timer_fired(id, now),
                Target::Slot(first) => self.slot_begins(first, now),
                Target::Sweep => self.sweep(),
                Target::EndOfBurst => self.return_memory(),
                Target::Service => self.paused = true,
                Target::Alarm { unit, work, number } => {
                    self.alarm(WorkId { unit: unit as usize, number: work }, number)
                }
                Target::Call(TimedCall(function)) => self.tasks.push_back(Work::Task(Box::new(function))),
            }
        }
    }

    /// Hands leadership over, if `unit` leads, so that `unit` may park.
    pub fn hand_over(&mut self, unit: &Unit) {
        if self.leader != unit.slot {
            return;
        }
        // `leader::lead` never starts a piece of work without an idle follower.
        if let Some(follower) = self.idle.pop() {
            self.idle_low_water = self.idle_low_water.min(self.idle.len());
            self.leader = follower.slot;
            follower.command.set(Some(Command::Lead));
            follower.unpark();
        }
    }

    /// Ends half of the spare units that stayed idle since the last trim. A burst that comes back soon finds most
    /// units. Returns the time of the next trim.
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

    /// Marks the source as resting: the service gets its next event. Returns true, without marking it, if unread input
    /// is already known.
    pub fn rest(&mut self, id: SourceId) -> bool {
        let Some(source) = self.poller.source(id) else { return false };
        if source.readable {
            return true;
        }
        source.at_rest = true;
        source.shed();
        false
    }
}
