//! The turns of the loop, noted in the server's seat: for readiness, and for metrics if they are on.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::cooperative::OffloadFigures;
use crate::crew::measures::{LOOP_BOUNDS, Measures, add};
use crate::crew::seat::{Seat, monotonic_nanoseconds};
use crate::event_loop::{self, LoopFigures, Pulse, waiting};
use crate::net::{self, Traffic};

/// Notes the turns of the loop in a seat. Lives on the loop thread.
pub struct Heartbeat {
    seat: Arc<Seat>,
    /// The start of the running turn; 0 while the loop waits.
    begun: Cell<u64>,
    /// When the last poll returned.
    polled: Cell<u64>,
    /// The process's counters as the seat has them.
    noted: Cell<ProcessCounters>,
    /// The number of the waits as the seat has them; see [`waiting::changes`].
    noted_waits: Cell<u64>,
}

/// Counters of the process that its seat gets as differences.
#[derive(Clone, Copy)]
struct ProcessCounters {
    traffic: Traffic,
    parks: u64,
    offload_calls: u64,
}

impl ProcessCounters {
    fn now() -> ProcessCounters {
        ProcessCounters {
            traffic: net::traffic(),
            parks: event_loop::number_of_parks(),
            offload_calls: OffloadFigures::now().calls,
        }
    }
}

impl Heartbeat {
    /// A heartbeat for `seat`, of a server with at most `request_limit` requests at once. On the loop thread.
    pub fn new(seat: Arc<Seat>, request_limit: usize) -> Heartbeat {
        if let Some(measures) = seat.measures() {
            net::count_traffic();
            measures.request_limit.store(request_limit as u64, std::sync::atomic::Ordering::Relaxed);
        }
        let noted = Cell::new(ProcessCounters::now());
        Heartbeat { seat, begun: Cell::new(0), polled: Cell::new(0), noted, noted_waits: Cell::new(u64::MAX) }
    }

    fn end_turn(&self, measures: &Measures, now: u64) {
        let begun = self.begun.replace(0);
        if begun > 0 {
            measures.lag.add(&LOOP_BOUNDS, Duration::from_nanos(now.saturating_sub(begun)));
        }
    }

    /// Writes the counters and gauges of the process into the seat.
    fn publish(&self, measures: &Measures, figures: &LoopFigures) {
        use std::sync::atomic::Ordering::Relaxed;
        let noted = self.noted.get();
        let offload = OffloadFigures::now();
        let now = ProcessCounters {
            traffic: net::traffic(),
            parks: event_loop::number_of_parks(),
            offload_calls: offload.calls,
        };
        let differences = [
            (&measures.received_bytes, now.traffic.received.wrapping_sub(noted.traffic.received)),
            (&measures.sent_bytes, now.traffic.sent.wrapping_sub(noted.traffic.sent)),
            (&measures.switches, now.parks.wrapping_sub(noted.parks)),
            (&measures.offload_calls, now.offload_calls.wrapping_sub(noted.offload_calls)),
        ];
        for (counter, difference) in differences {
            if difference > 0 {
                add(counter, difference);
            }
        }
        self.noted.set(now);
        measures.busy_coroutines.store(figures.busy as u64, Relaxed);
        measures.idle_coroutines.store(figures.idle as u64, Relaxed);
        let changes = waiting::changes();
        if self.noted_waits.replace(changes) != changes {
            for (gauge, number) in measures.waits.iter().zip(waiting::by_reason()) {
                gauge.store(number, Relaxed);
            }
        }
        measures.offload_queued.store(offload.queued, Relaxed);
        measures.offload_threads.store(offload.threads, Relaxed);
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
            measures.gil.add(&LOOP_BOUNDS, Duration::from_nanos(waited));
        }
    }
}
