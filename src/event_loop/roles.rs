//! The parts that the layers above play for the loop.

use super::tokens::SourceId;

/// The surroundings of every unit. Implemented by the Python boundary, and by tests without Python.
pub trait Host: Send + Sync + 'static {
    /// Runs `life` with whatever a unit owns: called once on each unit's stack, returns when the unit ends.
    fn enter(&self, life: &mut dyn FnMut());

    /// Runs `blocking`, which blocks the thread or switches to other units, with the interpreter released.
    fn released(&self, blocking: &mut dyn FnMut());
}

/// The server's reactions to its sources.
pub trait Service {
    /// A source at rest has something to read. Runs in a unit; may park.
    fn serve(&self, source: SourceId, owner: usize);

    /// The deadline of a source at rest has passed.
    fn expired(&self, source: SourceId, owner: usize);

    /// The cap on requests has been reached (`true`) or left: take new connections or leave them to the kernel.
    fn at_capacity(&self, reached: bool);

    /// The loop is about to poll: work that was put off until now is due. Must not park.
    fn before_poll(&self) {}
}

/// Looks after a stream while work that may wait for other things, or for nothing, is in progress on it. Not held back by
/// the cap: it serves requests that have begun.
pub trait StreamWatcher: Send + Sync + 'static {
    /// The stream may be readable or writable. Runs in a unit; must not wait long.
    fn look(&self);

    /// The stream's deadline has passed.
    fn expired(&self);

    /// The server stops.
    fn stop(&self);
}
