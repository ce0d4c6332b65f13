//! The answers to `/live`, `/ready` and `/metrics`, from the scoreboard alone.
//!
//! Bytes in, bytes out: nothing here reads a socket or waits.

use std::fmt::Write;
use std::time::Duration;

use super::exposition::TextFormat;
use super::metrics::{self, Build};
use super::scoreboard::{Scoreboard, WorkerState};
use crate::http::error::RequestError;
use crate::http::head::Head;
use crate::http::response::{error_page, reason, write_field, write_status_line};

/// The workers that an answer names one by one.
const NAMED_WORKERS: usize = 64;

const SERVER: &[u8] = b"rmeinheld";

/// The rules of readiness.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Workers that must be ready.
    pub workers: u32,
    /// How long a turn of a loop may last until its worker counts as stuck.
    pub turn_limit: Duration,
}

/// The questions that are answered.
#[derive(Clone, Debug)]
pub struct Topics {
    /// The rules of `/ready`.
    pub readiness: Readiness,
    /// The versions that `/metrics` names; `None` where metrics are off.
    pub build: Option<Build>,
}

/// A response, and its kind.
pub struct Response {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// It is long, so its client needs more time.
    pub is_scrape: bool,
}

/// An answer, before it is written.
struct ProbeAnswer {
    status: u16,
    content_type: &'static str,
    text: String,
}

impl ProbeAnswer {
    fn text(status: u16, text: impl Into<String>) -> ProbeAnswer {
        ProbeAnswer { status, content_type: "text/plain; charset=utf-8", text: text.into() }
    }
}

/// The response to a request whose head is in `bytes`.
pub fn respond(head: &Head, bytes: &[u8], board: &Scoreboard, topics: &Topics, date: &[u8; 29]) -> Response {
    let method = head.method.of(bytes);
    let is_known = method == b"GET" || method == b"HEAD";
    let mut is_scrape = false;
    let answer = match (head.path.of(bytes), &topics.build) {
        (b"/live" | b"/ready" | b"/metrics", _) if !is_known => {
            ProbeAnswer::text(405, "/live, /ready and /metrics are asked by GET or HEAD\n")
        }
        (b"/live", _) => ProbeAnswer::text(200, format!("live: process {}\n", std::process::id())),
        (b"/ready", _) => ready(board, topics.readiness),
        (b"/metrics", Some(build)) => {
            is_scrape = true;
            scraped(head, bytes, board, topics.readiness, build)
        }
        (b"/metrics", None) => ProbeAnswer::text(404, "the setting metrics is off\n"),
        _ => ProbeAnswer::text(404, "the paths here are /live, /ready and /metrics\n"),
    };
    Response { bytes: write(&answer, method == b"HEAD", date), is_scrape }
}

fn scraped(head: &Head, bytes: &[u8], board: &Scoreboard, readiness: Readiness, build: &Build) -> ProbeAnswer {
    let accept = head.fields.iter().filter(|field| field.name.of(bytes).eq_ignore_ascii_case(b"accept"));
    let format = TextFormat::of(accept.map(|field| field.value.of(bytes)));
    let text = metrics::scrape(board, readiness.turn_limit, build, format);
    ProbeAnswer { status: 200, content_type: format.content_type(), text }
}

/// The response to bytes that are no request.
pub fn refuse(error: RequestError, bytes: &[u8], date: &[u8; 29]) -> Vec<u8> {
    error_page(error.status(), bytes, date, SERVER)
}

/// Is the service ready? The text says why it is not.
fn ready(board: &Scoreboard, readiness: Readiness) -> ProbeAnswer {
    if board.is_stopping() {
        return ProbeAnswer::text(503, "not ready: the service stops\n");
    }
    let ready = board.ready_workers(readiness.turn_limit);
    let taken: Vec<u32> = board.taken().collect();
    if ready >= readiness.workers {
        return ProbeAnswer::text(200, format!("ready: {ready} of {} workers\n", taken.len()));
    }
    let mut text = format!(
        "not ready: {ready} of {} workers are ready, and ready_workers is {}\n",
        taken.len(),
        readiness.workers
    );
    let idle = taken.iter().filter(|&&index| !board.is_ready(index, readiness.turn_limit));
    for &index in idle.take(NAMED_WORKERS) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "worker {index} (process {}): {}", board.pid(index), why(board, index, readiness));
    }
    ProbeAnswer::text(503, text)
}

/// The reason why a worker is not ready.
fn why(board: &Scoreboard, index: u32, readiness: Readiness) -> String {
    match board.state(index) {
        _ if !board.is_alive(index) => "its process is gone".to_owned(),
        WorkerState::Free => "it has ended".to_owned(),
        WorkerState::Booting => "it starts and imports the application".to_owned(),
        WorkerState::Draining => "it ends".to_owned(),
        WorkerState::Ready => {
            let (age, limit) = (board.turn_age(index).as_secs_f64(), readiness.turn_limit.as_secs_f64());
            format!("it computes: its loop has not turned for {age:.1} s (the limit is {limit} s)")
        }
    }
}

