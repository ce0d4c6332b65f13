//! The metrics of a service: the list of all, and the text of a scrape, from the scoreboard alone.
//!
//! The list is the only source: the text, the table in the documentation and the accessor in Python are made from it.
//! Names follow Prometheus' conventions. `http_server_*` are OpenTelemetry's metrics in Prometheus' spelling.

use std::os::linux::fs::MetadataExt;
use std::time::Duration;

use super::exposition::{Exposition, Family, MetricKind, TextFormat};
use super::measures::{
    CHANNEL_EVENTS, LOOP_BOUNDS, METHODS, Measured, REFUSALS, REQUEST_BOUNDS, STATUS_CLASSES, WAIT_REASONS,
};
use super::scoreboard::{Counters, EXIT_REASONS, Scoreboard, WorkerState};
use crate::event_loop::reasons::Reason;

const _: () = assert!(Reason::ALL.len() <= WAIT_REASONS);

/// The versions that a scrape names.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// The version of this server.
    pub version: String,
    /// The version of Python.
    pub python: String,
}

macro_rules! families {
    ($($constant:ident: $name:literal $kind:ident $unit:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name, kind: MetricKind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
        };)*

        /// All metrics, in the order of a scrape.
        pub const FAMILIES: &[Family] = &[$($constant),*];
    };
}

families! {
    DURATION: "http_server_request_duration_seconds" Histogram "seconds"
        ["http_request_method", "http_response_status_class"]
        "Time from a request's head to the end of its response, by method and class of the status.";
    ACTIVE: "http_server_active_requests" Gauge "" [] "Requests in progress, WebSockets included.";
    FIRST_BYTE: "rmeinheld_time_to_first_byte_seconds" Histogram "seconds" []
        "Time from a request's head until the first bytes of its response were sent.";
    QUEUE: "rmeinheld_request_queue_seconds" Histogram "seconds" []
        "Time from a trusted proxy's X-Request-Start to the request's head: the proxy, the network, the kernel's queue.";
    REFUSED: "rmeinheld_refused_requests" Counter "" ["http_response_status_code"]
        "Requests that the server refused before the application saw them.";
    GONE: "rmeinheld_clients_gone" Counter "" [] "Requests whose client went away until the response was complete.";
    RECEIVED: "rmeinheld_received_bytes" Counter "bytes" [] "Bytes received from clients, as they were on the wire.";
    SENT: "rmeinheld_sent_bytes" Counter "bytes" [] "Bytes sent to clients, as they were on the wire.";
    CONNECTIONS: "rmeinheld_connections" Gauge "" ["state"]
        "Open connections: idle, with part of a head, with a request in progress, a WebSocket, or closing.";
    ACCEPTED: "rmeinheld_accepted_connections" Counter "" [] "Connections that were accepted.";
    HAND_OVERS: "rmeinheld_hand_overs" Counter "" ["outcome"]
        "Connections of sticky sessions that a worker sent to the session's worker, received, or could not send.";
    WEBSOCKETS: "rmeinheld_websockets" Counter "" [] "WebSockets that were accepted.";
    MESSAGES: "rmeinheld_websocket_messages" Counter "" ["direction"]
        "Messages of WebSockets that the application has received and sent.";
    CHANNELS: "rmeinheld_channel_messages" Counter "" ["event"]
        "Messages of channels: published, queued for a subscription (delivered), dropped because a subscriber was slow, \
         and places at which a subscription misses messages of other processes (gap).";
    COROUTINES: "rmeinheld_coroutines" Gauge "" ["state"]
        "Coroutines that run or are ready, that wait, by the reason, and idle ones that are kept for the next request.";
    SWITCHES: "rmeinheld_coroutine_switches" Counter "" [] "Parks of coroutines: each one is a switch to another.";
    LAG: "rmeinheld_loop_lag_seconds" Histogram "seconds" []
        "Time between two polls of the loop: for so long, at most, a new event had to wait.";
    GIL: "rmeinheld_gil_wait_seconds" Histogram "seconds" [] "Time for which the loop waited for the GIL after a poll.";
    BUSY: "rmeinheld_loop_busy_seconds" Counter "seconds" [] "Time for which loops did not wait for events.";
    TURN: "rmeinheld_loop_turn_seconds" Gauge "seconds" ["worker"]
        "Age of the running turn of a worker's loop; 0 while it waits for events.";
    OFFLOADS: "rmeinheld_offload_calls" Counter "" [] "Calls of offload.";
    OFFLOAD_QUEUE: "rmeinheld_offload_queue" Gauge "" [] "Calls of offload that wait for a thread.";
    OFFLOAD_THREADS: "rmeinheld_offload_threads" Gauge "" [] "OS threads of offload.";
    WORKERS: "rmeinheld_workers" Gauge "" ["state"]
        "Worker processes: booting, ready, stuck (the loop has not turned for 5 s), or draining.";
    STARTS: "rmeinheld_worker_starts" Counter "" [] "Workers that were started.";
    EXITS: "rmeinheld_worker_exits" Counter "" ["reason"] "Workers that have ended, by the reason.";
    MEMORY: "rmeinheld_worker_resident_memory_bytes" Gauge "bytes" ["worker"] "Resident memory of a worker.";
    DESCRIPTORS: "rmeinheld_worker_open_fds" Gauge "" ["worker"]
        "Open descriptors of a worker, where the answering worker may look.";
    SATURATION: "rmeinheld_saturation_ratio" Gauge "ratio" []
        "Use of the service, from 0 to 1: the mean of its workers that are ready or stuck.";
    WORKER_SATURATION: "rmeinheld_worker_saturation_ratio" Gauge "ratio" ["worker"]
        "Use of a worker, from 0 to 1: the larger of its loop's busy share over 10 s and its requests in progress over \
         worker_connections.";
    BUILD: "rmeinheld_build" Info "" ["version", "python"] "Versions of the server and of Python.";
}

