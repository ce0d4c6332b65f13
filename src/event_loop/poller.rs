//! epoll, and the registry of its sources.
//!
//! Two kinds of source exist. A *stream* is a socket of the server, registered once for both directions, edge-triggered
//! and never modified again. Its registration comes before the poll that follows, since no event comes earlier: a
//! connection that is accepted, served and closed between two polls needs none. A *descriptor* belongs to the application, which may close it, reuse its number or wait on
//! it from ten coroutines. The poller arms it one-shot for every wait, and so notices a reused number.

mod source;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::net::Shutdown;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use slab::Slab;

use super::interest::Interest;
use super::tokens::{SourceId, Ticket, WorkId};
use crate::kernel::{LentDescriptor, timespec};

use source::{Links, Poll};
pub use source::{Source, SourceOwner};

/// The most events taken from the kernel at a time.
const EVENTS_PER_POLL: usize = 256;

/// epoll flags of a listening socket. Level triggering reports connections that stay in the queue again. The exclusive
/// flag wakes one of several processes.
const LISTENER: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::EXCLUSIVE);

/// epoll flags of a stream.
const STREAM: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::OUT).union(epoll::EventFlags::RDHUP).union(epoll::EventFlags::ET);

/// epoll flags of a stream whose output has room.
const INPUT: epoll::EventFlags = STREAM.difference(epoll::EventFlags::OUT);

/// Deadlines within this time use the timeout of epoll_wait(2); later ones use the alarm. Idle connections have late
/// deadlines. A timeout would make the kernel set and cancel a timer for each of their requests.
const NEAR: Duration = Duration::from_millis(50);

/// Work that an event causes for the loop.
pub enum Notice {
    /// This wait ends.
    Wake(Ticket),
    /// The service serves this source.
    Serve(SourceId, usize),
    /// The loop calls this source's watcher.
    Watch(SourceId),
    /// The peer has reset or hung up the connection that this work serves.
    HungUp(WorkId),
    /// Another thread rang the inbox's bell.
    Inbox,
    /// A deadline may have passed.
    Alarm,
}

/// The kernel's event queue and its registry.
pub struct Poller {
    epoll: Rc<OwnedFd>,
    /// A timerfd, for deadlines beyond `NEAR`.
    alarm: OwnedFd,
    /// The time of the alarm, which may go off for nothing: a deadline that moves later does not move the alarm.
    alarm_at: Option<Instant>,
    sources: Slab<Source>,
    /// Streams that epoll does not know yet. The descriptor of each is open as long as its source exists.
    fresh: Vec<SourceId>,
    by_descriptor: HashMap<RawFd, usize>,
    generation: u32,
}

impl Poller {
    /// The number of sources.
    pub fn source_count(&self) -> usize {
        self.sources.len()
    }

    /// Gives up the room of sources that are gone, apart from places below a source in use.
    pub fn shrink(&mut self) {
        self.sources.shrink_to_fit();
    }

