//! Memory of coroutines that wait for long (see [`crate::coroutine::Parking`]), and of bursts that have ended.

use std::time::{Duration, Instant};

use super::state::LoopState;
use super::timers::Target;
use crate::kernel::return_free_memory;

/// Interval between two looks for coroutines that wait. One that both looks find in the same wait is trimmed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Coroutines for each of which the interval is as much longer, so that a look at very many costs little.
const UNITS_PER_INTERVAL: u32 = 8192;

/// Stacks that are trimmed between two turns: under a millisecond of system calls.
const TRIMS_PER_SWEEP: usize = 256;

/// Pause after a sweep that has left some stacks to the next one.
const PAUSE: Duration = Duration::from_millis(10);

/// Time from the end of a burst, or of a part of it, until its memory is returned.
const RETURN_DELAY: Duration = Duration::from_millis(200);

impl LoopState {
    /// Sets the timer for the return of a burst's memory when the burst has ended.
    pub fn look_for_burst(&mut self) {
        if self.peaks.has_burst_ended(self.units.len(), self.poller.source_count()) {
            self.timers.insert(Instant::now() + RETURN_DELAY, Target::EndOfBurst);
        }
    }

    /// Returns the memory of a burst to the kernel.
    pub fn return_memory(&mut self) {
        self.peaks.begin(self.units.len(), self.poller.source_count());
        self.poller.shrink();
        return_free_memory();
    }

    /// Notes that a unit is about to wait. Sweeps happen only as long as there is something for them to find.
    pub fn note_wait(&mut self) {
        if !self.is_sweep_due {
            self.sweep_after(SWEEP_INTERVAL * (1 + u32::try_from(self.units.len()).unwrap_or(0) / UNITS_PER_INTERVAL));
        }
    }

    /// Trims the stacks of units that have waited since the last sweep.
    pub fn sweep(&mut self) {
        let (mut trims, mut is_new) = (0, false);
        for (_, unit) in &self.units {
            let wait = unit.waiting.get();
            if wait == 0 || unit.trimmed.get() == wait {
                continue;
            }
            if unit.swept.replace(wait) != wait {
                is_new = true;
            } else if trims < TRIMS_PER_SWEEP {
                trims += 1;
                unit.trimmed.set(wait);
                unit.parking.trim();
            }
        }
        self.is_sweep_due = false;
        if trims == TRIMS_PER_SWEEP {
            self.sweep_after(PAUSE);
        } else if is_new {
            self.note_wait();
        }
    }

    fn sweep_after(&mut self, pause: Duration) {
        self.is_sweep_due = true;
        self.timers.insert(Instant::now() + pause, Target::Sweep);
    }
}
