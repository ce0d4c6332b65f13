//! A seat: the slot of this process, in which the engine notes its work.
//!
//! One process writes to a slot, and most fields are written by its loop thread alone. Such a field is read and written
//! without a locked instruction. Without a scoreboard the slot is private memory of this process.

#![expect(unsafe_code, reason = "a slot of the scoreboard, reached without a look at its table")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::getpid;
use rustix::time::ClockId;

use super::measures::Measures;
use super::scoreboard::{Counters, Scoreboard, WorkerSlot, WorkerState, nanoseconds};

/// Whether this process is a forked child that has not taken a seat: the seat in its memory belongs to the parent.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// Detaches a forked child from the slot of its parent, until the child takes a seat itself.
pub fn forget_in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
}

/// The direction of a message, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The client has sent it.
    Received,
    /// The server has sent it.
    Sent,
}

/// The outcome of a hand-over of a connection between workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveOutcome {
    /// A sibling has got it.
    Sent,
    /// It came from a sibling.
    Received,
    /// The sibling to which it belongs could not take it.
    Failed,
}

/// The slot in which this process notes its work.
pub struct Seat {
    slot: NonNull<WorkerSlot>,
    memory: SeatMemory,
    is_measuring: bool,
}

/// The owner of the slot's memory, which keeps it in place.
enum SeatMemory {
    Private(#[expect(dead_code, reason = "keeps the memory")] Box<WorkerSlot>),
    Shared(Arc<Scoreboard>, u32),
}

// SAFETY: the pointer is to a slot that `memory` keeps in place. All its fields are atomics.
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

impl Seat {
    /// Takes a seat that no other process sees.
    pub fn private() -> Seat {
        IS_CHILD.store(false, Ordering::Relaxed);
        let slot = WorkerSlot::private();
        Seat { slot: NonNull::from(&*slot), memory: SeatMemory::Private(slot), is_measuring: false }
    }

    /// Takes the seat `index` for this process, and writes the process id. `None` if the scoreboard has no such slot.
    pub fn take(board: Arc<Scoreboard>, index: u32) -> Option<Seat> {
        let slot = NonNull::from(board.slot(index)?);
        let seat = Seat { slot, memory: SeatMemory::Shared(board, index), is_measuring: false };
        IS_CHILD.store(false, Ordering::Relaxed);
        let slot = seat.slot();
        slot.pid.store(getpid().as_raw_nonzero().get().unsigned_abs(), Ordering::Release);
        Some(seat)
    }

    /// The scoreboard and the number of the slot; `None` for a private seat.
    pub fn shared(&self) -> Option<(&Arc<Scoreboard>, u32)> {
        match &self.memory {
            SeatMemory::Private(_) => None,
            SeatMemory::Shared(board, index) => Some((board, *index)),
        }
    }

    /// Makes [`Self::measures`] return the measures of the slot, if other processes can see it.
    pub fn measure(&mut self) {
        self.is_measuring = matches!(self.memory, SeatMemory::Shared(..));
    }

    /// The measures of the slot; `None` where nothing is measured.
    pub fn measures(&self) -> Option<&Measures> {
        (self.is_measuring && is_owner()).then(|| &self.slot().measures)
    }

    /// Sets the state of the worker. A worker that drains does not become ready again.
    pub fn set_state(&self, state: WorkerState) {
        if is_owner() {
            self.slot().set_state(state);
        }
    }

    /// The numbers of this process.
    pub fn counters(&self) -> Counters {
        match &self.memory {
            SeatMemory::Private(_) => self.slot().sums(),
            SeatMemory::Shared(board, index) => board.counters(*index),
        }
    }

    /// Notes that the loop waits for events.
    pub fn note_wait(&self) {
        self.slot().turn.store(0, Ordering::Relaxed);
    }

    /// Notes that a turn of the loop begins now.
    pub fn note_turn(&self) {
        self.note_turn_at(nanoseconds(ClockId::MonotonicCoarse));
    }

    /// Notes that a turn of the loop began at `now`, in nanoseconds on the clock of all processes.
    pub fn note_turn_at(&self, now: u64) {
        self.slot().turn.store(now, Ordering::Relaxed);
    }

    /// Counts a request that begins. On the loop thread.
    pub fn count_begun(&self) {
        add_alone(&self.slot().begun, Ordering::Relaxed);
    }

    /// Counts a request that was answered. On the loop thread.
    pub fn count_answered(&self) {
        add_alone(&self.slot().requests, Ordering::Release);
    }

    /// Counts an accepted connection; `open` connections are open now. On the loop thread.
    pub fn count_accepted(&self, open: usize) {
        add_alone(&self.slot().connections, Ordering::Relaxed);
        self.note_open(open);
    }

    /// Notes that `open` connections are open. On the loop thread.
    pub fn note_open(&self, open: usize) {
        if is_owner() {
            self.slot().open_connections.store(open as u64, Ordering::Relaxed);
        }
    }

    /// Counts a message of a WebSocket, if anything is measured. From any thread.
    pub fn count_message(&self, direction: Direction) {
        self.count_messages(direction, 1);
    }

    /// Counts messages of WebSockets, if anything is measured. From any thread.
    pub fn count_messages(&self, direction: Direction, messages: u64) {
        if let Some(measures) = self.measures() {
            let counter = match direction {
                Direction::Received => &measures.messages_received,
                Direction::Sent => &measures.messages_sent,
            };
            counter.fetch_add(messages, Ordering::AcqRel);
        }
    }

    /// Counts a connection that was to move between workers. From any thread.
    pub fn count_hand_over(&self, outcome: MoveOutcome) {
        if is_owner() {
            let measures = &self.slot().measures;
            let counter = match outcome {
                MoveOutcome::Sent => &measures.handed_over,
                MoveOutcome::Received => &measures.taken_over,
                MoveOutcome::Failed => &measures.not_handed_over,
            };
            counter.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Counts an accepted WebSocket. From any thread.
    pub fn count_websocket(&self) {
        if is_owner() {
            self.slot().websockets_begun.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Counts a WebSocket that is over. From any thread.
    pub fn count_websocket_over(&self) {
        if is_owner() {
            self.slot().websockets_over.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn slot(&self) -> &WorkerSlot {
        // SAFETY: `memory` keeps the slot in place while `self` lives, and only references to shared slots exist.
        unsafe { self.slot.as_ref() }
    }
}

/// The time on a clock that all processes share, in nanoseconds.
pub fn monotonic_nanoseconds() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

fn is_owner() -> bool {
    !IS_CHILD.load(Ordering::Relaxed)
}

/// Adds 1 to a counter that only the calling thread writes, without a locked instruction.
fn add_alone(counter: &AtomicU64, order: Ordering) {
    if is_owner() {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), order);
    }
}
