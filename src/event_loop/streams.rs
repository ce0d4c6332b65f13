//! Streams of the server: registering, resting, watching, deadlines. Call these functions on the loop thread only.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::poller::SourceOwner;
use super::roles::StreamWatcher;
use super::state::{Work, with};
use super::timers::LoopTime;
use super::tokens::{SourceId, WorkId};

/// Adds a connected stream; [`Service`](super::Service) handles its events. If epoll refuses the stream later, its
/// reader finds the end, and a line is logged. Remove the stream before its descriptor is closed, or call [`register`].
///
/// # Errors
/// Fails on another thread than the loop's.
pub fn add(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
    with(|state| state.poller.add_stream(descriptor, owner)).ok_or_else(off_the_loop)
}

/// Registers a stream now, since another thread may close its descriptor. The registration ends with the descriptor.
pub fn register(id: SourceId) {
    with(|state| state.poller.register_early(id));
}

/// Registers a socket that is not the service's. Its events and deadlines go to `watcher`, which is called once at first.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn add_watched(descriptor: BorrowedFd<'_>, watcher: Arc<dyn StreamWatcher>) -> io::Result<SourceId> {
    with(|state| {
        let id = state.poller.add_watched(descriptor)?;
        state.set_stream_watcher(id, Some(watcher));
        Ok(id)
    })
    .unwrap_or_else(|| Err(off_the_loop()))
}

/// Sets whether a stream's events include that its output has room (at first they do). A stream without queued output
/// would wake the loop each time its peer has read.
pub fn await_output(id: SourceId, descriptor: BorrowedFd<'_>, awaits: bool) {
    with(|state| state.poller.await_output(id, descriptor, awaits));
}

/// Registers a listening socket.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn add_listener(descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
    with(|state| state.poller.add_listener(descriptor, owner)).unwrap_or_else(|| Err(off_the_loop()))
}

/// Leaves a listening socket to other processes until [`resume_listener`]. Its source stays, for a deadline.
pub fn pause_listener(id: SourceId, descriptor: BorrowedFd<'_>) {
    with(|state| state.poller.pause_listener(id, descriptor));
}

/// Polls a listening socket again.
///
/// # Errors
/// Errors of epoll_ctl(2).
pub fn resume_listener(id: SourceId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    with(|state| state.poller.resume_listener(id, descriptor)).unwrap_or_else(|| Err(off_the_loop()))
}

/// Forgets a source. Pass the descriptor if it stays open.
pub fn remove(id: SourceId, descriptor: Option<BorrowedFd<'_>>) {
    with(|state| state.remove_source(id, descriptor));
}

/// Records that a read follows. Returns whether the peer is known to have ended the stream.
pub fn about_to_read(id: SourceId) -> bool {
    with(|state| {
        state.poller.source(id).is_some_and(|source| {
            source.readable = false;
            source.peer_closed
        })
    })
    .unwrap_or(false)
}

/// Records that more input may be ready, since the last read filled its buffer.
pub fn may_have_more(id: SourceId) {
    with(|state| {
        if let Some(source) = state.poller.source(id) {
            source.readable = true;
        }
    });
}

/// Puts a source at rest: the service gets its next event. Returns `false` if unread input is already known.
pub fn rest(id: SourceId) -> bool {
    with(|state| !state.rest(id)).unwrap_or(true)
}

/// Puts a source at rest. If unread input is known, queues the source after all ready work instead.
pub fn rest_or_queue(id: SourceId, owner: usize) {
    with(|state| {
        if state.rest(id) {
            state.requests.push_back(Work::Serve(id, owner));
        }
    });
}

/// Queues a source for the service after all ready work, whatever the poller knows. Its owner holds bytes that another
/// process has read, so the source is served before the next poll.
pub fn serve_soon(id: SourceId, owner: usize) {
    with(|state| {
        state.requests.push_back(Work::Serve(id, owner));
        state.budget += 1;
    });
}

/// Queues a new source for the service after all ready work: its first request may be there already.
pub fn serve_new(id: SourceId, owner: usize) {
    with(|state| {
        if let Some(source) = state.poller.source(id) {
            source.at_rest = false;
            state.requests.push_back(Work::Serve(id, owner));
            state.budget += 1;
        }
    });
}

