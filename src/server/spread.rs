//! The spread of connections over the workers of a service.
//!
//! The kernel wakes a worker that waits, whatever connections it has. Connections that are kept would stay where a burst
//! has put them, and a worker that was just replaced would get none of its siblings'. A worker therefore leaves new
//! connections to a sibling that has fewer connections and no more requests. The scoreboard has the numbers of both.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crew::scoreboard::{Scoreboard, WorkerState};
use crate::crew::seat::Seat;

/// With fewer connections than this a worker takes every connection that it gets.
const FEW: u64 = 8;

/// The time over which requests are compared.
const WINDOW: Duration = Duration::from_millis(100);

/// A sibling whose loop has not turned for this long takes no connection soon. The clock of turns is a coarse one.
const STUCK: Duration = Duration::from_millis(10);

/// How often in a row a connection is left to siblings until this worker takes it.
const MOST_LEFT: u32 = 3;

/// Two connections that come within this time are left in a row.
const ROW: Duration = Duration::from_millis(2);

/// How long this worker takes every connection after its siblings took none.
const TAKES_ALL: Duration = Duration::from_millis(10);

/// Decides which connections a worker leaves to its siblings. Lives on the loop thread.
pub struct Spread {
    seat: Arc<Seat>,
    requests: RefCell<Requests>,
    left: Cell<u32>,
    left_at: Cell<Option<Instant>>,
    takes_all_until: Cell<Option<Instant>>,
}

/// The requests of all workers, at the begin of the window and within the one before.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    before: Vec<u64>,
    lately: Vec<u64>,
}

impl Spread {
    /// The spread between the worker in `seat` and its siblings.
    pub fn new(seat: Arc<Seat>) -> Spread {
        Spread {
            seat,
            requests: RefCell::default(),
            left: Cell::new(0),
            left_at: Cell::new(None),
            takes_all_until: Cell::new(None),
        }
    }

    /// Does another worker of the service accept connections? Their number changes while this worker serves.
    pub fn has_siblings(&self) -> bool {
        self.seat.shared().is_some_and(|(board, own)| {
            known_slots(board).any(|index| index != own && board.state(index) == WorkerState::Ready)
        })
    }

    /// Should a sibling take the next connection? This worker has `open` connections.
    pub fn favours_a_sibling(&self, open: usize) -> bool {
        let open = open as u64;
        if open < FEW {
            return false;
        }
        let Some((board, own)) = self.seat.shared() else { return false };
        let now = Instant::now();
        if self.takes_all_until.get().is_some_and(|until| now < until) {
            return false;
        }
        let mut requests = self.requests.borrow_mut();
        requests.look(board, now);
        let own_requests = requests.of(own);
        known_slots(board).any(|index| {
            index != own
                && is_favoured(board.counters(index).open_connections, open)
                && requests.of(index) <= own_requests
                && board.state(index) == WorkerState::Ready
                && board.turn_age(index) < STUCK
        })
    }

    /// A connection waits, and a sibling is favoured. Returns whether it is left to the siblings once more.
    pub fn leaves_one(&self) -> bool {
        let now = Instant::now();
        let is_in_a_row = self.left_at.replace(Some(now)).is_some_and(|at| now.duration_since(at) < ROW);
        let left = if is_in_a_row { self.left.get() + 1 } else { 1 };
        self.left.set(left);
        if left > MOST_LEFT {
            self.left.set(0);
            self.takes_all_until.set(Some(now + TAKES_ALL));
        }
        left <= MOST_LEFT
    }
}

/// Has a sibling with `theirs` connections clearly fewer than `ours`?
fn is_favoured(theirs: u64, ours: u64) -> bool {
    theirs + 1 + theirs / 16 < ours
}

/// The slots that any worker has ever owned. The lowest free slot is taken first, so the others come after them.
fn known_slots(board: &Scoreboard) -> impl Iterator<Item = u32> + '_ {
    (0..board.slots()).take_while(|&index| board.generation(index) > 0)
}

