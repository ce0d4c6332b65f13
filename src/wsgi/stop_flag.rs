//! The stop of a server, as its requests and the applications see it: one flag, and the terms of the stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::sync::lock;

/// The flag, which all clones share. Once set, it stays set.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    is_set: AtomicBool,
    restarts: AtomicBool,
    kept_until: Mutex<Option<Instant>>,
}

impl StopFlag {
    /// Sets the flag: from now on responses announce the end of their connections. From any thread.
    pub fn set(&self) {
        self.0.is_set.store(true, Ordering::Release);
    }

    /// Does the server stop?
    pub fn is_set(&self) -> bool {
        self.0.is_set.load(Ordering::Acquire)
    }

    /// Sets the terms of the stop, before or after the flag. Until `kept_until` a connection is kept for requests that
    /// have arrived. `restarts` says that another process takes over.
    pub fn set_terms(&self, kept_until: Instant, restarts: bool) {
        *lock(&self.0.kept_until) = Some(kept_until);
        self.0.restarts.store(restarts, Ordering::Release);
    }

    /// Until when connections are kept once the server stops; `None` before a stop.
    pub fn kept_until(&self) -> Option<Instant> {
        *lock(&self.0.kept_until)
    }

    /// Does another process take over?
    pub fn restarts(&self) -> bool {
        self.0.restarts.load(Ordering::Acquire)
    }

    /// Does a stopping server still keep connections for requests that have arrived?
    pub fn keeps_connections(&self) -> bool {
        self.kept_until().is_some_and(|until| Instant::now() < until)
    }
}
