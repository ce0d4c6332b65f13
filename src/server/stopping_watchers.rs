//! The stop of connections that speak another protocol, above all WebSockets, spread over a time. Their clients come
//! back at once, and together they would be a flood for the other processes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::event_loop::{self, SourceId, Wake, streams};

/// The stop of all stream watchers. Lives on the loop thread.
#[derive(Clone, Default)]
pub struct StoppingWatchers(Rc<WatchersLeft>);

#[derive(Default)]
struct WatchersLeft {
    /// The sources whose watchers are still to be stopped. Their connections may end by themselves meanwhile.
    left: RefCell<VecDeque<SourceId>>,
    has_begun: Cell<bool>,
    /// The number of spreads begun. Only the last one goes on.
    spreads: Cell<u32>,
}

impl StoppingWatchers {
    /// Begins before the stop of the server: stops the watchers of now, evenly over `spread` with the first one at once.
    /// Those that come meanwhile are left to [`Self::begin`].
    pub fn begin_early(&self, spread: Duration) {
        if !self.0.has_begun.get() && self.0.spreads.get() == 0 {
            self.collect();
            self.spread(spread);
        }
    }

    /// Stops the watchers of now, evenly over `spread` with the first one at once. A later call with a `spread` of zero
    /// stops the rest at once.
    pub fn begin(&self, spread: Duration) {
        if !self.0.has_begun.replace(true) {
            // A watcher that was stopped before ignores the second time.
            self.collect();
        } else if !spread.is_zero() {
            return;
        }
        self.spread(spread);
    }

    fn collect(&self) {
        let watched = streams::watched();
        *self.0.left.borrow_mut() = watched.into();
    }

    fn spread(&self, spread: Duration) {
        let number = self.0.spreads.get() + 1;
        self.0.spreads.set(number);
        let count = self.0.left.borrow().len();
        let Some(interval) = spread.checked_div(u32::try_from(count).unwrap_or(u32::MAX)) else { return };
        let this = self.clone();
        let begun = Instant::now();
        event_loop::spawn(Box::new(move || this.run(number, begun, interval)));
    }

    /// # Parks
    fn run(&self, number: u32, begun: Instant, interval: Duration) {
        let mut next = begun;
        while self.0.spreads.get() == number {
            let now = Instant::now();
            while next <= now {
                let Some(source) = self.0.left.borrow_mut().pop_front() else { return };
                streams::stop_watcher(source);
                next += interval;
            }
            if self.0.left.borrow().is_empty() || event_loop::sleep(next) == Wake::Killed {
                return;
            }
        }
    }
}
