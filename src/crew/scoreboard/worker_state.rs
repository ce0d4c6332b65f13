//! The states of a worker, and the reasons for which workers are replaced or end.

/// The state of a slot and its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum WorkerState {
    /// No worker owns the slot.
    Free = 0,
    /// The worker starts, or imports the application.
    Booting = 1,
    /// The worker accepts and serves.
    Ready = 2,
    /// The worker is about to end.
    Draining = 3,
}

impl WorkerState {
    /// All states, in their order.
    pub const ALL: [WorkerState; 4] =
        [WorkerState::Free, WorkerState::Booting, WorkerState::Ready, WorkerState::Draining];

    /// The name of the state.
    pub fn name(self) -> &'static str {
        match self {
            WorkerState::Free => "free",
            WorkerState::Booting => "booting",
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
        }
    }

    pub(super) fn of(number: u32) -> WorkerState {
        Self::ALL.into_iter().find(|state| *state as u32 == number).unwrap_or(WorkerState::Free)
    }
}

/// The reasons why a worker asks to be replaced, in the order of their numbers from 1.
pub const REASONS: [&str; 5] = ["requests", "memory", "lifetime", "reload", "stuck"];

/// The reasons for which workers have ended: those of [`REASONS`], and others.
pub const EXIT_REASONS: [&str; 11] =
    ["requests", "memory", "lifetime", "reload", "stuck", "scale_down", "stop", "timeout", "killed", "crash", "boot"];
