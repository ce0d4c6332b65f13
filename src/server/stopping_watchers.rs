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
}

impl StoppingWatchers {
    /// Stops the watchers of now, evenly over `spread` with the first one at once. A later call with a `spread` of zero
    /// stops the rest at once.
    pub fn begin(&self, spread: Duration) {
        if !self.0.has_begun.replace(true) {
            self.0.left.borrow_mut().extend(streams::watched());
        } else if !spread.is_zero() {
            return;
        }
        let count = self.0.left.borrow().len();
        let Some(interval) = spread.checked_div(u32::try_from(count).unwrap_or(u32::MAX)) else { return };
        let this = self.clone();
        let begun = Instant::now();
        event_loop::spawn(Box::new(move || this.run(begun, interval)));
    }

    /// # Parks
    fn run(&self, begun: Instant, interval: Duration) {
        let mut next = begun;
        loop {
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
