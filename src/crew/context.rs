//! The parts of a crew that all its connections share.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::message::{Letter, Sibling};
use super::roster::Roster;
use crate::event_loop::{LoopMessage, Runtime, SourceId, streams};
use crate::net::PeerCredentials;
use crate::sync::lock;

/// The log has one line for the complaints of this time. A flood of connections must not become a flood of lines.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// The worker that a crew's messages are for.
pub trait CrewHost: Send + Sync + 'static {
    /// Handles a message. Those of one sender come in order, and the next one waits until this call has returned. Runs
    /// in a unit; may park.
    fn receive(&self, sender: Sibling, letter: Letter<OwnedFd>);

    /// Handles the end of a sibling's connection. Runs in a unit; may park.
    fn gone(&self, sender: Sibling);

    /// Logs a complaint about a connection. Runs in a unit; may park.
    fn complain(&self, text: &str);
}

/// Events since the worker began.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that were queued for a sibling.
    pub sent: AtomicU64,
    /// Messages that arrived.
    pub received: AtomicU64,
    /// Messages that were refused because the sibling's queue was full.
    pub refused: AtomicU64,
    /// Queued messages whose sibling died first.
    pub lost: AtomicU64,
    /// Connections that were closed for a fault of the peer.
    pub faults: AtomicU64,
    /// Open connections of siblings.
    pub incoming: AtomicUsize,
}

/// The parts that all connections of a crew share.
pub struct Context {
    pub own: Sibling,
    pub roster: Arc<dyn Roster>,
    pub host: Box<dyn CrewHost>,
    pub runtime: Arc<Runtime>,
    pub counts: Counts,
    complaints: Mutex<Complaints>,
}

#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// Complaints since the last line.
    suppressed: u64,
}

impl Context {
    pub fn new(own: Sibling, roster: Arc<dyn Roster>, host: Box<dyn CrewHost>, runtime: Arc<Runtime>) -> Context {
        Context { own, roster, host, runtime, counts: Counts::default(), complaints: Mutex::default() }
    }

    /// Counts a fault of a peer, and logs it unless the log has just had such a line.
    ///
    /// # Parks
    pub fn complain(&self, fault: &str) {
        self.counts.faults.fetch_add(1, Ordering::Relaxed);
        let suppressed = {
            let mut complaints = lock(&self.complaints);
            let now = Instant::now();
            if complaints.last.is_some_and(|last| now.duration_since(last) < COMPLAINT_INTERVAL) {
                complaints.suppressed += 1;
                return;
            }
            complaints.last = Some(now);
            std::mem::take(&mut complaints.suppressed)
        };
        let more =
            if suppressed > 0 { format!(" ({suppressed} more since the last such line)") } else { String::new() };
        self.host.complain(&format!("{fault}{more}"));
    }

    /// Whether a process with these credentials may belong to the crew: it has this process's user, or is root's.
    pub fn trusts(&self, peer: PeerCredentials) -> bool {
        peer.user == rustix::process::geteuid().as_raw() || peer.user == 0
    }

    /// Runs `action` on the loop thread: now, or soon if this is another thread. `action` must not park.
    pub fn on_loop(&self, action: impl FnOnce() + Send + 'static) {
        if self.runtime.is_here() {
            action();
        } else {
            self.runtime.send(LoopMessage::Control(Box::new(action)));
        }
    }

    /// Forgets a source, from any thread, and then closes its socket.
    pub fn unregister<S: Send + 'static>(&self, source: Option<SourceId>, socket: S) {
        let Some(source) = source else { return };
        self.on_loop(move || {
            // First the watcher, which may hold the last reference to a connection.
            streams::set_stream_watcher(source, None);
            streams::remove(source, None);
            drop(socket);
        });
    }
}
