//! The access log, with Gunicorn's atoms. Lines are buffered. Before the loop polls, they are written as far as
//! possible without waiting (`output`).
//!
//! Values from the client are escaped as in Apache (mod_log_config): quotes, backslashes, and everything that is not
//! printable ASCII. A value can then neither begin a line nor control a terminal.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::access_log_format::{Piece, parse};
use crate::http::date::common_log_date;
use crate::interp::Level;
use crate::output::{self, LogFile, News};
use crate::wsgi::{Finished, unix_seconds};

/// Seconds for which the offset from UTC is cached: daylight saving time begins on a full minute.
const OFFSET_SECONDS: u64 = 60;

/// An access log file.
pub struct AccessLog {
    path: Option<String>,
    file: LogFile,
    format: Arc<[Piece]>,
    offset: (u64, i32),
    date: (u64, String),
}

impl AccessLog {
    /// Opens `path` for appending ("-": standard output) and parses the format. Uses `opened` instead of the path, if
    /// given.
    ///
    /// # Errors
    /// OSError that names the path; ValueError for a format with an unknown atom.
    pub fn new(path: &str, opened: Option<OwnedFd>, format: &str) -> PyResult<AccessLog> {
        let path = (path != "-").then(|| path.to_owned());
        let file = opened.map_or_else(|| open(path.as_deref()), |opened| Ok(LogFile::new(opened, false)))?;
        let format = parse(format).map_err(PyValueError::new_err)?;
        Ok(AccessLog { path, file, format: format.into(), offset: (u64::MAX, 0), date: (u64::MAX, String::new()) })
    }

    /// Reopens the file, or uses `opened` if given.
    ///
    /// # Errors
    /// OSError. The log then continues in the old file.
    pub fn reopen(&mut self, opened: Option<OwnedFd>) -> PyResult<()> {
        let file = opened.map_or_else(|| open(self.path.as_deref()), |opened| Ok(LogFile::new(opened, false)))?;
        self.finish();
        self.file = file;
        Ok(())
    }

    /// The renderer of one line. Rendering runs Python code, which may park, so the renderer does not borrow the log.
    ///
    /// # Errors
    /// The exception of `time.localtime`.
    pub fn renderer(&mut self, py: Python<'_>) -> PyResult<Renderer> {
        self.refresh_date(py)?;
        Ok(Renderer { format: Arc::clone(&self.format), date: self.date.1.clone() })
    }

    /// Adds a rendered line.
    pub fn add(&self, line: &[u8]) {
        self.file.add(line);
    }

    /// Writes buffered lines, as far as possible without waiting. Returns a line for the error log and its level, if
    /// any.
    pub fn flush(&self) -> Option<(Level, String)> {
        let name = self.path.as_deref().unwrap_or("standard output");
        Some(match self.file.flush()? {
            News::LosesLines(reason) => (
                Level::Error,
                format!(
                    "The access log (access_logfile, {name}) loses lines: {reason}. Requests are served all the same"
                ),
            ),
            News::GoesOn(lost) => {
                (Level::Warning, format!("The access log (access_logfile, {name}) goes on; {lost} lines were lost"))
            }
        })
    }

    fn finish(&self) {
        let lost = self.file.finish();
        if lost > 0 {
            let name = self.path.as_deref().unwrap_or("standard output");
            output::say(&format!("the access log (access_logfile, {name}) has lost {lost} lines"));
        }
    }

    fn refresh_date(&mut self, py: Python<'_>) -> PyResult<()> {
        let now = unix_seconds();
        if self.date.0 == now {
            return Ok(());
        }
        if now / OFFSET_SECONDS != self.offset.0 {
            let local = py.import("time")?.call_method1("localtime", (now,))?;
            self.offset = (now / OFFSET_SECONDS, local.getattr("tm_gmtoff")?.extract()?);
        }
        self.date = (now, format!("[{}]", common_log_date(now, self.offset.1)));
        Ok(())
    }
}

/// The format and the date of one line.
pub struct Renderer {
    format: Arc<[Piece]>,
    date: String,
}

impl Renderer {
    /// The line for a request that took `elapsed`.
    ///
    /// # Errors
    /// The exception of reading the environ.
    pub fn line(&self, finished: &Finished<'_>, elapsed: Duration) -> PyResult<Vec<u8>> {
        let mut line = Vec::with_capacity(160);
        for piece in &*self.format {
            self.add_piece(&mut line, piece, finished, elapsed)?;
        }
        line.push(b'\n');
        Ok(line)
    }

    fn add_piece(&self, line: &mut Vec<u8>, piece: &Piece, finished: &Finished<'_>, elapsed: Duration) -> PyResult<()> {
        match piece {
            Piece::Text(text) => line.extend_from_slice(text.as_bytes()),
            Piece::Atom(atom) => self.add_atom(line, *atom, finished, elapsed)?,
            Piece::RequestField(key) | Piece::Environ(key) => add_value(line, &finished.environ, key)?,
            Piece::ResponseField(name) => match response_field(&finished.fields, name.as_bytes()) {
                Some(value) => escape(line, value),
                None => line.push(b'-'),
            },
        }
        Ok(())
    }

