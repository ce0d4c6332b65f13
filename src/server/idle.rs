//! Idle connections that may be closed to make room for new ones: the longest idle one goes first.

use std::cell::RefCell;
use std::time::Instant;

use crate::event_loop::{SourceId, streams};

/// A connection that rests between two requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The end of its idle time. It moves with each request, so the longest idle connection has the earliest one.
    deadline: Instant,
    /// Its key among the connections.
    pub key: usize,
    /// Its stream's number in the loop.
    source: u64,
}

impl Candidate {
    /// The connection at `key`; `None` without a limit of idle time, or with something to read.
    pub fn new(key: usize, source: SourceId) -> Option<Candidate> {
        let deadline = streams::deadline(source)?;
        (!streams::is_readable(source)).then_some(Candidate { deadline, key, source: source.0 })
    }

    /// Is `source` its stream?
    pub fn is_of(&self, source: SourceId) -> bool {
        self.source == source.0
    }

    /// Has it been idle ever since?
    pub fn is_unchanged(&self) -> bool {
        let source = SourceId(self.source);
        streams::deadline(source) == Some(self.deadline) && !streams::is_readable(source)
    }
}

/// The connections that were idle at the last scan, the longest idle one last. Requests cost nothing: a candidate is checked
/// again when it is taken from here.
#[derive(Default)]
pub struct Idle {
    candidates: RefCell<Vec<Candidate>>,
}

impl Idle {
    /// Takes a candidate back that was not closed.
    pub fn put_back(&self, candidate: Candidate) {
        self.candidates.borrow_mut().push(candidate);
    }

    /// The longest idle connection, if any is idle. `look` finds all idle ones, and `is_idle` checks a candidate again.
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
