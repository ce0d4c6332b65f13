//! Streams of the server: registering, resting, watching, deadlines. On the loop thread only.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use super::roles::StreamWatcher;
use super::state::{Work, with};
use super::tokens::SourceId;

/// Registers a connected stream; see [`Service`](super::Service) for what happens next.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn add(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
    with(|state| state.poller.add_stream(descriptor, owner)).unwrap_or_else(|| Err(off_the_loop()))
}

/// Registers a listening socket.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn add_listener(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
    with(|state| state.poller.add_listener(descriptor, owner)).unwrap_or_else(|| Err(off_the_loop()))
}

/// Leaves a listening socket to other processes until it is resumed. Its source stays, for a deadline.
pub fn pause_listener(id: SourceId, descriptor: BorrowedFd<'_>) {
    with(|state| state.poller.pause_listener(id, descriptor));
}

/// Looks at a listening socket again.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn resume_listener(id: SourceId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    with(|state| state.poller.resume_listener(id, descriptor)).unwrap_or_else(|| Err(off_the_loop()))
}

/// Forgets a source. Give the descriptor if it stays open.
pub fn remove(id: SourceId, descriptor: Option<BorrowedFd<'_>>) {
    with(|state| state.remove_source(id, descriptor));
}

/// Notes that a read is about to be tried. Returns whether the peer's end of the stream is known to be waiting.
pub fn about_to_read(id: SourceId) -> bool {
    with(|state| {
        state.poller.source(id).is_some_and(|source| {
            source.readable = false;
            source.peer_closed
        })
    })
    .unwrap_or(false)
}

/// Notes that there may be more to read at once: the last read filled its buffer.
pub fn may_have_more(id: SourceId) {
    with(|state| {
        if let Some(source) = state.poller.source(id) {
            source.readable = true;
        }
    });
}

/// Puts a source at rest: the service gets its next event. `false` if it has something to read already.
pub fn rest(id: SourceId) -> bool {
    with(|state| !state.rest(id)).unwrap_or(true)
}

/// Puts a source at rest; if it has something to read already, its turn comes after what is ready now.
pub fn rest_or_queue(id: SourceId, owner: usize) {
    with(|state| {
        if state.rest(id) {
            state.requests.push_back(Work::Serve(id, owner));
        }
    });
}

/// Has the service look at a source again after all others, whatever the poller knows of it: its owner holds bytes
/// that it has read already.
pub fn serve_later(id: SourceId, owner: usize) {
    with(|state| state.later.push_back(Work::Serve(id, owner)));
}

/// Calls a source's watcher again after all others: it has more to do than one turn allows.
pub fn watch_later(id: SourceId) {
    with(|state| state.watch_later(id));
}

/// Calls a source's watcher after what is ready now.
pub fn watch_soon(id: SourceId) {
    with(|state| state.watch_soon(id));
}

/// Gives a stream a watcher, and queues a call of it, or takes it away.
pub fn set_stream_watcher(id: SourceId, watcher: Option<Arc<dyn StreamWatcher>>) {
    let previous = with(|state| state.set_stream_watcher(id, watcher));
    // Outside: it may hold the last reference to a stream.
    drop(previous);
}

/// Tells every watcher that the server stops.
pub fn stop_stream_watchers() {
    with(|state| {
        for watcher in state.poller.stream_watchers() {
            state.tasks.push_back(Work::Task(Box::new(move || watcher.stop())));
        }
    });
}

/// Whether there is something to read that has not been read yet, as far as the poller knows.
pub fn is_readable(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.readable)).unwrap_or(false)
}

/// Whether the peer has ended its side, as far as the poller knows.
pub fn is_peer_closed(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.peer_closed)).unwrap_or(false)
}

/// Whether a deadline is set.
pub fn has_deadline(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.deadline.is_some())).unwrap_or(false)
}

/// The deadline that is set.
pub fn deadline(id: SourceId) -> Option<Instant> {
    with(|state| state.poller.source(id).and_then(|source| source.deadline)).flatten()
}

/// Sets the deadline of a source at rest; none takes it away.
pub fn set_deadline(id: SourceId, deadline: Option<Instant>) {
    with(|state| state.set_deadline(id, deadline));
}

fn off_the_loop() -> io::Error {
    io::Error::other("not on the loop thread")
}
