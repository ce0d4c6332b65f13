//! The deadlines of sources at rest. Each idle connection has one, so it takes no more than its source.
//!
//! Time has slots of 134 ms. Sources whose deadlines are in the same later slot are a ring, linked through the sources
//! themselves, and one timer stands for the whole ring. When the slot begins, each deadline of the ring gets a timer of its
//! own, which fires exactly then. Most deadlines have moved by that time, since each request moves that of its connection:
//! their sources go on to another ring.

use std::time::Instant;

use super::poller::SourceOwner;
use super::state::{LoopState, Work};
use super::timers::{LoopTime, Target};
use super::tokens::SourceId;

impl LoopState {
    /// Sets or moves the deadline of a source at rest. Moving it later is cheap: its old timer fires and is set anew.
    pub fn set_deadline(&mut self, id: SourceId, deadline: Option<Instant>) {
        self.set_loop_deadline(id, deadline.map(|at| self.timers.loop_time(at)));
    }

    /// As [`Self::set_deadline`].
    pub fn set_loop_deadline(&mut self, id: SourceId, deadline: Option<LoopTime>) {
        let Some(source) = self.poller.source(id) else { return };
        source.deadline = deadline;
        if let Some(at) = deadline
            && source.armed.is_none_or(|armed| armed > at)
        {
            self.arm(id, at, self.timers.loop_time(Instant::now()));
        }
    }

    #[inline(never)]
    fn arm(&mut self, id: SourceId, at: LoopTime, now: LoopTime) {
        self.disarm(id);
        let slot = at.slot();
        let armed = if slot > now { slot } else { at };
        if let Some(source) = self.poller.source(id) {
            source.armed = Some(armed);
        }
        if slot > now {
            let ring = self.timers.ring(slot);
            self.poller.join_ring(id, ring);
            if ring.is_none() {
                self.timers.set_ring(slot, Some(id.index() as u32));
            }
        } else {
            self.timers.insert(self.timers.instant(at), Target::Source(id));
        }
    }

    /// Takes a source out of its ring. A timer of its own stays, and will find that it is not meant.
    pub fn disarm(&mut self, id: SourceId) {
        let Some(source) = self.poller.source(id) else { return };
        let Some(slot) = source.armed.take() else { return };
        if source.is_in_ring() {
            let next = self.poller.leave_ring(id);
            if self.timers.ring(slot) == Some(id.index() as u32) {
                self.timers.set_ring(slot, next);
            }
        }
    }

    /// The slot of a ring begins.
    pub fn slot_begins(&mut self, first: u32, now: Instant) {
        let now = self.timers.loop_time(now);
        let mut next = Some(first);
        while let Some(place) = next {
            let id = self.poller.source_at(place);
            next = self.poller.leave_ring(id);
            self.look_at_deadline(id, now);
        }
    }

    /// A source's own timer has fired.
    pub fn source_timer_fired(&mut self, id: SourceId, now: Instant) {
        let now = self.timers.loop_time(now);
        let Some(source) = self.poller.source(id) else { return };
        // The timer of an earlier deadline, if another one is set, or a ring.
        if !source.is_in_ring() && source.armed.is_some_and(|armed| armed <= now) {
            self.look_at_deadline(id, now);
        }
    }

    fn look_at_deadline(&mut self, id: SourceId, now: LoopTime) {
        let Some(source) = self.poller.source(id) else { return };
        source.armed = None;
        match source.deadline {
            Some(at) if at > now => self.arm(id, at, now),
            Some(_) => {
                source.deadline = None;
                if let Some(watcher) = source.watcher().cloned() {
                    self.tasks.push_back(Work::Task(Box::new(move || watcher.expired())));
                } else if let SourceOwner::Service(owner) = source.owner() {
                    self.tasks.push_back(Work::Expired(id, owner as usize));
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;
    use crate::event_loop::state::with;
    use crate::event_loop::streams;
    use crate::event_loop::tests::in_a_loop;

    const NONE: [usize; 0] = [];

    /// Sources of the service, which knows them by the numbers from 0, and their sockets.
    fn sources(count: usize) -> Vec<(SourceId, UnixStream, UnixStream)> {
        let source = |number| {
            let (stream, peer) = UnixStream::pair().unwrap();
            (streams::add(stream.as_fd(), number).unwrap(), stream, peer)
        };
        (0..count).map(source).collect()
    }

    fn remove(sources: &[(SourceId, UnixStream, UnixStream)]) {
        sources.iter().for_each(|(id, ..)| streams::remove(*id, None));
    }

    fn timers() -> usize {
        with(|state| state.timers.len()).unwrap()
    }

    /// The numbers of the sources whose deadlines have passed at `now`, since the last call.
    fn expired(now: Instant) -> Vec<usize> {
        with(|state| {
            state.take_expired(now);
            let numbers = state.tasks.iter().filter_map(|work| match work {
                Work::Expired(_, number) => Some(*number),
                _ => None,
            });
            let numbers = numbers.collect();
            state.tasks.retain(|work| !matches!(work, Work::Expired(..)));
            numbers
        })
        .unwrap()
    }

    fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn late_deadlines_of_a_slot_need_one_timer_until_the_last_source_has_gone() {
        let counts = in_a_loop(|| {
            let sources = sources(7);
            let (before, at) = (timers(), Instant::now() + milliseconds(60_000));
            sources.iter().for_each(|(id, ..)| streams::set_deadline(*id, Some(at)));
            // The first, one in the middle, the last, then the others.
            let counts = [0, 3, 6, 2, 1, 5].map(|index: usize| {
                remove(&sources[index..=index]);
                timers() - before
            });
            remove(&sources);
            (counts, timers() - before)
        });
        assert_eq!(counts, ([1; 6], 0));
    }

    #[test]
    fn each_late_deadline_fires_at_its_time_unless_it_was_moved_or_removed() {
        in_a_loop(|| {
            let sources = sources(6);
            let start = Instant::now();
            let set = |index: usize, at| streams::set_deadline(sources[index].0, Some(start + milliseconds(at)));
            [1_000, 1_001, 1_001, 1_000, 1_000, 9_000].into_iter().enumerate().for_each(|(index, at)| set(index, at));
            set(2, 8_000);
            streams::set_deadline(sources[3].0, None);
            remove(&sources[4..5]);
            set(5, 700);
            assert_eq!(expired(start + milliseconds(699)), NONE);
            assert_eq!(expired(start + milliseconds(700)), [5]);
            assert_eq!(expired(start + milliseconds(999)), NONE);
            assert_eq!(expired(start + milliseconds(1_000)), [0]);
            assert_eq!(expired(start + milliseconds(1_001)), [1]);
            assert_eq!(expired(start + milliseconds(7_999)), NONE);
            assert_eq!(expired(start + milliseconds(8_000)), [2]);
            assert_eq!(expired(start + milliseconds(20_000)), NONE);
            remove(&sources);
        });
    }

    #[test]
    fn a_near_deadline_that_is_moved_fires_once_whichever_way_it_was_moved() {
        in_a_loop(|| {
            let sources = sources(1);
            let start = Instant::now();
            let set = |at| streams::set_deadline(sources[0].0, Some(start + milliseconds(at)));
            for at in [9, 5, 7, 3, 400] {
                set(at);
            }
            for at in [3, 5, 9, 399] {
                assert_eq!(expired(start + milliseconds(at)), NONE);
            }
            assert_eq!(expired(start + milliseconds(400)), [0]);
            set(30);
            set(20);
            assert_eq!(expired(start + milliseconds(20)), [0]);
            assert_eq!(expired(start + milliseconds(30)), NONE);
            remove(&sources);
        });
    }
}
