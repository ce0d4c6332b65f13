//! Messages that are compressed before they meet the lock of a connection. A long one lets others have their turn.

use pyo3::prelude::*;

use crate::event_loop;
use crate::interp;
use crate::websocket::deflate::{self, Compressing};
use crate::websocket::extension::Agreement;

/// Compresses a message that does not need the context of its connection. None if it goes uncompressed, or if
/// `Protocol::write_message` compresses it.
///
/// # Errors
/// See [`interp::give_way`].
///
/// # Parks
pub(super) fn compress_alone(py: Python<'_>, agreement: Agreement, payload: &[u8]) -> PyResult<Option<Vec<u8>>> {
    if deflate::is_compressed_alone(&agreement, payload.len()) {
        compress_in_turns(py, payload, agreement.sent_bits)
    } else {
        Ok(None)
    }
}

/// Compresses a message for a window of `1 << bits` bytes. None if it does not get shorter.
///
/// # Errors
/// See [`interp::give_way`].
///
/// # Parks
pub(super) fn compress_in_turns(py: Python<'_>, payload: &[u8], bits: u8) -> PyResult<Option<Vec<u8>>> {
    let mut compressing = Compressing::new(payload, bits, None);
    if compressing.step() {
        return Ok(compressing.finish());
    }
    if event_loop::is_loop_thread() {
        while !compressing.step() {
            interp::give_way(py)?;
        }
    } else {
        // Coroutines run meanwhile.
        py.detach(|| while !compressing.step() {});
    }
    Ok(compressing.finish())
}
