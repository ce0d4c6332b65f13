//! A unit: one coroutine, its stack and whatever the host gives it (a Python thread state), used again and again.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use super::wake::Wake;
use crate::coroutine::{Handle, StackBounds};

/// The purpose for which an idle unit is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Poll, and run what is ready.
    Lead,
    /// Give everything back.
    End,
}

/// Work that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The subject of the work: see `current::set_subject`.
    pub subject: usize,
    /// The end waits for it: see `ends::set_awaited`.
    pub is_awaited: bool,
    /// It serves a source of the service's.
    pub is_request: bool,
}

/// One pooled coroutine.
pub struct Unit {
    /// Its slot in the loop's table.
    pub slot: usize,
    /// Set right after the spawn.
    pub handle: OnceCell<Handle>,
    /// Where its stack lies; set when it starts.
    pub stack: Cell<Option<StackBounds>>,
    /// Its next command, for when it is idle.
    pub command: Cell<Option<Command>>,
    /// The number of the wait that it is in; 0 for none.
    pub waiting: Cell<u64>,
    /// How that wait ended.
    pub wake: Cell<Option<Wake>>,
    /// Runs work (as opposed to being idle or leading between two pieces of work).
    pub busy: Cell<bool>,
    /// The work was asked to end, which happens once.
    pub killed: Cell<bool>,
    /// The end of the process waits for the work.
    pub awaited: Cell<bool>,
    /// The work is a request.
    pub is_request: Cell<bool>,
    /// The subject of the work, a number of the layers above; 0 for none.
    pub subject: Cell<usize>,
    /// Runs work and may park in it. A unit that is idle, polls or ends may not: no follower could lead meanwhile, or its
    /// thread state is torn down. Python code that runs then (a destructor, a logging handler) blocks.
    pub may_park: Cell<bool>,
    /// The number that the layers above know what it runs by.
    pub ident: Cell<u64>,
    /// Which piece of work it runs: unique among all of the loop's; 0 before the first.
    pub work: Cell<u64>,
    /// The way in which its next wait ends at once: the request to end one came while it was in none.
    pub postponed: Cell<Option<Wake>>,
    /// The alarms that have gone off for the work in progress and are not yet taken.
    pub alarms: RefCell<Vec<u64>>,
    /// Data of the layers above for the work in progress.
    pub local: RefCell<Option<Box<dyn Any>>>,
}

impl Unit {
    /// A unit in `slot`, not yet started.
    pub fn new(slot: usize) -> Rc<Unit> {
        Rc::new(Unit {
            slot,
            handle: OnceCell::new(),
            stack: Cell::new(None),
            command: Cell::new(None),
            waiting: Cell::new(0),
            wake: Cell::new(None),
            busy: Cell::new(false),
            killed: Cell::new(false),
            awaited: Cell::new(false),
            is_request: Cell::new(false),
            subject: Cell::new(0),
            may_park: Cell::new(false),
            ident: Cell::new(0),
            work: Cell::new(0),
            postponed: Cell::new(None),
            alarms: RefCell::default(),
            local: RefCell::new(None),
        })
    }

    /// Its work, as one that has not ended.
    pub fn unfinished(&self) -> Unfinished {
        Unfinished { subject: self.subject.get(), is_awaited: self.awaited.get(), is_request: self.is_request.get() }
    }

    /// Makes it runnable.
    pub fn unpark(&self) {
        if let Some(handle) = self.handle.get() {
            handle.unpark();
        }
    }
}