/// A worker at the time of a scrape.
struct WorkerFigures {
    slot: String,
    state: &'static str,
    turn: Duration,
    saturation: f64,
    memory: Option<u64>,
    descriptors: Option<u64>,
}

/// The text of a scrape. `turn_limit` is the age of a turn at which its loop counts as stuck.
pub fn scrape(board: &Scoreboard, turn_limit: Duration, build: &Build, format: TextFormat) -> String {
    let measured = board.measured_in_total();
    let counters = board.total();
    let workers: Vec<_> = board.taken().map(|index| WorkerFigures::of(board, index, turn_limit)).collect();
    let mut out = Exposition::new(format);
    add_requests(&mut out, &measured, counters);
    add_connections(&mut out, &measured, board, counters);
    add_loops(&mut out, &measured, &workers);
    add_workers(&mut out, board, &workers);
    out.family(&BUILD, [(&[build.version.as_str(), build.python.as_str()][..], 1.0)]);
    out.finish()
}

fn add_requests(out: &mut Exposition, measured: &Measured, counters: Counters) {
    out.begin(&DURATION);
    for (method, classes) in METHODS.into_iter().zip(&measured.durations) {
        for (class, one) in STATUS_CLASSES.into_iter().zip(classes) {
            // One series is always there, so that the first request is a change.
            if one.count() > 0 || (method, class) == ("GET", "2xx") {
                out.histogram(&DURATION, &[method, class], &REQUEST_BOUNDS, one);
            }
        }
    }
    out.single(&ACTIVE, counters.in_progress as f64);
    out.begin(&FIRST_BYTE);
    out.histogram(&FIRST_BYTE, &[], &REQUEST_BOUNDS, &measured.first_byte);
    out.begin(&QUEUE);
    out.histogram(&QUEUE, &[], &REQUEST_BOUNDS, &measured.queue);
    out.begin(&REFUSED);
    for (status, count) in REFUSALS.into_iter().zip(measured.refused) {
        if count > 0 || status == 400 {
            let status = if status == 0 { "other".to_owned() } else { status.to_string() };
            out.sample(&REFUSED, &[&status], count as f64);
        }
    }
    out.single(&GONE, measured.clients_gone as f64);
    out.single(&RECEIVED, measured.received_bytes as f64);
    out.single(&SENT, measured.sent_bytes as f64);
}

