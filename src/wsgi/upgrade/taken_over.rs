//! A connection that a library has taken over: the server only looks after its stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use pyo3::prelude::*;

use super::on_the_loop;
use crate::event_loop::{self, StreamWatcher, streams};
use crate::interp::{Level, log};
use crate::net::{Pace, Stream};

/// Whether the warning of [`warn_if_unpatched`] has been given.
static IS_WARNED: AtomicBool = AtomicBool::new(false);

/// Looks after the stream from now on. With `is_last`, the server stops already.
///
/// # Errors
/// RuntimeError when the loop has ended.
pub(super) fn begin(py: Python<'_>, stream: &Arc<Stream>, is_last: bool) -> PyResult<()> {
    let watcher = Arc::new(TakenStreamWatcher(Arc::downgrade(stream)));
    let source = stream.source();
    on_the_loop(py, move || streams::set_stream_watcher(source, Some(watcher)))?;
    if is_last {
        // A stop notifies the watchers that exist at that time; this one came later.
        stream.shutdown_read();
    }
    warn_if_unpatched(py)
}

/// Ends the request of the connection: sends what TLS still holds. On the loop.
///
/// # Parks
pub(super) fn finish(stream: &Stream, pace: &Pace) {
    streams::set_stream_watcher(stream.source(), None);
    // A client that is gone needs no answer.
    let _ = stream.write_all(&[b""], pace);
}

struct TakenStreamWatcher(Weak<Stream>);

impl StreamWatcher for TakenStreamWatcher {
    /// Sends what TLS could not send at once.
    fn look(&self, _now: Instant) {
        if let Some(stream) = self.0.upgrade() {
            let _ = stream.flush_now();
        }
    }

    fn expired(&self) {}

    /// Lets the library read what has arrived, and then the end of the stream. It may still send.
    fn stop(&self) {
        if let Some(stream) = self.0.upgrade() {
            stream.shutdown_read();
        }
    }
}

/// Warns once if `threading` is not patched: libraries that take connections over wait with it, and then everything
/// stops.
fn warn_if_unpatched(py: Python<'_>) -> PyResult<()> {
    if !event_loop::can_park() || IS_WARNED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    let is_patched = py.import("rmeinheld.patch")?.call_method1("is_patched", ("threading",))?.is_truthy()?;
    if !is_patched {
        let message = "A library has taken a connection over (environ[\"gunicorn.socket\"]), and threading is not \
                       patched: if the library waits for a thread, the whole process waits. Call \
                       rmeinheld.patch.patch_all() before any other import.";
        log(py, Level::Warning, message, None);
    }
    Ok(())
}
