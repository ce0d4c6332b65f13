//! The measures of one request, for metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::crew::measures::{Measures, REQUEST_NANOSECONDS, add, place_of_method};
use crate::crew::seat::{Seat, monotonic_nanoseconds};
use crate::http::head::Head;
use crate::wsgi::Finished;

/// A longer time between `X-Request-Start` and the request is taken for a wrong clock.
const LONGEST_QUEUE: Duration = Duration::from_secs(3600);

/// A request that is measured.
pub struct RequestMeasure {
    method: usize,
    begun: u64,
}

impl RequestMeasure {
    /// Begins to measure a request whose head is in `bytes`; `None` where nothing is measured. `is_trusted` says that
    /// the peer is trusted to say when the request has reached it.
    pub fn begin(seat: &Seat, head: &Head, bytes: &[u8], is_trusted: bool) -> Option<RequestMeasure> {
        let measures = seat.measures()?;
        if is_trusted {
            note_queue(measures, head, bytes);
        }
        Some(RequestMeasure { method: place_of_method(head.method.of(bytes)), begun: monotonic_nanoseconds() })
    }

    /// Notes the end of the request.
    pub fn end(self, seat: &Seat, finished: &Finished<'_>) {
        let Some(measures) = seat.measures() else { return };
        // A body in one piece is an application's whole result: nothing of it follows, and a look at the clock is saved.
        let ended = if finished.is_sent_at_once { finished.first_byte } else { monotonic_nanoseconds() };
        measures.note_request(self.method, finished.status, ended.saturating_sub(self.begun));
        if finished.first_byte > 0 {
            measures.first_byte.add(&REQUEST_NANOSECONDS, finished.first_byte.saturating_sub(self.begun));
        }
        if finished.client_gone {
            add(&measures.clients_gone, 1);
        }
    }
}

fn note_queue(measures: &Measures, head: &Head, bytes: &[u8]) {
    let mut fields = head.fields.iter();
    let Some(field) = fields.find(|field| field.name.of(bytes).eq_ignore_ascii_case(b"x-request-start")) else {
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(queued) = request_start(field.value.of(bytes)).and_then(|start| queued_for(start, now)) {
        measures.queue.add(&REQUEST_NANOSECONDS, u64::try_from(queued.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// The time between the two, if the clocks can be right. A start in the near future comes from a clock that goes fast.
fn queued_for(start: Duration, now: Duration) -> Option<Duration> {
    let queued = now.saturating_sub(start);
    (queued <= LONGEST_QUEUE && start.saturating_sub(now) <= LONGEST_QUEUE).then_some(queued)
}

/// The time in a field `X-Request-Start`, since 1970: `t=` is optional. Proxies send seconds (nginx: `t=${msec}`),
/// milliseconds (Heroku) or microseconds (Apache: `t=%t`), which their size tells apart.
fn request_start(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    let number = text.strip_prefix("t=").unwrap_or(text);
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let seconds = match number {
        ..1e11 => number,
        ..1e14 => number / 1e3,
        ..1e17 => number / 1e6,
        _ => number / 1e9,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_in_the_unit_that_its_size_says() {
        let expected = Duration::from_secs_f64(1_790_000_000.25);
        for text in ["t=1790000000.25", "1790000000.250", "1790000000250", "t=1790000000250000", " 1790000000250000000"]
        {
            let read = request_start(text.as_bytes()).unwrap();
            assert!(read.abs_diff(expected) < Duration::from_millis(1), "{text}: {read:?}");
        }
        for text in ["", "t=", "soon", "-5", "1e9", "inf", "t=1.2.3", "\u{e9}"] {
            assert_eq!(request_start(text.as_bytes()), None, "{text}");
        }
        assert!(request_start(&[b'9'; 400]).is_none());
    }

    #[test]
    fn a_clock_that_is_wrong_does_not_count() {
        let now = Duration::from_secs(1_790_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(queued_for(now - second, now), Some(second));
        assert_eq!(queued_for(now + second, now), Some(Duration::ZERO));
        assert_eq!(queued_for(now + 2 * LONGEST_QUEUE, now), None);
        assert_eq!(queued_for(Duration::ZERO, now), None);
    }
}