    fn add_atom(&self, line: &mut Vec<u8>, atom: char, finished: &Finished<'_>, elapsed: Duration) -> PyResult<()> {
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
            't' => self.date.clone(),
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
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Opens a file for appending, even a FIFO without a reader.
fn open(path: Option<&str>) -> PyResult<LogFile> {
    let opened = match path {
        None => io::stdout().as_fd().try_clone_to_owned(),
        Some(path) => {
            let mut options = OpenOptions::new();
            options.append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            let opened = options.open(path);
            let no_reader = opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENXIO));
            if no_reader { options.read(true).open(path) } else { opened }.map(OwnedFd::from)
        }
    };
    opened.map(|opened| LogFile::new(opened, path.is_some())).map_err(|error| {
        let name = path.unwrap_or("standard output");
        pyo3::exceptions::PyOSError::new_err(format!("access_logfile {name:?} cannot be opened: {error}"))
    })
}

fn add_value(line: &mut Vec<u8>, environ: &Bound<'_, PyDict>, key: &str) -> PyResult<()> {
    add_value_or(line, environ, key, "-")
}

fn add_value_or(line: &mut Vec<u8>, environ: &Bound<'_, PyDict>, key: &str, missing: &str) -> PyResult<()> {
    match environ.get_item(key)? {
        Some(value) => {
            let text = value.str()?;
            let text = text.to_string_lossy();
            if text.is_empty() && missing == "-" {
                line.push(b'-');
            }
            // Native strings hold latin-1, one character for each byte.
            let bytes: Vec<u8> =
                text.chars().map(|character| u8::try_from(u32::from(character)).unwrap_or(b'?')).collect();
            escape(line, &bytes);
        }
        None => line.extend_from_slice(missing.as_bytes()),
    }
    Ok(())
}

fn escape(line: &mut Vec<u8>, value: &[u8]) {
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

/// The user of a Basic Authorization field (RFC 7617).
fn user(environ: &Bound<'_, PyDict>) -> PyResult<Option<Vec<u8>>> {
    let Some(authorization) = environ.get_item("HTTP_AUTHORIZATION")? else { return Ok(None) };
    let authorization = authorization.str()?.to_string_lossy().into_owned();
    let Some((scheme, token)) = authorization.split_once(' ') else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let decoded = environ.py().import("binascii")?.call_method1("a2b_base64", (token.trim(),));
    let Some(decoded) = decoded.and_then(|decoded| decoded.extract::<Vec<u8>>()).ok() else { return Ok(None) };
    Ok(decoded.split(|&byte| byte == b':').next().filter(|user| !user.is_empty()).map(<[u8]>::to_vec))
}

/// The value of the first field with this name in a rendered head.
fn response_field<'a>(fields: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    fields.split(|&byte| byte == b'\n').find_map(|line| {
        let at = memchr::memchr(b':', line)?;
        let (field, value) = line.split_at(at);
        field.eq_ignore_ascii_case(name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// Decodes each byte to one character.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Calls Meinheld's access logger: `access(environ)`, with four more keys in the environ. REQUEST_TIME is in
/// milliseconds. Three more keys serve loggers that need everything: `rmeinheld.status` (status code and reason),
/// `rmeinheld.response_headers` (pairs of str, as sent) and `rmeinheld.request_time` (seconds, a float).
///
/// # Errors
/// The exception of the logger.
pub fn tell(logger: &Bound<'_, PyAny>, finished: &Finished<'_>, elapsed: Duration) -> PyResult<()> {
    let py = logger.py();
    let environ = &finished.environ;
    environ.set_item("STATUS_CODE", finished.status)?;
    environ.set_item("SEND_BYTES", finished.body_bytes)?;
    environ.set_item("REQUEST_TIME", elapsed.as_millis())?;
    let mut lines = finished.fields.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).map(latin1);
    let status = lines.next().unwrap_or_default();
    environ.set_item("rmeinheld.status", status.split_once(' ').map_or("", |(_, status)| status))?;
    let pairs: Vec<_> = lines
        .filter_map(|line| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned())))
        .collect();
    environ.set_item("rmeinheld.response_headers", pairs)?;
    environ.set_item("rmeinheld.request_time", elapsed.as_secs_f64())?;
    let time = py.import("time")?;
    let now = unix_seconds();
    let offset = time.call_method1("localtime", (now,))?.getattr("tm_gmtoff")?.extract()?;
    environ.set_item("LOCAL_TIME", PyString::new(py, &common_log_date(now, offset)))?;
    logger.call_method1("access", (environ,))?;
    Ok(())
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

    #[test]
    fn response_fields_are_found_without_regard_to_case() {
        let fields = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Y:  z \r\n";
        assert_eq!(response_field(fields, b"x-y"), Some(&b"z"[..]));
        assert_eq!(response_field(fields, b"x-z"), None);
    }
}
