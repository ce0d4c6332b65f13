//! Lines of text with atoms.
//!
//! Values from the client are escaped as in Apache (mod_log_config): quotes, backslashes, and everything that is not
//! printable ASCII. A value can then neither begin a line nor control a terminal.

use std::io::Write;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::format::Piece;
use super::values::{user, with_value};
use crate::http::response::find_field;
use crate::wsgi::Finished;

/// The line for a request that took `elapsed`, without its end. `date` is the time in brackets.
///
/// # Errors
/// The exception of reading the environ.
pub fn line(pieces: &[Piece], date: &str, finished: &Finished<'_>, elapsed: Duration) -> PyResult<Vec<u8>> {
    let mut line = Vec::with_capacity(160);
    for piece in pieces {
        add_piece(&mut line, piece, date, finished, elapsed)?;
    }
    Ok(line)
}

fn add_piece(
    line: &mut Vec<u8>,
    piece: &Piece,
    date: &str,
    finished: &Finished<'_>,
    elapsed: Duration,
) -> PyResult<()> {
    match piece {
        Piece::Text(text) => line.extend_from_slice(text.as_bytes()),
        Piece::Atom(atom) => add_atom(line, *atom, date, finished, elapsed)?,
        Piece::RequestField(key) | Piece::Environ(key) => add_value(line, &finished.environ, key)?,
        Piece::Note(key) => add_value(line, &finished.environ, key)?,
        Piece::ResponseField(name) => match find_field(&finished.fields, name.as_bytes()) {
            Some(value) => escape(line, value),
            None => line.push(b'-'),
        },
    }
    Ok(())
}

fn add_atom(line: &mut Vec<u8>, atom: char, date: &str, finished: &Finished<'_>, elapsed: Duration) -> PyResult<()> {
    let environ = &finished.environ;
    let text = match atom {
        'h' => return add_value(line, environ, "REMOTE_ADDR"),
        'm' => return add_value(line, environ, "REQUEST_METHOD"),
        'H' => return add_value(line, environ, "SERVER_PROTOCOL"),
        'q' => return add_value_or(line, environ, "QUERY_STRING", ""),
        'f' => return add_value(line, environ, "HTTP_REFERER"),
        'a' => return add_value(line, environ, "HTTP_USER_AGENT"),
        'U' => return add_value(line, environ, "PATH_INFO"),
        'u' => {
            escape(line, &user(environ)?.unwrap_or_else(|| b"-".to_vec()));
            return Ok(());
        }
        'r' => {
            for (index, key) in ["REQUEST_METHOD", "RAW_URI", "SERVER_PROTOCOL"].into_iter().enumerate() {
                if index > 0 {
                    line.push(b' ');
                }
                add_value(line, environ, key)?;
            }
            return Ok(());
        }
        't' => date.to_owned(),
        's' => finished.status.to_string(),
        'b' | 'B' => finished.body_bytes.to_string(),
        'T' => elapsed.as_secs().to_string(),
        'M' => elapsed.as_millis().to_string(),
        'D' => elapsed.as_micros().to_string(),
        'L' => format!("{}.{:06}", elapsed.as_secs(), elapsed.subsec_micros()),
        'p' => format!("<{}>", std::process::id()),
        _ => "-".to_owned(),
    };
    line.extend_from_slice(text.as_bytes());
    Ok(())
}

fn add_value(line: &mut Vec<u8>, environ: &Bound<'_, PyDict>, key: &str) -> PyResult<()> {
    add_value_or(line, environ, key, "-")
}

fn add_value_or(line: &mut Vec<u8>, environ: &Bound<'_, PyDict>, key: &str, missing: &str) -> PyResult<()> {
    let added = with_value(environ, &PyString::new(environ.py(), key), |value| {
        if !value.is_empty() {
            escape(line, value);
        }
        !value.is_empty()
    })?;
    if added != Some(true) {
        line.extend_from_slice(missing.as_bytes());
    }
    Ok(())
}

/// Adds a value with everything escaped that is not printable ASCII.
pub fn escape(line: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b' '..=b'~' => line.push(byte),
            _ => {
                // Writing to a Vec cannot fail.
                let _ = write!(line, "\\x{byte:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_and_quotes_are_escaped() {
        let mut line = Vec::new();
        escape(&mut line, b"a\"b\\c\r\n\x1b[0m\xe9 ~");
        assert_eq!(line, br#"a\"b\\c\x0d\x0a\x1b[0m\xe9 ~"#);
    }
}