fn add_connections(out: &mut Exposition, measured: &Measured, board: &Scoreboard, counters: Counters) {
    let Counters { open_connections, in_progress, websockets, connections, .. } = counters;
    let (heads, closing) = (measured.heads.min(open_connections), measured.lingering.min(open_connections));
    let states: [(&[&str], f64); 5] = [
        (&["idle"], open_connections.saturating_sub(in_progress + heads + closing) as f64),
        (&["head"], heads as f64),
        (&["active"], in_progress.saturating_sub(websockets) as f64),
        (&["websocket"], websockets as f64),
        (&["closing"], closing as f64),
    ];
    out.family(&CONNECTIONS, states);
    out.single(&ACCEPTED, connections as f64);
    let hand_overs: [(&[&str], f64); 3] = [
        (&["sent"], measured.handed_over as f64),
        (&["received"], measured.taken_over as f64),
        (&["failed"], measured.not_handed_over as f64),
    ];
    out.family(&HAND_OVERS, hand_overs);
    out.single(&WEBSOCKETS, board.websockets_begun() as f64);
    let directions: [(&[&str], f64); 2] =
        [(&["received"], measured.messages_received as f64), (&["sent"], measured.messages_sent as f64)];
    out.family(&MESSAGES, directions);
    out.begin(&CHANNELS);
    for (event, number) in CHANNEL_EVENTS.into_iter().zip(measured.channels) {
        out.sample(&CHANNELS, &[event], number as f64);
    }
}

fn add_loops(out: &mut Exposition, measured: &Measured, workers: &[WorkerFigures]) {
    out.begin(&COROUTINES);
    let waiting: u64 = measured.waits.iter().fold(0, |sum, &one| sum.wrapping_add(one));
    out.sample(&COROUTINES, &["ready"], measured.busy_coroutines.saturating_sub(waiting) as f64);
    for (reason, &number) in Reason::ALL.into_iter().zip(&measured.waits) {
        out.sample(&COROUTINES, &[reason.name()], number as f64);
    }
    out.sample(&COROUTINES, &["idle"], measured.idle_coroutines as f64);
    out.single(&SWITCHES, measured.switches as f64);
    out.begin(&LAG);
    out.histogram(&LAG, &[], &LOOP_BOUNDS, &measured.lag);
    out.begin(&GIL);
    out.histogram(&GIL, &[], &LOOP_BOUNDS, &measured.gil);
    out.single(&BUSY, measured.busy_nanoseconds as f64 / 1e9);
    out.begin(&TURN);
    for worker in workers {
        out.sample(&TURN, &[&worker.slot], worker.turn.as_secs_f64());
    }
    out.single(&OFFLOADS, measured.offload_calls as f64);
    out.single(&OFFLOAD_QUEUE, measured.offload_queued as f64);
    out.single(&OFFLOAD_THREADS, measured.offload_threads as f64);
}

fn add_workers(out: &mut Exposition, board: &Scoreboard, workers: &[WorkerFigures]) {
    let count = |state| workers.iter().filter(|worker| worker.state == state).count() as f64;
    out.begin(&WORKERS);
    for state in ["booting", "ready", "stuck", "draining"] {
        out.sample(&WORKERS, &[state], count(state));
    }
    out.single(&STARTS, board.starts() as f64);
    out.begin(&EXITS);
    for (reason, count) in EXIT_REASONS.into_iter().zip(board.exits()) {
        out.sample(&EXITS, &[reason], count as f64);
    }
    out.begin(&MEMORY);
    for worker in workers {
        if let Some(memory) = worker.memory {
            out.sample(&MEMORY, &[&worker.slot], memory as f64);
        }
    }
    out.begin(&DESCRIPTORS);
    for worker in workers {
        if let Some(descriptors) = worker.descriptors {
            out.sample(&DESCRIPTORS, &[&worker.slot], descriptors as f64);
        }
    }
    let serving: Vec<_> = workers.iter().filter(|worker| matches!(worker.state, "ready" | "stuck")).collect();
    out.begin(&SATURATION);
    if !serving.is_empty() {
        let sum: f64 = serving.iter().map(|worker| worker.saturation).sum();
        out.sample(&SATURATION, &[], sum / serving.len() as f64);
    }
    out.begin(&WORKER_SATURATION);
    for worker in serving {
        out.sample(&WORKER_SATURATION, &[&worker.slot], worker.saturation);
    }
}