fn write(answer: &ProbeAnswer, is_head: bool, date: &[u8; 29]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + answer.text.len());
    write_status_line(&mut out, format!("{} {}", answer.status, reason(answer.status)).as_bytes());
    write_field(&mut out, b"Server", SERVER);
    write_field(&mut out, b"Date", date);
    write_field(&mut out, b"Content-Type", answer.content_type.as_bytes());
    write_field(&mut out, b"Content-Length", answer.text.len().to_string().as_bytes());
    write_field(&mut out, b"Cache-Control", b"no-store");
    if answer.status == 405 {
        write_field(&mut out, b"Allow", b"GET, HEAD");
    }
    write_field(&mut out, b"Connection", b"close");
    out.extend_from_slice(b"\r\n");
    if !is_head {
        out.extend_from_slice(answer.text.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crew::admin::HEAD_LIMITS;
    use crate::http::head::Parsed;

    const DATE: &[u8; 29] = b"Thu, 01 Jan 1970 00:00:00 GMT";

    fn ask(line: &str, board: &Scoreboard, workers: u32) -> String {
        let bytes = format!("{line} HTTP/1.1\r\nHost: probe\r\n\r\n").into_bytes();
        let mut head = Head::new();
        assert_eq!(head.parse(&bytes, &HEAD_LIMITS), Ok(Parsed::Complete));
        let readiness = Readiness { workers, turn_limit: Duration::from_secs(5) };
        let topics = Topics { readiness, build: (workers > 0).then(Build::default) };
        String::from_utf8(respond(&head, &bytes, board, &topics, DATE).bytes).unwrap()
    }

    #[test]
    fn a_service_is_ready_with_enough_ready_workers() {
        let board = Scoreboard::new(4).unwrap();
        assert!(ask("GET /ready", &board, 1).contains("503 Service Unavailable"));
        let (one, two) = (board.reserve().unwrap(), board.reserve().unwrap());
        let text = ask("GET /ready", &board, 1);
        assert!(text.ends_with("worker 1 (process 0): it starts and imports the application\n"), "{text}");
        board.set_state(one, WorkerState::Ready);
        assert!(ask("GET /ready?verbose", &board, 1).ends_with("\r\n\r\nready: 1 of 2 workers\n"));
        assert!(ask("GET /ready", &board, 2).contains("not ready: 1 of 2 workers are ready, and ready_workers is 2\n"));
        board.set_state(two, WorkerState::Ready);
        assert!(ask("GET /ready", &board, 2).starts_with("HTTP/1.1 200 OK\r\n"));
        board.set_state(two, WorkerState::Draining);
        assert!(ask("GET /ready", &board, 2).ends_with("worker 1 (process 0): it ends\n"));
        board.set_stopping(true);
        assert!(ask("GET /ready", &board, 1).ends_with("not ready: the service stops\n"));
        assert!(ask("GET /live", &board, 1).starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[test]
    fn the_answer_to_head_has_no_body_and_the_length_of_that_to_get() {
        let board = Scoreboard::new(1).unwrap();
        let (full, bare) = (ask("GET /ready", &board, 1), ask("HEAD /ready", &board, 1));
        assert!(bare.ends_with("\r\n\r\n"));
        assert_eq!(full.split_once("\r\n\r\n").unwrap().0, bare.trim_end());
    }

    #[test]
    fn metrics_have_the_format_that_is_asked_for_or_are_off() {
        let board = Scoreboard::new(1).unwrap();
        let plain = ask("GET /metrics", &board, 1);
        assert!(plain.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
        assert!(ask("GET /metrics", &board, 0).ends_with("\r\n\r\nthe setting metrics is off\n"));
        assert!(ask("POST /metrics", &board, 1).starts_with("HTTP/1.1 405 "));
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let board = Scoreboard::new(1).unwrap();
        for path in ["/", "/live/", "/ready%20", "/Ready", "*"] {
            let line = if path == "*" { "OPTIONS *".to_owned() } else { format!("GET {path}") };
            assert!(ask(&line, &board, 1).starts_with("HTTP/1.1 404 Not Found\r\n"), "{path}");
        }
        assert!(ask("GET http://other/live", &board, 1).starts_with("HTTP/1.1 200 OK\r\n"));
        for method in ["POST", "get", "DELETE"] {
            let answer = ask(&format!("{method} /live"), &board, 1);
            assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
            assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"));
        }
    }
}
