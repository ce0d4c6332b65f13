//! The outcomes of a wait.

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The event may have happened: check again.
    Ready,
    /// The deadline passed first.
    TimedOut,
    /// The descriptor was closed during the wait.
    Closed,
    /// The coroutine is asked to end.
    Killed,
    /// An exception or an alarm interrupted the wait; see [`interrupts`](super::interrupts).
    Interrupted,
}