/// Queues a source for the service before all new requests, also at the cap. Its connection has to send the rest of an
/// answer, so its request is not over.
pub fn serve_first(id: SourceId) {
    with(|state| {
        if let Some(source) = state.poller.source(id)
            && let SourceOwner::Service(owner) = source.owner()
        {
            source.at_rest = false;
            state.tasks.push_back(Work::Serve(id, owner as usize));
        }
    });
}

/// Whether another request is ready, which runs before the next poll.
pub fn has_next_request() -> bool {
    with(|state| state.budget > 0 && matches!(state.requests.front(), Some(Work::Serve(..)))).unwrap_or(false)
}

/// Queues a source for the service after all other work, whatever the poller knows. Its owner holds bytes that it has
/// already read.
pub fn serve_later(id: SourceId, owner: usize) {
    with(|state| state.later.push_back(Work::Serve(id, owner)));
}

/// Queues another call of a source's watcher after all other work: one turn was too short.
pub fn watch_later(id: SourceId) {
    with(|state| state.watch_later(id));
}

/// Queues a call of a source's watcher after all ready work.
pub fn watch_soon(id: SourceId) {
    with(|state| state.watch_soon(id));
}

/// Sets a stream's watcher and queues a call of it, or removes the watcher.
pub fn set_stream_watcher(id: SourceId, watcher: Option<Arc<dyn StreamWatcher>>) {
    let previous = with(|state| state.set_stream_watcher(id, watcher));
    // Dropped outside `with`: the watcher may hold the last reference to a stream.
    drop(previous);
}

/// The sources that have a watcher.
pub fn watched() -> Vec<SourceId> {
    with(|state| state.poller.watched()).unwrap_or_default()
}

/// Queues [`StreamWatcher::stop`] for a source's watcher, if it has one.
pub fn stop_watcher(id: SourceId) {
    with(|state| {
        if let Some(watcher) = state.poller.source(id).and_then(|source| source.watcher().cloned()) {
            state.tasks.push_back(Work::Task(Box::new(move || watcher.stop())));
        }
    });
}

/// How long the input of a source has waited since the poller first knew of it. Zero unless
/// [`keep_polls`](super::activity::keep_polls) was called.
pub fn input_waits(id: SourceId) -> Duration {
    let ready_at = with(|state| state.poller.source(id).map(|source| source.ready_at)).flatten();
    ready_at.map_or(Duration::ZERO, |ready_at| ready_at.elapsed())
}

/// Whether the poller knows of unread input.
pub fn is_readable(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.readable)).unwrap_or(false)
}

/// Whether the poller knows that the peer has ended its side.
pub fn is_peer_closed(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.peer_closed)).unwrap_or(false)
}

/// Has `work` end when the peer resets or hangs up ([`peers`](super::peers)), or no work any more.
pub fn set_ends_with_peer(id: SourceId, work: Option<WorkId>) {
    with(|state| {
        if let Some(source) = state.poller.source(id) {
            source.set_ends_with_peer(work);
        }
    });
}

/// Whether the source has a deadline.
pub fn has_deadline(id: SourceId) -> bool {
    with(|state| state.poller.source(id).is_some_and(|source| source.deadline.is_some())).unwrap_or(false)
}

/// The deadline of the source.
pub fn deadline(id: SourceId) -> Option<Instant> {
    with(|state| {
        let deadline = state.poller.source(id)?.deadline?;
        Some(state.timers.instant(deadline))
    })
    .flatten()
}

/// Sets the deadline of a source at rest; `None` removes it.
pub fn set_deadline(id: SourceId, deadline: Option<Instant>) {
    with(|state| state.set_deadline(id, deadline));
}

/// Sets the deadline of a source at rest to the end of `delay`. Costs less than [`set_deadline`].
pub fn set_time_left(id: SourceId, delay: Duration) {
    with(|state| state.set_loop_deadline(id, Some(LoopTime::after(delay))));
}

fn off_the_loop() -> io::Error {
    io::Error::other("only the loop thread registers streams")
}
