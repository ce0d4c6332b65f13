//! A worker's end of the crew: messages and descriptors to and from its siblings.
//!
//! Each worker listens on a Unix socket in the service's [`CrewPlace`], and connects to a sibling when it first sends
//! to it. A connection carries messages in one direction. Its first one names the sender, so messages of one sender
//! arrive in order. Nothing waits: a full or dead sibling is an error for the sender of that message alone
//! ([`NotSent`]).
//!
//! A sibling's generation is known from shared memory ([`Roster`]). A connection to a dead sibling is replaced when its
//! slot has a new owner.
//!
//! One worker is a crew of one. A [`Crew`] takes no socket until a message is sent or [`Crew::open`] is called.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::process::Pid;

use super::acceptor::Acceptor;
use super::context::{Context, CrewHost};
use super::message::{self, Sibling, Unsendable};
use super::outgoing::{Outgoing, Posted};
use super::place::CrewPlace;
use super::roster::{Roster, SlotOwner};
use crate::event_loop::Runtime;
use crate::net::{DESCRIPTORS_PER_CALL, LocalListener, LocalSocket};
use crate::sync::lock;

const _: () = assert!(message::MAX_DESCRIPTORS <= DESCRIPTORS_PER_CALL);

/// The reason why a message did not go to a sibling.
#[derive(Debug)]
pub enum NotSent {
    /// The message breaks a rule.
    Unsendable(Unsendable),
    /// The slot is the sender's own.
    OwnSlot(u32),
    /// The slot has no worker, or one that takes no messages.
    NoSibling(u32),
    /// The sibling's queue is full.
    Full {
        /// The sibling's slot.
        slot: u32,
        /// The number of messages in the queue.
        letters: usize,
    },
    /// The sibling has not accepted connections for so long that no further one may wait.
    NotAccepting(u32),
    /// The process on the sibling's socket has another user.
    Untrusted {
        /// The sibling's slot.
        slot: u32,
        /// The user of the process.
        user: u32,
    },
    /// The crew is closed, or belongs to the process that this one was forked from.
    Closed,
    /// The kernel refuses, mostly for the limit of open files.
    Failed(io::Error),
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotSent::Unsendable(error) => error.fmt(f),
            NotSent::OwnSlot(slot) => write!(f, "slot {slot} is this worker's own: a message needs no socket there"),
            NotSent::NoSibling(slot) => write!(f, "slot {slot} has no worker that takes messages"),
            NotSent::Full { slot, letters } => {
                write!(
                    f,
                    "{letters} messages wait for the worker of slot {slot}, which is the limit: it computes, or is slow"
                )
            }
            NotSent::NotAccepting(slot) => {
                write!(f, "too many connections wait for the worker of slot {slot}: it computes, or is stopped")
            }
            NotSent::Untrusted { slot, user } => {
                write!(f, "the socket of slot {slot} belongs to a process of user {user}, which is not of this service")
            }
            NotSent::Closed => f.write_str("the crew is closed in this process"),
            NotSent::Failed(error) => error.fmt(f),
        }
    }
}

/// The outcome of a message to several siblings.
#[derive(Debug, Default)]
pub struct Sent {
    /// The number of siblings that get it.
    pub number: usize,
    /// The siblings whose queue is full.
    pub full: Vec<Sibling>,
}

/// A worker's end of the crew.
pub struct Crew {
    place: CrewPlace,
    context: Arc<Context>,
    process: Pid,
    members: Mutex<CrewSockets>,
}

#[derive(Default)]
struct CrewSockets {
    is_closed: bool,
    acceptor: Option<Arc<Acceptor>>,
    outgoing: HashMap<u32, Arc<Outgoing>>,
}

impl Crew {
    /// The crew as the worker `own` sees it. Opens nothing.
    pub fn new(
        place: CrewPlace,
        own: Sibling,
        roster: Arc<dyn Roster>,
        host: Box<dyn CrewHost>,
        runtime: Arc<Runtime>,
    ) -> Crew {
        Crew {
            place,
            context: Arc::new(Context::new(own, roster, host, runtime)),
            process: rustix::process::getpid(),
            members: Mutex::default(),
        }
    }

    /// Opens the socket on which siblings find this worker, unless it is open.
    ///
    /// # Errors
    /// [`NotSent::Closed`], and [`NotSent::Failed`] with errors of bind(2).
    pub fn open(&self) -> Result<(), NotSent> {
        self.check_process()?;
        let mut members = lock(&self.members);
        if members.is_closed {
            return Err(NotSent::Closed);
        }
        if members.acceptor.is_none() {
            self.place.remove_predecessors(self.context.own);
            let listener = self.listen().map_err(NotSent::Failed)?;
            members.acceptor = Some(Acceptor::new(Arc::clone(&self.context), listener));
        }
        Ok(())
    }

