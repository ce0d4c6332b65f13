//! The socket on which a worker accepts the connections of its siblings.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::context::Context;
use super::incoming::Incoming;
use crate::event_loop::{SourceId, StreamWatcher, streams, turn};
use crate::net::{LocalListener, LocalSocket};
use crate::sync::lock;

/// The most connections of siblings. Each sibling needs one, and a scoreboard has at most some hundred slots.
const MAX_INCOMING: usize = 1024;

/// The pause before the next attempt to accept, if no descriptor or memory is left.
const RETRY: Duration = Duration::from_millis(200);

/// A listening socket and the connections that it has accepted.
pub struct Acceptor {
    context: Arc<Context>,
    open: Mutex<OpenAcceptor>,
}

struct OpenAcceptor {
    /// `None` once it is closed.
    listener: Option<LocalListener>,
    source: Option<SourceId>,
    connections: Vec<Weak<Incoming>>,
    /// Messages that have arrived are read, and no more come.
    is_ending: bool,
}

impl Acceptor {
    /// Accepts from `listener`, once the loop turns.
    pub fn new(context: Arc<Context>, listener: LocalListener) -> Arc<Acceptor> {
        let open = OpenAcceptor { listener: Some(listener), source: None, connections: Vec::new(), is_ending: false };
        let acceptor = Arc::new(Acceptor { context, open: Mutex::new(open) });
        let registered = Arc::clone(&acceptor);
        acceptor.context.on_loop(move || registered.register());
        acceptor
    }

    /// Registers the socket with the loop. On the loop thread.
    fn register(self: &Arc<Self>) {
        let mut open = lock(&self.open);
        let Some(listener) = &open.listener else { return };
        match streams::add_watched(listener.as_fd(), Arc::clone(self) as Arc<dyn StreamWatcher>) {
            Ok(source) => open.source = Some(source),
            Err(_) => {
                // Siblings find no socket, and count the worker as one that takes no messages.
                open.listener = None;
            }
        }
    }

    /// Closes the socket and all connections, from any thread.
    pub fn close(&self) {
        let (listener, source, connections) = {
            let mut open = lock(&self.open);
            (open.listener.take(), open.source.take(), std::mem::take(&mut open.connections))
        };
        if let Some(mut listener) = listener {
            listener.unlink();
            self.context.unregister(source, listener);
        }
        for connection in connections.iter().filter_map(Weak::upgrade) {
            connection.close();
        }
    }

    /// Has siblings send nothing more to this worker. Connections and messages that the kernel has already taken from
    /// them are still read.
    pub fn end_receiving(&self) {
        let connections = {
            let mut open = lock(&self.open);
            open.is_ending = true;
            if let Some(listener) = &mut open.listener {
                listener.unlink();
                listener.end_listening();
            }
            open.connections.clone()
        };
        for connection in connections.iter().filter_map(Weak::upgrade) {
            connection.end_reading();
        }
    }

    fn accept(&self) -> io::Result<Option<LocalSocket>> {
        lock(&self.open).listener.as_ref().map_or(Ok(None), LocalListener::accept)
    }

    /// # Parks
    fn admit(&self, socket: LocalSocket) {
        let Ok(peer) = socket.peer() else { return };
        let counts = &self.context.counts;
        if !self.context.trusts(peer) {
            let own = rustix::process::geteuid().as_raw();
            self.context.complain(&format!(
                "refused a connection of user {} (process {}) to the crew's socket: only user {own} and root may connect",
                peer.user, peer.process
            ));
        } else if counts.incoming.load(Ordering::Relaxed) >= MAX_INCOMING && !self.make_room() {
            self.context.complain(&format!(
                "refused a connection of process {} to the crew's socket: there are {MAX_INCOMING} connections",
                peer.process
            ));
        } else {
            match Incoming::accept(Arc::clone(&self.context), socket, peer) {
                Ok(incoming) => self.keep(&incoming),
                Err(error) => self.context.complain(&format!("cannot poll a connection of the crew: {error}")),
            }
        }
    }

    /// Closes the oldest connection that has not named its sender. A sibling does that at once, so a flood of idle
    /// connections keeps no sibling out. Returns whether there was one.
    fn make_room(&self) -> bool {
        let connections = lock(&self.open).connections.clone();
        connections.iter().filter_map(Weak::upgrade).any(|connection| connection.give_up())
    }

    fn keep(&self, incoming: &Arc<Incoming>) {
        let mut open = lock(&self.open);
        open.connections.retain(|connection| connection.strong_count() > 0);
        open.connections.push(Arc::downgrade(incoming));
        let (is_closed, is_ending) = (open.listener.is_none(), open.is_ending);
        drop(open);
        if is_ending {
            incoming.end_reading();
        }
        if is_closed {
            incoming.close();
        }
    }

    fn source(&self) -> Option<SourceId> {
        lock(&self.open).source
    }
}

impl StreamWatcher for Acceptor {
    fn look(&self, _now: Instant) {
        loop {
            match self.accept() {
                Ok(Some(socket)) => self.admit(socket),
                Ok(None) => return,
                Err(_) => {
                    // No descriptor or memory is left. The connection stays in the queue, without another event.
                    if let Some(source) = self.source() {
                        streams::set_deadline(source, Some(Instant::now() + RETRY));
                    }
                    return;
                }
            }
            if turn::is_spent() {
                if let Some(source) = self.source() {
                    streams::watch_later(source);
                }
                return;
            }
        }
    }

    fn expired(&self) {
        self.look(Instant::now());
    }

    /// Messages go on while the server stops.
    fn stop(&self) {}
}
