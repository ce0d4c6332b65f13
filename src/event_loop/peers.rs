//! The function for peers that reset or hang up while their work is in progress.

use std::sync::OnceLock;

use super::tokens::WorkId;

static HUNG_UP: OnceLock<fn(WorkId)> = OnceLock::new();

/// Sets the function for work whose peer is gone. It runs as work of the loop and may park.
pub fn when_hung_up(function: fn(WorkId)) {
    let _ = HUNG_UP.set(function);
}

/// The peer of `work` is gone.
pub(super) fn hung_up(work: WorkId) {
    if let Some(function) = HUNG_UP.get() {
        function(work);
    }
}
