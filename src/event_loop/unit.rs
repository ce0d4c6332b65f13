//! A unit: a reusable coroutine with its stack and the host's part (a Python thread state).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::records::Record;
use super::roles::Host;
use super::wait_sums::WaitSums;
use super::wake::Wake;
use crate::coroutine::Parking;

/// A command that wakes an idle unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Poll, and run ready work.
    Lead,
    /// Free everything and end.
    End,
}

/// Work that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The subject of the work: see `notes::OwnWork::replace_subject`.
    pub subject: usize,
    /// The end of the process waits for the work: see `ends::set_awaited`.
    pub is_awaited: bool,
    /// The work serves a source of the service.
    pub is_request: bool,
}

/// One pooled coroutine.
pub struct Unit {
    /// The unit's slot in the loop's table.
    pub slot: usize,
    /// The environment of the unit. Each wait needs it.
    pub host: Arc<dyn Host>,
    /// The facts about the unit that other threads read. The loop takes the ident and the subject from there, too.
    pub record: Arc<Record>,
    /// Where the unit parks, and its stack.
    pub parking: Parking,
    /// The next command, for an idle unit.
    pub command: Cell<Option<Command>>,
    /// The number of the present wait; 0 for none.
    pub waiting: Cell<u64>,
    /// The number of the wait in which a sweep has last found the unit.
    pub swept: Cell<u64>,
    /// The number of the wait for which the stack was trimmed last.
    pub trimmed: Cell<u64>,
    /// How the present wait ended.
    pub wake: Cell<Option<Wake>>,
    /// The unit runs work, as opposed to being idle or leading between two pieces of work.
    pub busy: Cell<bool>,
    /// The work has been asked to end, which happens once.
    pub killed: Cell<bool>,
    /// The end of the process waits for the work.
    pub awaited: Cell<bool>,
    /// The work is a request.
    pub is_request: Cell<bool>,
    /// The unit runs work and may park. A unit that is idle, polls or ends may not park: no follower could lead then,
    /// or its thread state is torn down. Python code at these times (a destructor, a logging handler) blocks.
    pub may_park: Cell<bool>,
    /// The number of the piece of work, unique in the loop; 0 before the first piece.
    pub work: Cell<u64>,
    /// The outcome of the next wait, which ends at once: a wake-up came while the unit was in no wait.
    pub postponed: Cell<Option<Wake>>,
    /// Alarms that have gone off for the work in progress and are not yet taken.
    pub alarms: RefCell<Vec<u64>>,
    /// The sums of the waits of the work in progress, if someone asks for them.
    pub sums: RefCell<Option<Box<WaitSums>>>,
    /// Data of the layers above for the work in progress.
    pub local: RefCell<Option<Box<dyn Any>>>,
}

impl Unit {
    /// Creates a unit of `host` in `slot` that has not started. Call it in a coroutine.
    pub fn new(slot: usize, host: Arc<dyn Host>) -> Rc<Unit> {
        Rc::new(Unit {
            slot,
            host,
            record: Record::enter(),
            parking: Parking::default(),
            command: Cell::new(None),
            waiting: Cell::new(0),
            swept: Cell::new(0),
            trimmed: Cell::new(0),
            wake: Cell::new(None),
            busy: Cell::new(false),
            killed: Cell::new(false),
            awaited: Cell::new(false),
            is_request: Cell::new(false),
            may_park: Cell::new(false),
            work: Cell::new(0),
            postponed: Cell::new(None),
            alarms: RefCell::default(),
            sums: RefCell::default(),
            local: RefCell::new(None),
        })
    }

    /// A summary of the unit's work, which has not ended.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished { subject: self.record.subject(), is_awaited: self.awaited.get(), is_request: self.is_request.get() }
    }

    /// Notes that the present wait is over: the unit is ready, or runs.
    #[inline]
    pub fn note_end_of_wait(&self) {
        if self.sums.borrow().is_some() {
            self.add_wait();
        }
        self.record.is_ready();
    }

    #[cold]
    fn add_wait(&self) {
        if let Some(sums) = &mut *self.sums.borrow_mut()
            && let Some(wait) = self.record.wait()
        {
            sums.add(&wait);
        }
    }

    /// Makes the unit runnable.
    pub fn unpark(&self) {
        self.parking.unpark();
    }
}
