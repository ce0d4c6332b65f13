//! A unit: one coroutine, its stack and whatever the host gives it (a Python thread state), used again and again.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use super::wake::Wake;
use crate::coroutine::{Handle, StackBounds};

/// What an idle unit is woken for.
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
    /// What it works for: see `current::set_subject`.
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
    /// What it is to do when it is idle.
    pub command: Cell<Option<Command>>,
    /// The number of the wait that it is in; 0 for none.
    pub waiting: Cell<u64>,
    /// How that wait ended.
    pub wake: Cell<Option<Wake>>,
    /// Runs work (as opposed to being idle or leading between two pieces of work).
    pub busy: Cell<bool>,
    /// The work was asked to end. That happens once.
    pub killed: Cell<bool>,
    /// The end of the process waits for the work.
    pub awaited: Cell<bool>,
    /// The work is a request.
    pub is_request: Cell<bool>,
    /// What the work is for, as the layers above know it; 0 for nothing.
    pub subject: Cell<usize>,
    /// Runs work and may park in it. Not while it is idle, polls or ends: there is no follower to lead meanwhile, or its
    /// thread state is torn down, and whatever Python code runs then (a destructor, a logging handler) has to block.
    pub may_park: Cell<bool>,
    /// The number that the layers above know what it runs by.
    pub ident: Cell<u64>,
    /// Which piece of work it runs: unique among all of the loop's; 0 before the first.
    pub work: Cell<u64>,
    /// How its next wait ends at once: somebody wanted to end one when it was in none.
    pub postponed: Cell<Option<Wake>>,
    /// The alarms that have gone off for the work in progress and that nobody has taken yet.
    pub alarms: RefCell<Vec<u64>>,
    /// What the layers above attach to the work in progress.
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
