//! The measures of a slot: counters and histograms that a worker writes and any process of the service reads.
//!
//! Most fields have one writer, the loop thread of the slot's worker, which needs no locked instruction. The fields go
//! on with the next owner of the slot, as the other counters of the scoreboard do. Nothing is written unless metrics are
//! on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The methods with numbers of their own; the last one stands for all others (OpenTelemetry, `http.request.method`).
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "_OTHER"];

/// The classes of status codes. "none" means that nothing was sent, because the client had gone.
pub const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Upper bounds of the durations of requests, in seconds (OpenTelemetry, `http.server.request.duration`).
pub const REQUEST_BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Upper bounds of the times that the loop is kept from its next poll, in seconds.
pub const LOOP_BOUNDS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// The upper bounds of a histogram in nanoseconds.
pub type Bounds = [u64; REQUEST_BOUNDS.len()];

/// [`REQUEST_BOUNDS`] in nanoseconds.
pub const REQUEST_NANOSECONDS: Bounds = in_nanoseconds(REQUEST_BOUNDS);

/// [`LOOP_BOUNDS`] in nanoseconds.
pub const LOOP_NANOSECONDS: Bounds = in_nanoseconds(LOOP_BOUNDS);

const fn in_nanoseconds(bounds: [f64; REQUEST_BOUNDS.len()]) -> Bounds {
    let mut converted = [0; REQUEST_BOUNDS.len()];
    let mut place = 0;
    while place < bounds.len() {
        // Bounds are whole microseconds, which the sum keeps exact.
        converted[place] = (bounds[place] * 1e6 + 0.5) as u64 * 1000;
        place += 1;
    }
    converted
}

/// Status codes of requests that the server refuses before the application sees them; 0 stands for all others.
pub const REFUSALS: [u16; 16] = [400, 403, 408, 411, 413, 414, 415, 417, 421, 426, 431, 500, 501, 503, 505, 0];

/// The events of channels that are counted: a message was published, queued for a subscription, or dropped; messages of
/// another worker were found missing.
pub const CHANNEL_EVENTS: [&str; 4] = ["published", "delivered", "dropped", "gap"];

/// Places for the reasons of waits. A worker uses as many as it knows reasons.
pub const WAIT_REASONS: usize = 24;

/// The time over which the busy share of a loop is taken.
pub const BUSY_WINDOW: Duration = Duration::from_secs(10);

/// The time between two marks of a loop's busy time.
const MARK_INTERVAL: u64 = 1_000_000_000;

/// Marks that are kept: more than [`BUSY_WINDOW`] needs.
const MARKS: usize = 16;

/// The measures of one slot.
#[derive(Default)]
#[repr(C)]
pub struct Measures {
    busy_clock: AtomicU64,
    next_mark: AtomicU64,
    marked_at: AtomicU64,
    marks: [BusyMark; MARKS],
    /// Requests that may be in progress at once.
    pub request_limit: AtomicU64,
    /// Bytes received from clients.
    pub received_bytes: AtomicU64,
    /// Bytes sent to clients.
    pub sent_bytes: AtomicU64,
    /// Parks of coroutines.
    pub switches: AtomicU64,
    /// Coroutines that run work, parked ones included.
    pub busy_coroutines: AtomicU64,
    /// Coroutines that wait for work.
    pub idle_coroutines: AtomicU64,
    /// Connections on which part of a head has arrived.
    pub heads: AtomicU64,
    /// Connections whose last answer has been sent.
    pub lingering: AtomicU64,
    /// Calls of `offload` so far.
    pub offload_calls: AtomicU64,
    /// Calls of `offload` that wait for a thread.
    pub offload_queued: AtomicU64,
    /// Threads of `offload`.
    pub offload_threads: AtomicU64,
    /// Requests whose client went away.
    pub clients_gone: AtomicU64,
    _own_line: u64,
    /// Messages that WebSockets have received. Any thread adds.
    pub messages_received: AtomicU64,
    /// Messages that WebSockets have sent. Any thread adds.
    pub messages_sent: AtomicU64,
    /// Connections that went to a sibling.
    pub handed_over: AtomicU64,
    /// Connections that came from a sibling.
    pub taken_over: AtomicU64,
    /// Connections that belong to a sibling which could not take them.
    pub not_handed_over: AtomicU64,
    /// These three, as the slot's earlier owners have left them.
    hand_overs_before: [AtomicU64; 3],
    /// Coroutines by the reason of their wait.
    pub waits: [AtomicU64; WAIT_REASONS],
    /// Refused requests, by [`REFUSALS`].
    pub refused: [AtomicU64; REFUSALS.len()],
    /// From a request's head to the first byte of its response.
    pub first_byte: Histogram,
    /// From a trusted proxy's `X-Request-Start` to the head of the request.
    pub queue: Histogram,
    /// The times between two polls of the loop.
    pub lag: Histogram,
    /// The times for which the loop has waited for the GIL after a poll.
    pub gil: Histogram,
    /// The durations of requests, by [`METHODS`] and [`STATUS_CLASSES`].
    pub durations: [[Histogram; STATUS_CLASSES.len()]; METHODS.len()],
    /// Messages of channels, by [`CHANNEL_EVENTS`]. Any thread adds, also without metrics.
    pub channels: [AtomicU64; CHANNEL_EVENTS.len()],
}

