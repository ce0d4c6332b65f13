//! Kept connections that may be closed to make room for new ones: the one that has been idle for longest goes first.

use std::cell::RefCell;
use std::time::Instant;

use crate::event_loop::{SourceId, streams};

/// A connection that rests between two requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// When it would have been idle for long enough: the first to be so is the one that has been idle for longest. Moves
    /// with each request.
    deadline: Instant,
    /// Its key in the table.
    pub key: usize,
    /// Its stream's number in the loop.
    source: u64,
}

impl Candidate {
    /// For the connection at `key` of the table; none if it is not idle for a known time, or something is to be read.
    pub fn new(key: usize, source: SourceId) -> Option<Candidate> {
        let deadline = streams::deadline(source)?;
        (!streams::is_readable(source)).then_some(Candidate { deadline, key, source: source.0 })
    }

    /// Whether its stream is this one.
    pub fn is_of(&self, source: SourceId) -> bool {
        self.source == source.0
    }

    /// Whether it has been idle ever since.
    pub fn is_unchanged(&self) -> bool {
        let source = SourceId(self.source);
        streams::deadline(source) == Some(self.deadline) && !streams::is_readable(source)
    }
}

/// Those that were idle at the last look at all connections, the one that was so for longest last. A request costs
/// nothing: whoever is taken from here is looked at again.
#[derive(Default)]
pub struct Idle {
    candidates: RefCell<Vec<Candidate>>,
}

impl Idle {
    /// Takes one back that was not closed.
    pub fn put_back(&self, candidate: Candidate) {
        self.candidates.borrow_mut().push(candidate);
    }

    /// The connection that has been idle for longest, if any is. `look` finds all that are, and `is_idle` tells whether
    /// one of them still is.
    pub fn longest(
        &self,
        look: impl Fn() -> Vec<Candidate>,
        is_idle: impl Fn(&Candidate) -> bool,
    ) -> Option<Candidate> {
        for has_looked in [false, true] {
            if has_looked {
                let mut found = look();
                found.sort_unstable_by(|one, other| other.cmp(one));
                self.candidates.replace(found);
            }
            while let Some(candidate) = self.candidates.borrow_mut().pop() {
                if candidate.is_unchanged() && is_idle(&candidate) {
                    return Some(candidate);
                }
            }
        }
        None
    }
}
