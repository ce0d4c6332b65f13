//! The turns of the loop, noted in the server's seat: for readiness, and for metrics if they are on.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cooperative::OffloadFigures;
use crate::crew::measures::{LOOP_NANOSECONDS, Measures};
use crate::crew::seat::{Seat, monotonic_nanoseconds};
use crate::event_loop::{self, LoopFigures, Pulse, waiting};
use crate::net;

/// Notes the turns of the loop in a seat. Lives on the loop thread.
pub struct Heartbeat {
    seat: Arc<Seat>,
    /// The start of the running turn; 0 while the loop waits.
    begun: Cell<u64>,
    /// When the last poll returned.
    polled: Cell<u64>,
    /// The seat's counters when the process's counters were zero.
    bases: Bases,
    /// The number of the waits as the seat has them; see [`waiting::changes`].
    noted_waits: Cell<u64>,
}

/// Differences between the counters of a seat, which go on from owner to owner, and those of the process.
struct Bases {
    received_bytes: u64,
    sent_bytes: u64,
    switches: u64,
    offload_calls: u64,
}

impl Bases {
    fn of(measures: &Measures) -> Bases {
        let base = |counter: &AtomicU64, now: u64| counter.load(Ordering::Relaxed).wrapping_sub(now);
        let traffic = net::traffic();
        Bases {
            received_bytes: base(&measures.received_bytes, traffic.received),
            sent_bytes: base(&measures.sent_bytes, traffic.sent),
            switches: base(&measures.switches, event_loop::number_of_parks()),
            offload_calls: base(&measures.offload_calls, OffloadFigures::now().calls),
        }
    }
}

impl Heartbeat {
    /// A heartbeat for `seat`, of a server with at most `request_limit` requests at once. On the loop thread.
    pub fn new(seat: Arc<Seat>, request_limit: usize) -> Heartbeat {
        let mut bases = Bases { received_bytes: 0, sent_bytes: 0, switches: 0, offload_calls: 0 };
        if let Some(measures) = seat.measures() {
            net::count_traffic();
            measures.request_limit.store(request_limit as u64, Ordering::Relaxed);
            bases = Bases::of(measures);
        }
        Heartbeat { seat, begun: Cell::new(0), polled: Cell::new(0), bases, noted_waits: Cell::new(u64::MAX) }
    }

    fn end_turn(&self, measures: &Measures, now: u64) {
        let begun = self.begun.replace(0);
        if begun > 0 {
            measures.lag.add(&LOOP_NANOSECONDS, now.saturating_sub(begun));
        }
    }

    /// Writes the counters and gauges of the process into the seat.
    fn publish(&self, measures: &Measures, figures: &LoopFigures) {
        let store = |field: &AtomicU64, number: u64| field.store(number, Ordering::Release);
        let (traffic, offload, bases) = (net::traffic(), OffloadFigures::now(), &self.bases);
        store(&measures.received_bytes, bases.received_bytes.wrapping_add(traffic.received));
        store(&measures.sent_bytes, bases.sent_bytes.wrapping_add(traffic.sent));
        store(&measures.switches, bases.switches.wrapping_add(figures.parks));
        store(&measures.offload_calls, bases.offload_calls.wrapping_add(offload.calls));
        store(&measures.busy_coroutines, figures.busy as u64);
        store(&measures.idle_coroutines, figures.idle as u64);
        store(&measures.offload_queued, offload.queued);
        store(&measures.offload_threads, offload.threads);
        let changes = waiting::changes();
        if self.noted_waits.replace(changes) != changes {
            for (gauge, number) in measures.waits.iter().zip(waiting::by_reason()) {
                store(gauge, number);
            }
        }
    }
}

impl Pulse for Heartbeat {
    fn waits(&self, figures: &LoopFigures) {
        self.seat.note_wait();
        if let Some(measures) = self.seat.measures() {
            let now = monotonic_nanoseconds();
            measures.end_turn(now);
            self.end_turn(measures, now);
            self.publish(measures, figures);
        }
    }

    fn turns(&self, figures: &LoopFigures) {
        let Some(measures) = self.seat.measures() else { return self.seat.note_turn() };
        let now = monotonic_nanoseconds();
        self.seat.note_turn_at(now);
        measures.begin_turn(now);
        if self.begun.get() > 0 {
            // The loop has polled without a wait.
            self.end_turn(measures, now);
            self.publish(measures, figures);
        }
        self.begun.set(now);
        self.polled.set(now);
    }

    fn resumes(&self) {
        if let Some(measures) = self.seat.measures() {
            let waited = monotonic_nanoseconds().saturating_sub(self.polled.get());
            measures.gil.add(&LOOP_NANOSECONDS, waited);
        }
    }
}
