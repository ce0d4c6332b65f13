//! Calls of watchers in a row, before the coroutines that they wake.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::in_a_loop;
use crate::event_loop::reasons::Reason;
use crate::event_loop::{SourceId, StreamWatcher, Waker, after_next_poll, spawn, streams, wait_for_wake};
use crate::sync::lock;

const STREAMS: usize = 32;

/// A call of a watcher or the end of a coroutine's wait, with the number of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowEvent {
    Looked(usize),
    Went(usize),
}

struct RowWatcher {
    number: usize,
    waker: Mutex<Option<Waker>>,
    events: Arc<Mutex<Vec<RowEvent>>>,
}

impl StreamWatcher for RowWatcher {
    fn look(&self, _now: Instant) {
        if let Some(waker) = lock(&self.waker).take() {
            lock(&self.events).push(RowEvent::Looked(self.number));
            waker.wake(crate::event_loop::Wake::Ready);
        }
    }

    fn expired(&self) {}

    fn stop(&self) {}
}

/// Both ends of a stream, whose events go to `watcher`, and its source.
fn watched(watcher: Arc<dyn StreamWatcher>) -> (UnixStream, UnixStream, SourceId) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let source = streams::add_watched(ours.as_fd(), watcher).unwrap();
    (ours, theirs, source)
}

#[test]
fn watchers_are_called_in_a_row_and_then_every_coroutine_goes_on() {
    let events = in_a_loop(|| {
        let events = Arc::new(Mutex::new(Vec::new()));
        let left = Rc::new(RefCell::new(STREAMS));
        let mut ends = Vec::new();
        for number in 0..STREAMS {
            let watcher = Arc::new(RowWatcher { number, waker: Mutex::new(None), events: Arc::clone(&events) });
            ends.push(watched(Arc::clone(&watcher) as Arc<dyn StreamWatcher>));
            let (events, left) = (Arc::clone(&events), Rc::clone(&left));
            spawn(Box::new(move || {
                wait_for_wake(Reason::Other, [0, 0], None, |waker| lock(&watcher.waker).replace(waker).is_none());
                lock(&events).push(RowEvent::Went(number));
                *left.borrow_mut() -= 1;
            }));
        }
        // The first call of each watcher, which finds nothing, and the coroutines that then wait.
        after_next_poll();
        after_next_poll();
        for (_, theirs, _) in &ends {
            std::io::Write::write_all(&mut &*theirs, b"x").unwrap();
        }
        while *left.borrow() > 0 {
            after_next_poll();
        }
        for (_, _, source) in &ends {
            streams::remove(*source, None);
        }
        std::mem::take(&mut *lock(&events))
    });
    let place = |event| events.iter().position(|&other| other == event).unwrap();
    for number in 0..STREAMS {
        assert!(place(RowEvent::Looked(number)) < place(RowEvent::Went(number)), "{events:?}");
    }
    // The clock may tick between some of the calls.
    assert!(events.windows(2).any(|pair| matches!(pair, [RowEvent::Looked(_), RowEvent::Looked(_)])), "{events:?}");
}

/// Waits in its first call until another watcher was called.
struct PatientWatcher {
    number: usize,
    calls: Arc<Mutex<Vec<usize>>>,
}

impl StreamWatcher for PatientWatcher {
    fn look(&self, _now: Instant) {
        lock(&self.calls).push(self.number);
        while !lock(&self.calls).iter().any(|&number| number != self.number) {
            after_next_poll();
        }
    }

    fn expired(&self) {}

    fn stop(&self) {}
}

#[test]
fn a_watcher_that_waits_ends_its_row_and_holds_up_no_other() {
    let calls = in_a_loop(|| {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let mut ends = Vec::new();
        for number in 0..STREAMS {
            ends.push(watched(Arc::new(PatientWatcher { number, calls: Arc::clone(&calls) })));
        }
        while lock(&calls).len() < STREAMS {
            after_next_poll();
        }
        for (_, _, source) in &ends {
            streams::remove(*source, None);
        }
        // The first watcher still looks at them.
        lock(&calls).clone()
    });
    assert!((0..STREAMS).all(|number| calls.contains(&number)), "{calls:?}");
}
