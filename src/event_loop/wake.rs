//! The ways in which a wait ends.

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The event has happened, or may have: look again.
    Ready,
    /// The deadline passed first.
    TimedOut,
    /// The descriptor was closed meanwhile.
    Closed,
    /// The coroutine is asked to end.
    Killed,
    /// The coroutine is to look up from its wait; see [`interrupts`](super::interrupts).
    Interrupted,
}
