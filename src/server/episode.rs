//! Conditions that last: the log has one line for each episode.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// A condition that is met again within this time is the same episode.
const END: Duration = Duration::from_secs(10);

/// A condition that the log has one line for.
#[derive(Default)]
pub struct Episode {
    last_met: Cell<Option<Instant>>,
}

impl Episode {
    /// Notes that the condition is met. Returns true if a new episode begins.
    pub fn is_new(&self) -> bool {
        let now = Instant::now();
        self.last_met.replace(Some(now)).is_none_or(|last| now.duration_since(last) > END)
    }
}
