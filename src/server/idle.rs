//! Idle connections that may be closed to make room for new ones, the longest idle connection first.

use std::cell::RefCell;
use std::time::Instant;

use crate::event_loop::{SourceId, streams};

/// A connection that is idle between two requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The end of the connection's idle time. Each request moves the deadline, so the longest idle connection has the
    /// earliest one.
    deadline: Instant,
    /// The connection's key among the connections.
    pub key: usize,
    /// The number of the connection's source in the loop.
    source: u64,
}

impl Candidate {
    /// The connection at `key`. `None` if the connection has no idle time limit, or has unread input.
    pub fn new(key: usize, source: SourceId) -> Option<Candidate> {
        let deadline = streams::deadline(source)?;
        (!streams::is_readable(source)).then_some(Candidate { deadline, key, source: source.0 })
    }

    /// Is `source` the connection's stream?
    pub fn is_of(&self, source: SourceId) -> bool {
        self.source == source.0
    }

    /// Has the connection been idle since the scan?
    pub fn is_unchanged(&self) -> bool {
        let source = SourceId(self.source);
        streams::deadline(source) == Some(self.deadline) && !streams::is_readable(source)
    }
}

/// The connections that were idle at the last scan, the longest idle connection last. Requests cost nothing, since a
/// candidate is checked again when it is taken.
#[derive(Default)]
pub struct Idle {
    candidates: RefCell<Vec<Candidate>>,
}

impl Idle {
    /// Puts back a candidate that was not closed.
    pub fn put_back(&self, candidate: Candidate) {
        self.candidates.borrow_mut().push(candidate);
    }

    /// The longest idle connection, if any. `look` finds all idle connections, and `is_idle` checks a candidate again.
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