/// Connections that were to move between a worker and its siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandOvers {
    /// They went to a sibling.
    pub sent: u64,
    /// They came from a sibling.
    pub received: u64,
    /// They belong to a sibling that could not take them.
    pub failed: u64,
}

/// The busy time of a loop at some time, in nanoseconds.
#[derive(Default)]
#[repr(C)]
struct BusyMark {
    at: AtomicU64,
    busy: AtomicU64,
}

/// A histogram of durations. A reader takes the number of durations from the buckets, so both always agree.
#[derive(Default)]
#[repr(C)]
pub struct Histogram {
    buckets: [AtomicU64; REQUEST_BOUNDS.len() + 1],
    /// The sum of the durations in nanoseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Adds a duration in nanoseconds. By the loop thread of the slot's worker.
    pub fn add(&self, bounds: &Bounds, nanoseconds: u64) {
        let place = bounds.iter().position(|&bound| nanoseconds <= bound).unwrap_or(bounds.len());
        if let Some(bucket) = self.buckets.get(place) {
            add(bucket, 1);
        }
        add(&self.sum, nanoseconds);
    }

    fn read(&self) -> Distribution {
        // The sum comes first: it must not include durations that the buckets lack.
        let sum = self.sum.load(Ordering::Acquire);
        let counts = std::array::from_fn(|place| self.buckets[place].load(Ordering::Acquire));
        Distribution { counts, sum_nanoseconds: sum }
    }
}

/// The numbers of a histogram at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Durations in each bucket, which are not cumulative; the last one has no upper bound.
    pub counts: [u64; REQUEST_BOUNDS.len() + 1],
    /// The sum of the durations.
    pub sum_nanoseconds: u64,
}

impl Distribution {
    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, &count| sum.wrapping_add(count))
    }

    /// The sum of the durations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanoseconds as f64 / 1e9
    }

    fn include(&mut self, other: &Distribution) {
        for (own, more) in self.counts.iter_mut().zip(other.counts) {
            *own = own.wrapping_add(more);
        }
        self.sum_nanoseconds = self.sum_nanoseconds.wrapping_add(other.sum_nanoseconds);
    }
}

/// The numbers of [`Measures`] at one time, for one slot or summed over several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Measures`, which explains them")]
pub struct Measured {
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub switches: u64,
    pub busy_coroutines: u64,
    pub idle_coroutines: u64,
    pub heads: u64,
    pub lingering: u64,
    pub offload_calls: u64,
    pub offload_queued: u64,
    pub offload_threads: u64,
    pub clients_gone: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub handed_over: u64,
    pub taken_over: u64,
    pub not_handed_over: u64,
    pub request_limit: u64,
    pub busy_nanoseconds: u64,
    pub waits: [u64; WAIT_REASONS],
    pub refused: [u64; REFUSALS.len()],
    pub first_byte: Distribution,
    pub queue: Distribution,
    pub lag: Distribution,
    pub gil: Distribution,
    pub durations: [[Distribution; STATUS_CLASSES.len()]; METHODS.len()],
    pub channels: [u64; CHANNEL_EVENTS.len()],
}

impl Measured {
    /// The durations of all requests.
    pub fn all_durations(&self) -> Distribution {
        let mut all = Distribution::default();
        self.durations.iter().flatten().for_each(|one| all.include(one));
        all
    }

