//! From an application's result to the response: sized results in one write, files by sendfile, the rest item by item.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::file_wrapper::FileWrapper;
use super::start_response::StartResponse;
use super::text::wrong_type;
use crate::interp;

/// Sized results up to this many bytes are joined before they are sent.
const JOINED_BYTES: usize = 64 * 1024;

/// Sends the application's result and completes the response. Does not call `close()`.
///
/// # Errors
/// The application's exception, the rule that it broke, or the failure of sending.
///
/// # Parks
pub fn respond(result: &Bound<'_, PyAny>, object: &Bound<'_, StartResponse>, use_sendfile: bool) -> PyResult<()> {
    let (py, response) = (result.py(), object.get());
    if let Ok(list) = result.cast_exact::<PyList>() {
        if list.len() == 1 {
            let item = list.get_item(0)?;
            let data = bytes(&item)?;
            StartResponse::send_sized(object, data, data.as_bytes().len() as u64)?;
        } else {
            send_sized(list.to_tuple(), object)?;
        }
    } else if let Ok(tuple) = result.cast_exact::<PyTuple>() {
        send_sized(tuple.clone(), object)?;
    } else if use_sendfile
        && let Ok(file) = result.cast_exact::<FileWrapper>()
        && file.get().send(py, response)?
    {
    } else {
        send_items(result, object)?;
    }
    StartResponse::finish_whole(object)
}

fn bytes<'a, 'py>(item: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyBytes>> {
    item.cast::<PyBytes>().map_err(|_| wrong_type("each item of a response must be bytes", item, "PEP 3333"))
}

/// Sends a tuple of byte strings, whose length is known before the first is sent.
fn send_sized(items: Bound<'_, PyTuple>, object: &Bound<'_, StartResponse>) -> PyResult<()> {
    let mut total = 0;
    for item in items.iter_borrowed() {
        total += bytes(&item)?.as_bytes().len();
    }
    if total <= JOINED_BYTES && items.len() > 1 {
        let mut joined = Vec::with_capacity(total);
        for item in items.iter_borrowed() {
            joined.extend_from_slice(bytes(&item)?.as_bytes());
        }
        return StartResponse::send_sized(object, &PyBytes::new(items.py(), &joined), total as u64);
    }
    for item in items.iter_borrowed() {
        StartResponse::send_sized(object, bytes(&item)?, total as u64)?;
        interp::give_way(items.py())?;
    }
    Ok(())
}

/// Sends any iterable. One with a single item has a known length (PEP 3333, "Handling the Content-Length Header").
fn send_items(result: &Bound<'_, PyAny>, object: &Bound<'_, StartResponse>) -> PyResult<()> {
    let response = object.get();
    let has_one_item = result.hasattr(intern!(result.py(), "__len__"))? && result.len()? == 1;
    let items = result
        .try_iter()
        .map_err(|_| wrong_type("the application must return an iterable of bytes", result, "PEP 3333"))?;
    if response.is_to_end() {
        response.hold_end(result.py());
        return Ok(());
    }
    for item in items {
        let item = item?;
        response.hold_end(result.py());
        let data = bytes(&item)?;
        let known_length = has_one_item.then(|| data.as_bytes().len() as u64);
        StartResponse::send_item(object, data, known_length)?;
        if response.is_over() || response.is_to_end() {
            break;
        }
        interp::give_way(result.py())?;
    }
    Ok(())
}