    fn listen(&self) -> io::Result<LocalListener> {
        let mut failure = io::Error::from(Errno::NOENT);
        for address in self.place.addresses(self.context.own) {
            match LocalListener::bind(&address) {
                Ok(listener) => return Ok(listener),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Queues a message for the worker of `slot`, and sends it at once if the kernel takes it. Never waits. From any
    /// thread. The sibling gets duplicates of the descriptors; the caller's stay open.
    ///
    /// # Errors
    /// See [`NotSent`]. The message is not sent then.
    pub fn send(
        &self,
        slot: u32,
        kind: u8,
        payload: &Arc<[u8]>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), NotSent> {
        self.check_process()?;
        let header = message::header(kind, payload.len(), descriptors.len()).map_err(NotSent::Unsendable)?;
        // The connection may have ended without the worker's end: the second one is new.
        for _ in 0..2 {
            let outgoing = self.connection_to(slot)?;
            match outgoing.post(header, payload, descriptors).map_err(NotSent::Failed)? {
                Posted::Queued => return Ok(()),
                Posted::Full { letters } => return Err(NotSent::Full { slot, letters }),
                Posted::Gone => {}
            }
        }
        Err(NotSent::NoSibling(slot))
    }

    /// Sends a message to each sibling that listens to a channel of this place. Returns the numbers of those that get it
    /// and those whose queue is full. Nothing is sent to siblings in `resting`, which count as full. A sibling that takes
    /// no messages, or no longer, is left out.
    ///
    /// # Errors
    /// [`NotSent::Unsendable`], [`NotSent::Closed`].
    pub fn send_to_listeners(
        &self,
        place: usize,
        kind: u8,
        payload: &Arc<[u8]>,
        resting: &[Sibling],
    ) -> Result<Sent, NotSent> {
        let mut sent = Sent::default();
        for sibling in self.context.roster.listeners(place, self.context.own.slot) {
            if resting.contains(&sibling) {
                sent.full.push(sibling);
                continue;
            }
            match self.send(sibling.slot, kind, payload, &[]) {
                Ok(()) => sent.number += 1,
                Err(NotSent::Full { .. } | NotSent::NotAccepting(_)) => sent.full.push(sibling),
                Err(error @ (NotSent::Unsendable(_) | NotSent::Closed)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(sent)
    }

    /// Whether at least half of the queue for the worker of `slot` is free.
    pub fn has_room(&self, slot: u32) -> bool {
        lock(&self.members).outgoing.get(&slot).is_none_or(|outgoing| outgoing.is_half_empty())
    }

    /// The number of messages that wait until the kernel takes them.
    pub fn waiting(&self) -> usize {
        lock(&self.members).outgoing.values().map(|outgoing| outgoing.waiting()).sum()
    }

    fn connection_to(&self, slot: u32) -> Result<Arc<Outgoing>, NotSent> {
        if slot == self.context.own.slot {
            return Err(NotSent::OwnSlot(slot));
        }
        let owner = self.context.roster.owner(slot);
        let mut members = lock(&self.members);
        if members.is_closed {
            return Err(NotSent::Closed);
        }
        if let Some(known) = members.outgoing.get(&slot) {
            if !known.has_ended() && owner.is_some_and(|owner| owner.worker == known.sibling) {
                return Ok(Arc::clone(known));
            }
            known.close();
            members.outgoing.remove(&slot);
        }
        let sibling = owner.ok_or(NotSent::NoSibling(slot))?.worker;
        let socket = self.connect(sibling)?;
        let outgoing = Outgoing::new(Arc::clone(&self.context), sibling, socket);
        members.outgoing.insert(slot, Arc::clone(&outgoing));
        Ok(outgoing)
    }

    fn connect(&self, sibling: Sibling) -> Result<LocalSocket, NotSent> {
        for address in self.place.addresses(sibling) {
            match LocalSocket::connect(&address) {
                Ok(socket) => return self.check_peer(socket, sibling),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::CONNREFUSED) => {}
                    Some(Errno::AGAIN) => return Err(NotSent::NotAccepting(sibling.slot)),
                    _ => return Err(NotSent::Failed(error)),
                },
            }
        }
        Err(NotSent::NoSibling(sibling.slot))
    }

    /// An abstract name may be taken by any user's process.
    fn check_peer(&self, socket: LocalSocket, sibling: Sibling) -> Result<LocalSocket, NotSent> {
        let peer = socket.peer().map_err(NotSent::Failed)?;
        if self.context.trusts(peer) {
            Ok(socket)
        } else {
            Err(NotSent::Untrusted { slot: sibling.slot, user: peer.user })
        }
    }

    /// The other workers of the service, by their slots.
    pub fn siblings(&self) -> Vec<SlotOwner> {
        let roster = &self.context.roster;
        let others = (0..roster.slots()).filter(|&slot| slot != self.context.own.slot);
        others.filter_map(|slot| roster.owner(slot)).collect()
    }

    /// Numbers of events since the worker began, each with its name.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        let counts = &self.context.counts;
        [
            ("sent", &counts.sent),
            ("received", &counts.received),
            ("refused", &counts.refused),
            ("lost", &counts.lost),
            ("faults", &counts.faults),
        ]
        .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// Has siblings send nothing more to this worker, which is about to end: their next message is an error for them.
    /// Messages that the kernel has taken are still handled. Wait for the end of [`Self::is_receiving`].
    pub fn end_receiving(&self) {
        let acceptor = lock(&self.members).acceptor.clone();
        if let Some(acceptor) = acceptor {
            acceptor.end_receiving();
        }
    }

    /// Whether a connection of a sibling is open.
    pub fn is_receiving(&self) -> bool {
        self.context.counts.incoming.load(Ordering::Relaxed) > 0
    }

    /// Closes all sockets, from any thread. Messages that the kernel has not taken are lost.
    pub fn close(&self) {
        if self.check_process().is_err() {
            return;
        }
        let (acceptor, outgoing) = {
            let mut members = lock(&self.members);
            members.is_closed = true;
            (members.acceptor.take(), std::mem::take(&mut members.outgoing))
        };
        if let Some(acceptor) = acceptor {
            acceptor.close();
        }
        for connection in outgoing.values() {
            connection.close();
        }
    }

    /// In a forked child the sockets are the parent's, and a lock may be held for ever.
    fn check_process(&self) -> Result<(), NotSent> {
        if self.process == rustix::process::getpid() { Ok(()) } else { Err(NotSent::Closed) }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.close();
    }
}