    /// Adds the numbers of another slot.
    pub fn include(&mut self, other: &Measured) {
        let own = [
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.switches, other.switches),
            (&mut self.busy_coroutines, other.busy_coroutines),
            (&mut self.idle_coroutines, other.idle_coroutines),
            (&mut self.heads, other.heads),
            (&mut self.lingering, other.lingering),
            (&mut self.offload_calls, other.offload_calls),
            (&mut self.offload_queued, other.offload_queued),
            (&mut self.offload_threads, other.offload_threads),
            (&mut self.clients_gone, other.clients_gone),
            (&mut self.messages_received, other.messages_received),
            (&mut self.messages_sent, other.messages_sent),
            (&mut self.handed_over, other.handed_over),
            (&mut self.taken_over, other.taken_over),
            (&mut self.not_handed_over, other.not_handed_over),
            (&mut self.request_limit, other.request_limit),
            (&mut self.busy_nanoseconds, other.busy_nanoseconds),
        ];
        let lists = self.waits.iter_mut().zip(other.waits).chain(self.refused.iter_mut().zip(other.refused));
        let channels = self.channels.iter_mut().zip(other.channels);
        for (sum, more) in own.into_iter().chain(lists).chain(channels) {
            *sum = sum.wrapping_add(more);
        }
        self.first_byte.include(&other.first_byte);
        self.queue.include(&other.queue);
        self.lag.include(&other.lag);
        self.gil.include(&other.gil);
        for (sum, more) in self.durations.iter_mut().flatten().zip(other.durations.iter().flatten()) {
            sum.include(more);
        }
    }
}

impl Measures {
    /// Notes a request that has ended. By the loop thread.
    pub fn note_request(&self, method: usize, status: u16, nanoseconds: u64) {
        let class = usize::from(status / 100);
        let class = if class < STATUS_CLASSES.len() { class } else { 0 };
        if let Some(histogram) = self.durations.get(method).and_then(|classes| classes.get(class)) {
            histogram.add(&REQUEST_NANOSECONDS, nanoseconds);
        }
    }

    /// Notes a request that was refused before the application saw it. By the loop thread.
    pub fn note_refusal(&self, status: u16) {
        let place = REFUSALS.iter().position(|&known| known == status).unwrap_or(REFUSALS.len() - 1);
        if let Some(count) = self.refused.get(place) {
            add(count, 1);
        }
    }

    /// Adds to the numbers of messages of channels. From any thread.
    pub fn note_channels(&self, more: [u64; CHANNEL_EVENTS.len()]) {
        for (count, more) in self.channels.iter().zip(more) {
            if more > 0 {
                count.fetch_add(more, Ordering::AcqRel);
            }
        }
    }

    /// Notes that a turn of the loop begins at `now`, in nanoseconds on the clock of all processes. By the loop thread.
    pub fn begin_turn(&self, now: u64) {
        let clock = self.busy_clock.load(Ordering::Relaxed);
        if clock & 1 == 0 {
            self.busy_clock.store(running_clock(now, clock >> 1), Ordering::Release);
        }
        self.mark(now);
    }

    /// Notes that the loop waits from `now` on. By the loop thread.
    pub fn end_turn(&self, now: u64) {
        let clock = self.busy_clock.load(Ordering::Relaxed);
        self.busy_clock.store(busy_of(clock, now) << 1, Ordering::Release);
        self.mark(now);
    }

    /// Keeps a mark of the busy time once a second.
    fn mark(&self, now: u64) {
        if now.wrapping_sub(self.marked_at.load(Ordering::Relaxed)) < MARK_INTERVAL {
            return;
        }
        self.marked_at.store(now, Ordering::Relaxed);
        let next = self.next_mark.load(Ordering::Relaxed);
        let mark = &self.marks[(next % MARKS as u64) as usize];
        // A reader takes no mark whose time is zero.
        mark.at.store(0, Ordering::Release);
        mark.busy.store(self.busy_nanoseconds(now), Ordering::Release);
        mark.at.store(now, Ordering::Release);
        self.next_mark.store(next.wrapping_add(1), Ordering::Release);
    }

    /// The time for which the loop was busy until `now`, the running turn included.
    pub fn busy_nanoseconds(&self, now: u64) -> u64 {
        busy_of(self.busy_clock.load(Ordering::Acquire), now)
    }