    /// # Errors
    /// Fails if the process has no descriptor left.
    pub fn new(bell: BorrowedFd<'_>) -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(SourceId::BELL.0);
        epoll::add(&epoll, bell, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        let alarm = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(SourceId::ALARM.0);
        epoll::add(&epoll, &alarm, data, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(Poller {
            epoll: Rc::new(epoll),
            alarm,
            alarm_at: None,
            sources: Slab::new(),
            fresh: Vec::new(),
            by_descriptor: HashMap::new(),
            generation: 0,
        })
    }

    /// How long [`wait`] may wait if `deadline` is the first one. `None` means until the alarm or an event.
    pub fn patience(&mut self, deadline: Option<Instant>) -> Option<Duration> {
        let deadline = deadline?;
        if self.alarm_at.is_some_and(|alarm| alarm <= deadline) {
            return None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left <= NEAR || !self.set_alarm(left) {
            return Some(left);
        }
        self.alarm_at = Some(deadline);
        None
    }

    fn set_alarm(&self, left: Duration) -> bool {
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: timespec(left) };
        timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &once).is_ok()
    }

    /// The epoll descriptor, for a wait with nothing borrowed.
    pub fn descriptor(&self) -> Rc<OwnedFd> {
        Rc::clone(&self.epoll)
    }

    /// An empty buffer for [`wait`].
    pub fn event_buffer() -> Vec<epoll::Event> {
        Vec::with_capacity(EVENTS_PER_POLL)
    }

    /// Adds a stream of the server. It stays open until its source is removed, or [registered](Self::register).
    pub fn add_stream(&mut self, descriptor: BorrowedFd<'_>, owner: usize) -> SourceId {
        self.take_number(descriptor);
        let id = self.insert(SourceOwner::service(owner), descriptor.as_raw_fd());
        self.fresh.push(id);
        id
    }

    /// Registers the streams that were added since the last poll. A stream that epoll refuses is shut down: the result
    /// has an event for it, so that its reader finds the end, and the last error.
    pub fn register_fresh(&mut self) -> Option<(Vec<epoll::Event>, io::Error)> {
        let mut refused = None;
        for index in 0..self.fresh.len() {
            let id = self.fresh[index];
            if let Err(error) = self.register(id) {
                let flags = epoll::EventFlags::IN | epoll::EventFlags::HUP;
                let (events, last) = refused.get_or_insert_with(|| (Vec::new(), error));
                events.push(epoll::Event { flags, data: epoll::EventData::new_u64(id.0) });
                *last = error;
            }
        }
        self.fresh.clear();
        refused.map(|(events, error)| (events, error.into()))
    }

    /// Registers a stream, if that has not been done and the stream still exists.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2): no memory, the limit of watches. The stream is then shut down.
    fn register(&mut self, id: SourceId) -> rustix::io::Result<()> {
        let Some(source) = self.source(id) else { return Ok(()) };
        if std::mem::replace(&mut source.registered, true) {
            return Ok(());
        }
        let descriptor = LentDescriptor::new(source.descriptor)?;
        epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(id.0), STREAM)
            .inspect_err(|_| _ = rustix::net::shutdown(descriptor, Shutdown::Both))
    }

    /// Registers a stream before the next poll, for a caller that no longer knows when the descriptor is closed.
    pub fn register_early(&mut self, id: SourceId) {
        if self.fresh.contains(&id) {
            // A refused stream is shut down, and nothing waits for its events yet.
            let _ = self.register(id);
        }
    }