impl WorkerFigures {
    fn of(board: &Scoreboard, index: u32, turn_limit: Duration) -> WorkerFigures {
        let turn = board.turn_age(index);
        let pid = board.pid(index);
        WorkerFigures {
            slot: index.to_string(),
            state: match board.state(index) {
                WorkerState::Ready if turn > turn_limit => "stuck",
                state => state.name(),
            },
            turn,
            saturation: board.saturation(index),
            memory: (pid > 0).then(|| resident_bytes(pid)).flatten(),
            descriptors: (pid > 0).then(|| open_descriptors(pid)).flatten(),
        }
    }
}

/// The resident memory of a process (proc_pid_statm(5)).
fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// The number of descriptors of a process. Linux 6.2 and later have it as the size of the directory.
fn open_descriptors(pid: u32) -> Option<u64> {
    let directory = format!("/proc/{pid}/fd");
    match std::fs::metadata(&directory).ok()?.st_size() {
        0 => Some(std::fs::read_dir(&directory).ok()?.count() as u64),
        count => Some(count),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crew::seat::Seat;

    fn text(board: &Scoreboard, format: TextFormat) -> String {
        scrape(board, Duration::from_secs(5), &Build { version: "1".into(), python: "3".into() }, format)
    }

    #[test]
    fn a_scrape_has_every_metric_of_the_list_once_and_in_its_order() {
        let board = Scoreboard::new(2).unwrap();
        for (format, ends) in [(TextFormat::OpenMetrics, false), (TextFormat::Prometheus, true)] {
            let text = text(&board, format);
            let names: Vec<_> =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
            let expected: Vec<_> =
                FAMILIES.iter().map(|one| format!("{}{}", one.name, if ends { one.end() } else { "" })).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn names_units_and_meanings_keep_to_the_conventions() {
        for family in FAMILIES {
            let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(is_word(family.name) && !family.name.ends_with("_total"), "{}", family.name);
            assert!(family.unit.is_empty() || family.name.ends_with(&format!("_{}", family.unit)), "{}", family.name);
            assert!(family.help.ends_with('.') && !family.help.contains(['\\', '"', '\n']), "{}", family.name);
            assert!(family.labels.iter().all(|label| is_word(label) && *label != "le"), "{}", family.name);
        }
    }

    #[test]
    fn counters_go_on_after_the_end_of_a_worker_and_its_gauges_do_not() {
        let board = Arc::new(Scoreboard::new(1).unwrap());
        let index = board.reserve().unwrap();
        let mut seat = Seat::take(Arc::clone(&board), index).unwrap();
        seat.measure();
        board.set_state(index, WorkerState::Ready);
        let measures = seat.measures().unwrap();
        measures.note_request(0, 204, 20_000_000);
        measures.note_refusal(431);
        measures.heads.store(1, std::sync::atomic::Ordering::Relaxed);
        seat.count_accepted(1);
        let alive = text(&board, TextFormat::Prometheus);
        let has = |text: &str, line: &str| assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        has(&alive, "rmeinheld_connections{state=\"head\"} 1");
        has(&alive, "rmeinheld_workers{state=\"ready\"} 1");
        assert!(alive.contains("rmeinheld_worker_resident_memory_bytes{worker=\"0\"} "));
        assert!(alive.contains("rmeinheld_worker_open_fds{worker=\"0\"} "));
        has(&alive, "rmeinheld_saturation_ratio 0");
        board.count_exit("killed");
        board.release(index);
        let dead = text(&board, TextFormat::Prometheus);
        has(&dead, "rmeinheld_connections{state=\"head\"} 0");
        assert!(!dead.contains("rmeinheld_saturation_ratio 0"));
        for line in [
            "http_server_request_duration_seconds_bucket{http_request_method=\"GET\",http_response_status_class=\"2xx\",le=\"0.01\"} 0",
            "http_server_request_duration_seconds_bucket{http_request_method=\"GET\",http_response_status_class=\"2xx\",le=\"0.025\"} 1",
            "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_class=\"2xx\"} 1",
            "rmeinheld_refused_requests_total{http_response_status_code=\"431\"} 1",
            "rmeinheld_accepted_connections_total 1",
            "rmeinheld_worker_starts_total 1",
            "rmeinheld_worker_exits_total{reason=\"killed\"} 1",
            "rmeinheld_build_info{version=\"1\",python=\"3\"} 1",
        ] {
            has(&dead, line);
        }
    }
}