    /// The share of [`BUSY_WINDOW`] before `now` for which the loop was busy, from 0 to 1.
    pub fn busy_share(&self, now: u64) -> f64 {
        let mut marks: Vec<(u64, u64)> = self.marks.iter().filter_map(BusyMark::read).collect();
        marks.retain(|&(at, _)| at < now);
        marks.push((now, self.busy_nanoseconds(now)));
        marks.sort_unstable();
        let from = now.saturating_sub(u64::try_from(BUSY_WINDOW.as_nanos()).unwrap_or(u64::MAX));
        let later = marks.iter().position(|&(at, _)| at >= from).unwrap_or(0);
        let (end_at, end_busy) = marks.last().copied().unwrap_or_default();
        let (later_at, later_busy) = marks.get(later).copied().unwrap_or_default();
        let begin_busy = match later.checked_sub(1).and_then(|earlier| marks.get(earlier)) {
            // The busy time in between grew evenly, as far as is known.
            Some(&(at, busy)) => {
                let part = (from - at) as f64 / (later_at - at).max(1) as f64;
                busy as f64 + part * later_busy.saturating_sub(busy) as f64
            }
            // The loop is younger, and was not busy before.
            None => later_busy as f64,
        };
        let span = end_at.saturating_sub(from) as f64;
        if span > 0.0 { ((end_busy as f64 - begin_busy) / span).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// The numbers at `now`.
    pub fn read(&self, now: u64) -> Measured {
        let load = |field: &AtomicU64| field.load(Ordering::Acquire);
        Measured {
            received_bytes: load(&self.received_bytes),
            sent_bytes: load(&self.sent_bytes),
            switches: load(&self.switches),
            busy_coroutines: load(&self.busy_coroutines),
            idle_coroutines: load(&self.idle_coroutines),
            heads: load(&self.heads),
            lingering: load(&self.lingering),
            offload_calls: load(&self.offload_calls),
            offload_queued: load(&self.offload_queued),
            offload_threads: load(&self.offload_threads),
            clients_gone: load(&self.clients_gone),
            messages_received: load(&self.messages_received),
            messages_sent: load(&self.messages_sent),
            handed_over: load(&self.handed_over),
            taken_over: load(&self.taken_over),
            not_handed_over: load(&self.not_handed_over),
            request_limit: load(&self.request_limit),
            busy_nanoseconds: self.busy_nanoseconds(now),
            waits: std::array::from_fn(|place| load(&self.waits[place])),
            refused: std::array::from_fn(|place| load(&self.refused[place])),
            first_byte: self.first_byte.read(),
            queue: self.queue.read(),
            lag: self.lag.read(),
            gil: self.gil.read(),
            durations: std::array::from_fn(|method| std::array::from_fn(|class| self.durations[method][class].read())),
            channels: std::array::from_fn(|place| load(&self.channels[place])),
        }
    }

    /// The connections that the slot's owner has handed over and taken over.
    pub fn hand_overs(&self) -> HandOvers {
        let since = |place: usize, now: u64| now.saturating_sub(self.hand_overs_before[place].load(Ordering::Acquire));
        let [sent, received, failed] = self.all_hand_overs();
        HandOvers { sent: since(0, sent), received: since(1, received), failed: since(2, failed) }
    }

    fn all_hand_overs(&self) -> [u64; 3] {
        [&self.handed_over, &self.taken_over, &self.not_handed_over].map(|counter| counter.load(Ordering::Acquire))
    }

    /// Ends the numbers that end with the worker; counters stay.
    pub fn release(&self, now: u64) {
        let clock = self.busy_clock.load(Ordering::Relaxed);
        self.busy_clock.store(busy_of(clock, now) << 1, Ordering::Release);
        for mark in &self.marks {
            mark.at.store(0, Ordering::Release);
        }
        self.next_mark.store(0, Ordering::Release);
        self.marked_at.store(0, Ordering::Release);
        let gauges = [
            &self.request_limit,
            &self.busy_coroutines,
            &self.idle_coroutines,
            &self.heads,
            &self.lingering,
            &self.offload_queued,
            &self.offload_threads,
        ];
        gauges.into_iter().chain(&self.waits).for_each(|gauge| gauge.store(0, Ordering::Relaxed));
        for (before, now) in self.hand_overs_before.iter().zip(self.all_hand_overs()) {
            before.store(now, Ordering::Release);
        }
    }
}

impl BusyMark {
    fn read(&self) -> Option<(u64, u64)> {
        let at = self.at.load(Ordering::Acquire);
        let busy = self.busy.load(Ordering::Acquire);
        // A mark that was replaced meanwhile does not count.
        (at > 0 && self.at.load(Ordering::Acquire) == at).then_some((at, busy))
    }
}

/// Adds to a counter that the calling thread alone writes, without a locked instruction.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
}

/// The place of a method in [`METHODS`].
#[inline]
pub fn place_of_method(method: &[u8]) -> usize {
    if method == b"GET" {
        return 0;
    }
    METHODS.iter().position(|known| known.as_bytes() == method).unwrap_or(METHODS.len() - 1)
}

/// A loop's busy time as one number, which is written at once. While the loop waits, it is twice the busy time. While
/// the loop is busy, it is an odd number: twice the time at which the loop would have begun, had it never waited, plus 1.
fn running_clock(now: u64, busy: u64) -> u64 {
    (now.saturating_sub(busy) << 1) | 1
}

fn busy_of(clock: u64, now: u64) -> u64 {
    if clock & 1 == 1 { now.saturating_sub(clock >> 1) } else { clock >> 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_duration_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::default();
        for milliseconds in [0, 5, 6, 10_000, 10_001] {
            histogram.add(&REQUEST_NANOSECONDS, milliseconds * 1_000_000);
        }
        let read = histogram.read();
        assert_eq!((read.counts[0], read.counts[1], read.counts[13], read.counts[14]), (2, 1, 1, 1));
        assert_eq!((read.count(), read.sum_nanoseconds), (5, 20_012_000_000));
    }

    #[test]
    fn methods_and_status_codes_outside_of_the_standard_have_places() {
        let measures = Measures::default();
        for (method, status) in [("GET", 200), ("BREW", 418), ("get", 0), ("PATCH", 999), ("PUT", 599)] {
            measures.note_request(place_of_method(method.as_bytes()), status, 0);
        }
        let found = measures.read(0);
        let count = |method: usize, class: usize| found.durations[method][class].count();
        assert_eq!((count(0, 2), count(9, 4), count(9, 0), count(8, 0), count(3, 5)), (1, 1, 1, 1, 1));
        assert_eq!(found.all_durations().count(), 5);
        for status in [400, 599, 505] {
            measures.note_refusal(status);
        }
        let refused = measures.read(0).refused;
        assert_eq!((refused[0], refused[14], refused[15]), (1, 1, 1));
    }

    #[test]
    fn the_busy_time_includes_the_running_turn_and_never_goes_backwards() {
        let measures = Measures::default();
        let start = 1000 * SECOND;
        measures.begin_turn(start);
        assert_eq!(measures.busy_nanoseconds(start + 5), 5);
        measures.end_turn(start + 10);
        assert_eq!(measures.busy_nanoseconds(start + 99), 10);
        measures.begin_turn(start + 100);
        // A turn follows without a wait.
        measures.begin_turn(start + 120);
        assert_eq!(measures.busy_nanoseconds(start + 150), 60);
        measures.release(start + 160);
        assert_eq!(measures.busy_nanoseconds(start + 900), 70);
    }

    #[test]
    fn the_busy_share_is_that_of_the_last_ten_seconds() {
        let measures = Measures::default();
        let start = 1000 * SECOND;
        assert_eq!(measures.busy_share(start), 0.0);
        let young = Measures::default();
        young.begin_turn(start);
        assert!((young.busy_share(start + SECOND) - 0.1).abs() < 0.001);
        // Idle for 30 s, then busy for a half of each second.
        measures.begin_turn(start);
        measures.end_turn(start + 1);
        assert!(measures.busy_share(start + 30 * SECOND) < 0.001);
        for second in 30..60 {
            measures.begin_turn(start + second * SECOND);
            measures.end_turn(start + second * SECOND + SECOND / 2);
        }
        let share = measures.busy_share(start + 60 * SECOND);
        assert!((share - 0.5).abs() < 0.03, "{share}");
        // A turn that does not end.
        measures.begin_turn(start + 60 * SECOND);
        let share = measures.busy_share(start + 65 * SECOND);
        assert!((share - 0.75).abs() < 0.03, "{share}");
        assert!(measures.busy_share(start + 80 * SECOND) > 0.99);
    }

    #[test]
    fn numbers_that_no_worker_writes_do_no_harm() {
        let measures = Measures::default();
        measures.busy_clock.store(u64::MAX, Ordering::Relaxed);
        measures.next_mark.store(u64::MAX, Ordering::Relaxed);
        for mark in &measures.marks {
            mark.at.store(u64::MAX / 2, Ordering::Relaxed);
            mark.busy.store(u64::MAX, Ordering::Relaxed);
        }
        for now in [0, 1, u64::MAX] {
            measures.begin_turn(now);
            measures.end_turn(now);
            assert!((0.0..=1.0).contains(&measures.busy_share(now)));
        }
        let mut twice = measures.read(0);
        let once = twice.clone();
        twice.include(&once);
    }
}
