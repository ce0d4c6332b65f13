//! The interfaces that the layers above implement for the loop.

use std::time::Instant;

use super::tokens::SourceId;

/// The environment of every unit. The Python boundary implements it, and so do tests without Python.
pub trait Host: Send + Sync + 'static {
    /// Runs `life` inside the host's state for one unit. Called once on each unit's stack; returns when the unit ends.
    fn enter(&self, life: &mut dyn FnMut());

    /// Runs `blocking` with the interpreter released. `blocking` blocks the thread or switches to other units.
    fn released(&self, blocking: &mut dyn FnMut());
}

/// The server's reactions to its sources.
pub trait Service {
    /// Serves a source at rest that has something to read. Runs in a unit; may park.
    fn serve(&self, source: SourceId, owner: usize);

    /// Handles the passed deadline of a source at rest.
    fn expired(&self, source: SourceId, owner: usize);

    /// Leaves new connections to the kernel when the request cap is reached (`true`), or accepts them again (`false`).
    fn at_capacity(&self, reached: bool);

    /// Does deferred work before the loop polls. Must not park.
    fn before_poll(&self) {}
}

/// Observes the turns of the loop, for other processes that ask whether it still turns.
pub trait Pulse {
    /// The loop is about to wait for events. Without the host's state.
    fn waits(&self, figures: &LoopFigures);

    /// A turn begins: the wait is over, or there was none. Without the host's state, which may take long to come back.
    fn turns(&self, figures: &LoopFigures);

    /// The host's state is back after a poll.
    fn resumes(&self) {}
}

/// Numbers of a loop at a poll.
#[derive(Clone, Copy, Debug)]
pub struct LoopFigures {
    /// Units that run work, parked ones included.
    pub busy: usize,
    /// Units that wait for work.
    pub idle: usize,
    /// Parks so far.
    pub parks: u64,
}

/// Watches a stream while work is in progress on it, even if that work waits for other things or for nothing. The cap
/// does not hold a watcher back: it serves requests that have begun.
pub trait StreamWatcher: Send + Sync + 'static {
    /// Handles a stream that may be readable or writable. Runs in a unit; must not wait long. `now` is the present time,
    /// or some milliseconds earlier, but not before the poll that knew of the stream.
    fn look(&self, now: Instant);

    /// Handles the passed deadline of the stream.
    fn expired(&self);

    /// Handles the stop of the server.
    fn stop(&self);
}
