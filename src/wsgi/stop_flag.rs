//! Whether the server stops: one flag for the server, its requests and the applications.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The flag, which all clones share. Once set, it stays set.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Sets the flag: from now on every response announces the end of its connection. From any thread.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Does the server stop?
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
