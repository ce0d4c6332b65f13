//! The access log. Lines are buffered. Before the loop polls, they are written as far as possible without waiting
//! (`output`).
//!
//! | module     | contents                                           |
//! |------------|----------------------------------------------------|
//! | `format`   | the form of a line, parsed from the setting        |
//! | `atoms`    | lines of text with atoms                           |
//! | `json`     | lines that are objects of JSON                     |
//! | `readable` | lines for people at a terminal                     |
//! | `values`   | values of an environ as bytes                      |
//! | `logger`   | Meinheld's access logger                           |

mod atoms;
pub mod format;
mod json;
pub mod logger;
mod readable;
mod values;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::time::{ClockId, Timespec, clock_gettime};

use self::format::{Format, parse};
use self::values::FinishedRequest;
use crate::http::date::{common_log_date, rfc3339_seconds, time_of_day};
use crate::interp::Level;
use crate::output::{self, LogFile, News};
use crate::wsgi::Finished;

/// Seconds for which the offset from UTC is cached: daylight saving time begins on a full minute.
const OFFSET_SECONDS: u64 = 60;

/// An access log file.
pub struct AccessLog {
    path: Option<String>,
    file: LogFile,
    format: Format,
    is_coloured: bool,
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
        let format = parse(format).map_err(PyValueError::new_err)?;
        let is_coloured = format == Format::Readable && path.is_none() && likes_colours();
        let file = opened.map_or_else(|| open(path.as_deref()), |opened| Ok(LogFile::new(opened, false)))?;
        let (offset, date) = ((u64::MAX, 0), (u64::MAX, String::new()));
        Ok(AccessLog { path, file, format, is_coloured, offset, date })
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
        let now = clock_gettime(ClockId::Realtime);
        self.refresh_date(py, u64::try_from(now.tv_sec).unwrap_or(0))?;
        Ok(Renderer { format: self.format.clone(), is_coloured: self.is_coloured, date: self.date.1.clone(), now })
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

    fn refresh_date(&mut self, py: Python<'_>, now: u64) -> PyResult<()> {
        if self.date.0 == now {
            return Ok(());
        }
        if self.format != Format::Json && now / OFFSET_SECONDS != self.offset.0 {
            self.offset = (now / OFFSET_SECONDS, utc_offset(py, now)?);
        }
        let date = match self.format {
            Format::Json => rfc3339_seconds(now),
            Format::Readable => time_of_day(now, self.offset.1),
            Format::Atoms(_) => format!("[{}]", common_log_date(now, self.offset.1)),
        };
        self.date = (now, date);
        Ok(())
    }
}

/// The form and the time of one line.
pub struct Renderer {
    format: Format,
    is_coloured: bool,
    date: String,
    now: Timespec,
}

impl Renderer {
    /// The line for a request that took `elapsed`.
    ///
    /// # Errors
    /// The exception of reading the environ.
    pub fn line(&self, finished: &Finished<'_>, elapsed: Duration) -> PyResult<Vec<u8>> {
        let mut line = match &self.format {
            Format::Atoms(pieces) => atoms::line(pieces, &self.date, finished, elapsed)?,
            Format::Json => {
                json::line(&self.date, self.now.tv_nsec.unsigned_abs(), &FinishedRequest::of(finished, elapsed))?
            }
            Format::Readable => readable::line(&self.date, self.is_coloured, &FinishedRequest::of(finished, elapsed))?,
        };
        line.push(b'\n');
        Ok(line)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The line of a named form, without its end, for the environ that an access logger gets.
///
/// # Errors
/// ValueError for a format of atoms; KeyError for another environ.
pub fn named_line(format: &str, environ: &Bound<'_, PyDict>) -> PyResult<String> {
    let now = clock_gettime(ClockId::Realtime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let request = FinishedRequest::of_environ(environ)?;
    let line = match parse(format) {
        Ok(Format::Json) => json::line(&rfc3339_seconds(seconds), now.tv_nsec.unsigned_abs(), &request)?,
        Ok(Format::Readable) => {
            readable::line(&time_of_day(seconds, utc_offset(environ.py(), seconds)?), false, &request)?
        }
        _ => return Err(PyValueError::new_err(format!("{format:?} is not the name of a form of the access log"))),
    };
    // Every form writes ASCII.
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Seconds by which local time is ahead of UTC.
fn utc_offset(py: Python<'_>, now: u64) -> PyResult<i32> {
    py.import("time")?.call_method1("localtime", (now,))?.getattr("tm_gmtoff")?.extract()
}

/// Does standard output show colours, and does the user want them (<https://no-color.org>)?
fn likes_colours() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
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
