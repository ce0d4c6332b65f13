//! Meinheld's access logger, an object of the application's.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::http::date::common_log_date;
use crate::wsgi::{Finished, unix_seconds};

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
