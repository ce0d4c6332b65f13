//! `_queue.SimpleQueue`, which `concurrent.futures` and other modules have made before a patch, or use without one.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::call::NativeCall;
use super::lines::Claim;
use super::lock::look;
use super::method::{Exchanged, Wakes, exchanged};
use crate::event_loop::reasons::Reason;
use crate::interp;

exchanged!(Get, "get", Wakes::None, Some(get));
exchanged!(Put, "put", Wakes::Next, None);
exchanged!(PutNoWait, "put_nowait", Wakes::Next, None);
exchanged!(Size, "qsize", Wakes::None, Some(look));
exchanged!(Empty, "empty", Wakes::None, Some(look));

/// # Parks
fn get(call: &NativeCall<'_>) -> PyResult<Py<PyAny>> {
    let py = call.py();
    let Some(deadline) = deadline(call)? else { return look(call) };
    interp::give_way(py)?;
    let (queue, item) = (call.object(), RefCell::new(None));
    let claim = Claim::new(queue, Reason::Queue, |ahead| {
        // Each claim ahead was woken for an item, or has none to come.
        let size: usize = Size::method().invoke(queue, &[])?.extract()?;
        if size > ahead {
            *item.borrow_mut() = Some(get_now(queue)?);
        }
        Ok(size > ahead)
    });
    if (claim.try_now()? || claim.wait(py, deadline)?)
        && let Some(item) = item.take()
    {
        return Ok(item.unbind());
    }
    get_now(queue).map(Bound::unbind)
}

fn get_now<'py>(queue: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    Get::method().invoke(queue, &[PyBool::new(queue.py(), false).as_any()])
}

/// The deadline of `get(block=True, timeout=None)`. The outer None means a call that does not wait, or that the
/// original refuses.
fn deadline(call: &NativeCall<'_>) -> PyResult<Option<Option<Instant>>> {
    if call.is_bare() {
        return Ok(Some(None));
    }
    let Some([block, timeout]) = call.arguments(["block", "timeout"])? else { return Ok(None) };
    if !block.map_or(Ok(true), |block| block.is_truthy())? {
        return Ok(None);
    }
    match timeout.filter(|timeout| !timeout.is_none()) {
        None => Ok(Some(None)),
        Some(timeout) => {
            let wait = timeout.extract::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Ok(wait.and_then(|wait| Instant::now().checked_add(wait)).map(Some))
        }
    }
}
