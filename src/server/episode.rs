//! Conditions that last: each is said once, however often it is met.

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
    /// Notes that the condition is met. Returns whether that is news.
    pub fn is_new(&self) -> bool {
        let now = Instant::now();
        self.last_met.replace(Some(now)).is_none_or(|last| now.duration_since(last) > END)
    }
}
