//! Lines for people at a terminal: columns, with the request last.

use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::atoms::escape;
use super::values::{FinishedRequest, with_value};

const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Characters of the column of clients: any address of IPv4.
const CLIENT_WIDTH: usize = 15;

/// The line for `request`, without its end. `time` is the time of day.
///
/// # Errors
/// The exception of reading the environ.
pub fn line(time: &str, is_coloured: bool, request: &FinishedRequest<'_, '_>) -> PyResult<Vec<u8>> {
    let FinishedRequest { environ, status, body_bytes, elapsed } = request;
    let py = environ.py();
    let paint = |text: &str, colour: &str| match is_coloured {
        true => format!("\x1b[{colour}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let status = match *status {
        0 => paint("---", RED),
        status => paint(&format!("{status:03}"), colour_of(status)),
    };
    let columns =
        format!("{}  {status}  {:>8}  {:>8}  ", paint(time, DIM), duration_text(*elapsed), size_text(*body_bytes));
    let mut line = columns.into_bytes();
    let start = line.len();
    add(&mut line, environ, intern!(py, "REMOTE_ADDR"))?;
    let width = line.len() - start;
    line.resize(line.len() + CLIENT_WIDTH.saturating_sub(width) + 2, b' ');
    add(&mut line, environ, intern!(py, "REQUEST_METHOD"))?;
    line.push(b' ');
    add(&mut line, environ, intern!(py, "RAW_URI"))?;
    let mut id = Vec::new();
    with_value(environ, intern!(py, "rmeinheld.request_id"), |value| escape(&mut id, value))?;
    if !id.is_empty() {
        let id = paint(&format!("  id={}", String::from_utf8_lossy(&id)), DIM);
        line.extend_from_slice(id.as_bytes());
    }
    Ok(line)
}

fn add(line: &mut Vec<u8>, environ: &Bound<'_, PyDict>, key: &Bound<'_, PyString>) -> PyResult<()> {
    let length = line.len();
    with_value(environ, key, |value| escape(line, value))?;
    if line.len() == length {
        line.push(b'-');
    }
    Ok(())
}

fn colour_of(status: u16) -> &'static str {
    match status {
        0..300 => GREEN,
        300..400 => CYAN,
        400..500 => YELLOW,
        _ => RED,
    }
}

fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    match duration.as_millis() {
        0..1_000 => format!("{milliseconds:.1} ms"),
        1_000..60_000 => format!("{:.2} s", duration.as_secs_f64()),
        _ => format!("{} s", duration.as_secs()),
    }
}

fn size_text(bytes: u64) -> String {
    let units = ["kB", "MB", "GB"];
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if scaled < 1000.0 {
            break;
        }
        (scaled, unit) = (scaled / 1000.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        let durations = [(120, "0.1 ms"), (999_000, "999.0 ms"), (1_234_000, "1.23 s"), (61_000_000, "61 s")];
        for (microseconds, text) in durations {
            assert_eq!(duration_text(Duration::from_micros(microseconds)), text);
        }
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1_250, "1.2 kB"), (7_000_000, "7.0 MB")] {
            assert_eq!(size_text(bytes), text);
        }
    }
}
