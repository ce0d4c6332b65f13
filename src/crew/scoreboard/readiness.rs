//! Readiness: a worker serves while it is ready, its process exists, and its loop turns in time.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::time::ClockId;

use super::clock::nanoseconds;
use super::mapping::Scoreboard;
use super::worker_state::WorkerState;

/// How long a turn of the loop may last until its worker counts as stuck.
pub const TURN_LIMIT: Duration = Duration::from_secs(5);

impl Scoreboard {
    /// How long the running turn of the worker's loop has lasted; zero while the loop waits for events.
    pub fn turn_age(&self, index: u32) -> Duration {
        let begun = self.slot(index).map_or(0, |slot| slot.turn.load(Ordering::Acquire));
        if begun == 0 {
            Duration::ZERO
        } else {
            Duration::from_nanos(nanoseconds(ClockId::Monotonic).saturating_sub(begun))
        }
    }

    /// Whether a worker serves: it is ready, alive, and its loop turns within `turn_limit`.
    pub fn is_ready(&self, index: u32, turn_limit: Duration) -> bool {
        self.state(index) == WorkerState::Ready && self.turn_age(index) <= turn_limit && self.is_alive(index)
    }

    /// Whether the process of the slot's worker exists. A worker that has not written its process id counts as alive.
    pub fn is_alive(&self, index: u32) -> bool {
        let pid = i32::try_from(self.pid(index)).ok().and_then(Pid::from_raw);
        // A process of another user exists as well (EPERM).
        pid.is_none_or(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    /// The number of workers that serve.
    pub fn ready_workers(&self, turn_limit: Duration) -> u32 {
        (0..self.slots()).map(|index| u32::from(self.is_ready(index, turn_limit))).sum()
    }
}
