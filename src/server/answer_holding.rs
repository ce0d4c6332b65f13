//! The setting `hold_answers`: which requests may have their complete answers held, and for how long.
//!
//! An answer is held for the other requests that the same poll has found, so that a client with many connections is
//! woken once for several answers. Holding pays only if turns take some time: in a short turn the client stays awake.
//! `net::held` holds the answers, and sends them before the loop polls.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::event_loop::{number_of_parks, streams};
use crate::net::held;

/// A turn that takes longer is a long one.
const LONG: Duration = Duration::from_micros(20);

/// The most by which the long turns may outnumber the short ones, or the reverse: a change of load is soon noticed.
const MOST: i32 = 32;

/// While no answers are held, one turn in this number is measured. Two looks at the clock are a part of a short turn.
const SAMPLE: u32 = 8;

/// Decides which turns may hold their answers.
pub struct AnswerHolding {
    /// The time for which an answer is held at most, at the end of a turn. Zero holds none.
    limit: Duration,
    is_on: bool,
    /// The long turns less the short ones, within [`MOST`]. Answers are held while most turns are long. A mean would be
    /// fooled by a few very long ones.
    balance: Cell<i32>,
    /// Turns since the last one that was measured.
    unmeasured: Cell<u32>,
}

/// A turn that runs.
pub struct RequestTurn {
    begun: Instant,
    parks: u64,
}

impl AnswerHolding {
    /// Holds answers for at most `limit`; zero holds none.
    pub fn new(limit: Duration) -> AnswerHolding {
        AnswerHolding { limit, is_on: !limit.is_zero(), balance: Cell::new(0), unmeasured: Cell::new(0) }
    }

    /// Begins a turn with a request. `None` if the turn is not measured, and holds no answer.
    #[inline]
    pub fn begin(&self) -> Option<RequestTurn> {
        if self.is_on && (self.balance.get() > 0 || self.is_sample()) { Some(self.begin_held()) } else { None }
    }

    #[inline]
    fn is_sample(&self) -> bool {
        let unmeasured = self.unmeasured.get() + 1;
        self.unmeasured.set(unmeasured % SAMPLE);
        unmeasured == SAMPLE
    }

    /// Ends a turn. Sends the answers that have been held for the time of the setting.
    #[inline]
    pub fn end(&self, turn: Option<&RequestTurn>) {
        if let Some(turn) = turn {
            self.end_held(turn);
        }
    }

    #[inline(never)]
    fn begin_held(&self) -> RequestTurn {
        held::keep_in_turn(self.balance.get() > 0 && streams::has_next_request());
        RequestTurn { begun: Instant::now(), parks: number_of_parks() }
    }

    #[inline(never)]
    fn end_held(&self, &RequestTurn { begun, parks }: &RequestTurn) {
        held::keep_in_turn(false);
        if parks == number_of_parks() {
            self.note(begun.elapsed());
        }
        // Turns that are not measured do not look at the time of what is held.
        if self.balance.get() <= 0 || held::are_late(self.limit) {
            held::send_answers();
        }
    }

    fn note(&self, time: Duration) {
        let by = if time > LONG { 1 } else { -1 };
        self.balance.set((self.balance.get() + by).clamp(-MOST, MOST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balance_after(times: &[u64]) -> i32 {
        let holding = AnswerHolding::new(Duration::from_micros(300));
        for _ in 0..100 {
            times.iter().for_each(|&time| holding.note(Duration::from_micros(time)));
        }
        holding.balance.get()
    }

    #[test]
    fn answers_are_held_while_most_turns_are_long() {
        assert_eq!(balance_after(&[60]), MOST);
        assert!(balance_after(&[60, 5, 60]) > 0);
    }

    #[test]
    fn short_turns_are_measured_now_and_then_and_long_ones_always() {
        let holding = AnswerHolding::new(Duration::from_micros(300));
        let measured = || (0..80).filter(|_| holding.begin().is_some()).count();
        assert_eq!(measured(), 10);
        holding.note(Duration::from_micros(60));
        assert_eq!(measured(), 80);
        assert!(AnswerHolding::new(Duration::ZERO).begin().is_none());
    }

    #[test]
    fn a_few_very_long_turns_do_not_hold_the_answers_of_many_short_ones() {
        assert!(balance_after(&[5, 5, 5, 5, 5, 5, 5, 5, 5, 300]) < 0);
    }
}