impl Requests {
    /// Begins a new window if the last one is over.
    fn look(&mut self, board: &Scoreboard, now: Instant) {
        if self.since.is_some_and(|since| now.duration_since(since) < WINDOW) {
            return;
        }
        self.since = Some(now);
        let counted: Vec<u64> = known_slots(board).map(|index| board.counters(index).requests).collect();
        // A slot that has another owner begins at 0 again.
        let lately = |(index, count): (usize, &u64)| count.saturating_sub(self.before.get(index).copied().unwrap_or(0));
        self.lately = counted.iter().enumerate().map(lately).collect();
        self.before = counted;
    }

    /// The requests of a worker in the last whole window.
    fn of(&self, index: u32) -> u64 {
        self.lately.get(index as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A scoreboard with the seats of `count` ready workers.
    fn crew(count: usize) -> (Arc<Scoreboard>, Vec<Arc<Seat>>) {
        let board = Arc::new(Scoreboard::new(8).unwrap());
        let seats = (0..count)
            .map(|_| {
                let slot = board.reserve().unwrap();
                let seat = Arc::new(Seat::take(Arc::clone(&board), slot).unwrap());
                seat.set_state(WorkerState::Ready);
                seat
            })
            .collect();
        (board, seats)
    }

    #[test]
    fn a_sibling_with_fewer_connections_is_favoured() {
        let (_, seats) = crew(2);
        let spread = Spread::new(Arc::clone(&seats[0]));
        seats[1].note_open(20);
        assert!(!spread.favours_a_sibling(21));
        assert!(!spread.favours_a_sibling(22));
        assert!(spread.favours_a_sibling(23));
    }

    #[test]
    fn a_worker_alone_or_with_few_connections_takes_every_connection() {
        let (_, seats) = crew(1);
        assert!(!Spread::new(Arc::clone(&seats[0])).favours_a_sibling(1000));
        assert!(!Spread::new(Arc::new(Seat::private())).favours_a_sibling(1000));
        let (_, seats) = crew(2);
        assert!(!Spread::new(Arc::clone(&seats[0])).favours_a_sibling(7));
    }

    #[test]
    fn a_worker_has_siblings_while_others_are_ready() {
        let (board, seats) = crew(2);
        let spread = Spread::new(Arc::clone(&seats[0]));
        assert!(spread.has_siblings());
        board.set_state(1, WorkerState::Draining);
        assert!(!spread.has_siblings());
        assert!(!Spread::new(Arc::new(Seat::private())).has_siblings());
    }

    #[test]
    fn a_sibling_that_does_not_serve_is_not_favoured() {
        for state in [WorkerState::Booting, WorkerState::Draining, WorkerState::Free] {
            let (board, seats) = crew(2);
            board.set_state(1, state);
            assert!(!Spread::new(Arc::clone(&seats[0])).favours_a_sibling(50), "{state:?}");
        }
    }

    #[test]
    fn a_sibling_with_more_requests_is_not_favoured() {
        let (_, seats) = crew(2);
        let spread = Spread::new(Arc::clone(&seats[0]));
        seats[1].count_begun();
        seats[1].count_answered();
        assert!(!spread.favours_a_sibling(50));
        seats[0].count_begun();
        seats[0].count_answered();
        std::thread::sleep(WINDOW);
        // The requests of the window that is over now: one of this worker, none of the sibling.
        assert!(spread.favours_a_sibling(50));
    }

    #[test]
    fn a_connection_that_no_sibling_takes_is_taken_in_the_end() {
        let (_, seats) = crew(2);
        let spread = Spread::new(Arc::clone(&seats[0]));
        assert!(spread.favours_a_sibling(50));
        for _ in 0..MOST_LEFT {
            assert!(spread.leaves_one());
        }
        assert!(!spread.leaves_one());
        assert!(!spread.favours_a_sibling(50));
        std::thread::sleep(TAKES_ALL);
        assert!(spread.favours_a_sibling(50));
    }
}
