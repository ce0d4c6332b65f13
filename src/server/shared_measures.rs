//! The measures of a scoreboard, as Python sees them.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::crew::measures::{
    CHANNEL_EVENTS, Distribution, LOOP_BOUNDS, METHODS, Measured, REFUSALS, REQUEST_BOUNDS, STATUS_CLASSES,
};
use crate::event_loop::reasons::Reason;

/// The measures as a dictionary; see `Scoreboard.metrics`.
///
/// # Errors
/// MemoryError.
pub fn as_dict<'py>(py: Python<'py>, measured: &Measured) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    let numbers = [
        ("received_bytes", measured.received_bytes),
        ("sent_bytes", measured.sent_bytes),
        ("switches", measured.switches),
        ("busy_coroutines", measured.busy_coroutines),
        ("idle_coroutines", measured.idle_coroutines),
        ("heads", measured.heads),
        ("lingering", measured.lingering),
        ("offload_calls", measured.offload_calls),
        ("offload_queued", measured.offload_queued),
        ("offload_threads", measured.offload_threads),
        ("clients_gone", measured.clients_gone),
        ("messages_received", measured.messages_received),
        ("messages_sent", measured.messages_sent),
        ("handed_over", measured.handed_over),
        ("taken_over", measured.taken_over),
        ("not_handed_over", measured.not_handed_over),
        ("request_limit", measured.request_limit),
    ];
    for (name, number) in numbers {
        found.set_item(name, number)?;
    }
    found.set_item("busy_seconds", measured.busy_nanoseconds as f64 / 1e9)?;
    let waits = PyDict::new(py);
    for (reason, number) in Reason::ALL.into_iter().zip(measured.waits).filter(|&(_, number)| number > 0) {
        waits.set_item(reason.name(), number)?;
    }
    found.set_item("waits", waits)?;
    let channels = PyDict::new(py);
    for (event, number) in CHANNEL_EVENTS.into_iter().zip(measured.channels) {
        channels.set_item(event, number)?;
    }
    found.set_item("channels", channels)?;
    found.set_item("requests", requests(py, measured)?)?;
    let refused = PyDict::new(py);
    for (status, count) in REFUSALS.into_iter().zip(measured.refused).filter(|&(_, count)| count > 0) {
        refused.set_item(status, count)?;
    }
    found.set_item("refused", refused)?;
    let distributions = [
        ("request_duration", &measured.all_durations(), &REQUEST_BOUNDS),
        ("time_to_first_byte", &measured.first_byte, &REQUEST_BOUNDS),
        ("queue_time", &measured.queue, &REQUEST_BOUNDS),
        ("loop_lag", &measured.lag, &LOOP_BOUNDS),
        ("gil_wait", &measured.gil, &LOOP_BOUNDS),
    ];
    for (name, distribution, bounds) in distributions {
        found.set_item(name, histogram(py, distribution, bounds)?)?;
    }
    Ok(found)
}

fn requests<'py>(py: Python<'py>, measured: &Measured) -> PyResult<Bound<'py, PyDict>> {
    let requests = PyDict::new(py);
    for (method, classes) in METHODS.into_iter().zip(&measured.durations) {
        let counts = PyDict::new(py);
        for (class, one) in STATUS_CLASSES.into_iter().zip(classes).filter(|(_, one)| one.count() > 0) {
            counts.set_item(class, one.count())?;
        }
        if !counts.is_empty() {
            requests.set_item(method, counts)?;
        }
    }
    Ok(requests)
}

fn histogram<'py>(py: Python<'py>, distribution: &Distribution, bounds: &[f64]) -> PyResult<Bound<'py, PyDict>> {
    let histogram = PyDict::new(py);
    histogram.set_item("bounds", bounds)?;
    histogram.set_item("counts", distribution.counts)?;
    histogram.set_item("sum", distribution.sum_seconds())?;
    Ok(histogram)
}