    /// Registers a socket whose events go to its watcher alone.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn add_watched(&mut self, descriptor: BorrowedFd<'_>) -> io::Result<SourceId> {
        self.add(descriptor, SourceOwner::Watcher, STREAM)
    }

    /// Registers a listening socket.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn add_listener(&mut self, descriptor: BorrowedFd<'_>, owner: usize) -> io::Result<SourceId> {
        self.add(descriptor, SourceOwner::service(owner), LISTENER)
    }

    /// Leaves a listening socket to other processes. The socket's source stays.
    pub fn pause_listener(&mut self, id: SourceId, descriptor: BorrowedFd<'_>) {
        if self.source(id).is_some() {
            let _ = epoll::delete(&self.epoll, descriptor);
        }
    }

    /// Polls a listening socket again. The kernel first wakes the process that has polled the socket for longest.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn resume_listener(&mut self, id: SourceId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self.source(id) {
            Some(_) => Ok(epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(id.0), LISTENER)?),
            None => Ok(()),
        }
    }

    fn add(
        &mut self,
        descriptor: BorrowedFd<'_>,
        owner: SourceOwner,
        flags: epoll::EventFlags,
    ) -> io::Result<SourceId> {
        self.take_number(descriptor);
        let id = self.insert(owner, descriptor.as_raw_fd());
        if let Err(error) = epoll::add(&self.epoll, descriptor, epoll::EventData::new_u64(id.0), flags) {
            self.sources.remove(id.index());
            return Err(error.into());
        }
        Ok(id)
    }

    /// The application may have waited on this number, and has closed it since; now the server owns the number. Waits
    /// that are still on the number get no event and end by their deadline.
    fn take_number(&mut self, descriptor: BorrowedFd<'_>) {
        if let Some(stale) = self.by_descriptor.remove(&descriptor.as_raw_fd())
            && self.sources.get(stale).is_some_and(|source| source.waits().is_empty())
        {
            self.sources.remove(stale);
        }
    }

    fn insert(&mut self, owner: SourceOwner, descriptor: RawFd) -> SourceId {
        self.generation = self.generation.wrapping_add(1) & 0x7fff_ffff;
        let index = self.sources.insert(Source::new(self.generation, owner, descriptor));
        SourceId::new(index, self.generation)
    }

    /// The source, unless it has been removed.
    pub fn source(&mut self, id: SourceId) -> Option<&mut Source> {
        self.sources.get_mut(id.index()).filter(|source| source.generation == id.generation())
    }

    /// Forgets a source of the server, which is in no ring. Returns the source's waits.
    ///
    /// Removes an open `descriptor` from epoll; closing it does the same.
    pub fn remove(&mut self, id: SourceId, descriptor: Option<BorrowedFd<'_>>) -> Vec<Ticket> {
        if self.source(id).is_none() {
            return Vec::new();
        }
        if let Some(descriptor) = descriptor {
            let _ = epoll::delete(&self.epoll, descriptor);
        }
        let waits = self.sources.remove(id.index()).take_waits();
        waits.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Adds a source to the ring that has the source in the place `first`. Without `first`, the source is a ring of its
    /// own. A source is in one ring at most.
    pub fn join_ring(&mut self, id: SourceId, first: Option<u32>) {
        let place = id.index() as u32;
        let after = first.unwrap_or(place);
        let before = first.map_or(place, |first| self.links(first).before);
        *self.links(place) = Links { before, after };
        self.links(before).after = place;
        self.links(after).before = place;
    }

    /// Takes a source out of its ring. Returns the place of the source behind it; `None` if it was the only one.
    pub fn leave_ring(&mut self, id: SourceId) -> Option<u32> {
        let place = id.index() as u32;
        let Links { before, after } = std::mem::take(self.links(place));
        if after == place {
            return None;
        }
        self.links(before).after = after;
        self.links(after).before = before;
        Some(after)
    }

    /// The source in a place of a ring. None of the ring may have been removed.
    pub fn source_at(&self, place: u32) -> SourceId {
        SourceId::new(place as usize, self.sources[place as usize].generation)
    }

    fn links(&mut self, place: u32) -> &mut Links {
        &mut self.sources[place as usize].links
    }

    /// Sets whether a stream's events include that its output has room. An event that is due comes at once.
    pub fn await_output(&mut self, id: SourceId, descriptor: BorrowedFd<'_>, awaits: bool) {
        self.register_early(id);
        if self.source(id).is_some() {
            let data = epoll::EventData::new_u64(id.0);
            let _ = epoll::modify(&self.epoll, descriptor, data, if awaits { STREAM } else { INPUT });
        }
    }

    /// The sources that have a watcher.
    pub fn watched(&self) -> Vec<SourceId> {
        let watched = self.sources.iter().filter(|(_, source)| source.has_watcher());
        watched.map(|(index, source)| SourceId::new(index, source.generation)).collect()
    }

    /// Adds a wait on a stream of the server. Returns false if the source is gone.
    pub fn add_wait(&mut self, id: SourceId, interest: Interest, ticket: Ticket) -> bool {
        self.source(id).map(|source| source.add_wait(interest, ticket)).is_some()
    }

    /// Arms a descriptor of the application for one more event, and adds a wait on it.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2): EBADF for a closed descriptor, EPERM for one that is always ready (a regular file).
    pub fn arm_descriptor(
        &mut self,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
        ticket: Ticket,
    ) -> io::Result<SourceId> {
        let number = descriptor.as_raw_fd();
        let id = match self.by_descriptor.get(&number) {
            Some(&index) => SourceId::new(index, self.sources[index].generation),
            None => {
                let id = self.insert(SourceOwner::Waits, number);
                self.by_descriptor.insert(number, id.index());
                id
            }
        };
        self.sources[id.index()].add_wait(interest, ticket);
        if let Err(error) = self.rearm(id, descriptor) {
            self.remove_wait(id, ticket);
            if self.sources[id.index()].waits().is_empty() {
                self.by_descriptor.remove(&number);
                self.sources.remove(id.index());
            }
            return Err(error);
        }
        Ok(id)
    }

    /// Registers or modifies a descriptor for the union of its waits.
    fn rearm(&mut self, id: SourceId, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut flags = epoll::EventFlags::ONESHOT;
        for (interest, _) in self.sources[id.index()].waits() {
            flags |= interest.flags();
        }
        let data = epoll::EventData::new_u64(id.0);
        let registered = if std::mem::replace(&mut self.sources[id.index()].registered, true) {
            match epoll::modify(&self.epoll, descriptor, data, flags) {
                // The number names another file than before.
                Err(rustix::io::Errno::NOENT) => epoll::add(&self.epoll, descriptor, data, flags),
                other => other,
            }
        } else {
            epoll::add(&self.epoll, descriptor, data, flags)
        };
        match registered {
            // The application has closed its descriptor, and a socket of the server reuses the number.
            Err(rustix::io::Errno::EXIST) => Err(rustix::io::Errno::BADF.into()),
            other => other.map_err(Into::into),
        }
    }

    /// Removes a wait that ended for another reason than its event.
    pub fn remove_wait(&mut self, id: SourceId, ticket: Ticket) {
        if let Some(source) = self.source(id) {
            source.retain_waits(|_, waiting| waiting != ticket);
        }
    }

    /// Whether a descriptor of the application has waits.
    pub fn is_waited_for(&self, number: RawFd) -> bool {
        self.by_descriptor.get(&number).is_some_and(|&index| !self.sources[index].waits().is_empty())
    }

    /// Takes every wait on a descriptor that its owner is about to close.
    pub fn take_waits(&mut self, number: RawFd) -> Vec<Ticket> {
        let Some(&index) = self.by_descriptor.get(&number) else { return Vec::new() };
        self.sources[index].take_waits().into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Turns kernel events into work for the loop.
    pub fn sort(&mut self, events: &[epoll::Event], mut notice: impl FnMut(Notice)) {
        for event in events {
            let id = SourceId(event.data.u64());
            if id == SourceId::BELL {
                notice(Notice::Inbox);
                continue;
            }
            if id == SourceId::ALARM {
                self.alarm_at = None;
                notice(Notice::Alarm);
                continue;
            }
            let flags = event.flags;
            // The source was removed earlier in this batch, or a duplicate descriptor keeps an old registration alive.
            let Some(source) = self.source(id) else { continue };
            if Interest::Read.is_met_by(flags) {
                if !source.readable {
                    source.ready_at = Poll::last();
                }
                source.readable = true;
                source.peer_closed |=
                    flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
            }
            if flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR)
                && let Some(work) = source.take_end_with_peer()
            {
                notice(Notice::HungUp(work));
            }
            if source.has_watcher() && !source.is_watch_queued {
                source.is_watch_queued = true;
                notice(Notice::Watch(id));
            }
            if !source.waits().is_empty() {
                source.retain_waits(|interest, ticket| {
                    let met = interest.is_met_by(flags);
                    if met {
                        notice(Notice::Wake(ticket));
                    }
                    !met
                });
                self.rearm_rest(id);
            } else if source.at_rest
                && source.readable
                && let SourceOwner::Service(number) = source.owner()
            {
                source.at_rest = false;
                notice(Notice::Serve(id, number as usize));
            }
        }
    }

    /// Rearms a one-shot registration that fired for one direction, for the waits on the other direction.
    fn rearm_rest(&mut self, id: SourceId) {
        let Some(source) = self.source(id) else { return };
        if source.owner() != SourceOwner::Waits || source.waits().is_empty() {
            return;
        }
        let number = self.by_descriptor.iter().find(|&(_, &index)| index == id.index()).map(|(&number, _)| number);
        if let Some(descriptor) = number.and_then(|number| LentDescriptor::new(number).ok()) {
            let _ = self.rearm(id, descriptor.as_fd());
        }
    }
}

/// Waits for events on an epoll descriptor, for at most `patience`; `None` means for ever.
///
/// A signal ends the wait without an event.
///
/// # Errors
/// Errors of epoll_wait(2), which a valid epoll descriptor never has.
pub fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, patience: Option<Duration>) -> io::Result<()> {
    let timeout = patience.map(timespec);
    events.clear();
    match epoll::wait(epoll.as_fd(), rustix::buffer::spare_capacity(events), timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
