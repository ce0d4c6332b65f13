//! Ids that join up what several programs log about one request: `X-Request-ID`, and the trace of `traceparent`.
//!
//! The ids of trusted peers are taken over if they are valid; other requests get new ones. An application then finds
//! nothing in these fields that an untrusted client has made up.

use std::cell::RefCell;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rustix::rand::{GetRandomFlags, getrandom};

use super::forwarding::values;
use super::request::Request;
use crate::http::trace_context::{FLAGS_OF_NEW_TRACE, format_traceparent, is_request_id, parse_traceparent};

/// Random bytes that are fetched at a time: enough for a dozen requests, in one system call.
const POOL_BYTES: usize = 512;

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

/// The use of request ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdPolicy {
    /// No request has ids.
    Off,
    /// Every request has ids.
    On,
    /// Every response has the request's id, too.
    Respond,
}

/// The maker of ids, with their keys in the environ. Lives on the loop thread.
pub struct RequestIds {
    /// The ids also go into responses.
    pub responds: bool,
    clears_untrusted: bool,
    keys: IdKeys,
    random: RefCell<RandomPool>,
}

struct IdKeys {
    request_id: Py<PyString>,
    trace_id: Py<PyString>,
    span_id: Py<PyString>,
    traceparent: Py<PyString>,
    request_field: Py<PyString>,
    trace_fields: [Py<PyString>; 2],
}

impl RequestIds {
    /// The maker for a policy; `None` if it is off. `clears_untrusted` removes the trace of untrusted peers.
    pub fn new(py: Python<'_>, policy: IdPolicy, clears_untrusted: bool) -> Option<RequestIds> {
        let intern = |text: &str| PyString::intern(py, text).unbind();
        (policy != IdPolicy::Off).then(|| RequestIds {
            responds: policy == IdPolicy::Respond,
            clears_untrusted,
            keys: IdKeys {
                request_id: intern("rmeinheld.request_id"),
                trace_id: intern("rmeinheld.trace_id"),
                span_id: intern("rmeinheld.span_id"),
                traceparent: intern("rmeinheld.traceparent"),
                request_field: intern("HTTP_X_REQUEST_ID"),
                trace_fields: [intern("HTTP_TRACEPARENT"), intern("HTTP_TRACESTATE")],
            },
            random: RefCell::default(),
        })
    }

    /// Adds the keys that every request sets to the dictionary that requests copy.
    ///
    /// # Errors
    /// MemoryError.
    pub fn prepare(&self, template: &Bound<'_, PyDict>) -> PyResult<()> {
        let IdKeys { request_id, trace_id, span_id, traceparent, request_field, .. } = &self.keys;
        let keys = [request_id, trace_id, span_id, traceparent, request_field];
        keys.into_iter().try_for_each(|key| template.set_item(key, template.py().None()))
    }

    /// Gives a request its ids. Returns the request id.
    ///
    /// # Errors
    /// MemoryError.
    pub fn apply<'py>(&self, environ: &Bound<'py, PyDict>, request: &Request<'_>) -> PyResult<Bound<'py, PyString>> {
        let py = environ.py();
        let IdKeys { request_id, trace_id, span_id, traceparent, request_field, trace_fields } = &self.keys;
        let given = |name: &'static [u8]| single_value(request, name).filter(|_| request.is_trusted);
        let id = match given(b"x-request-id").filter(|id| is_request_id(id)) {
            Some(id) => PyString::new(py, std::str::from_utf8(id).unwrap_or_default()),
            None => PyString::new(py, &self.random_digits::<16>()),
        };
        let parent = given(b"traceparent").and_then(parse_traceparent);
        let made = if parent.is_none() { self.random_digits::<16>() } else { String::new() };
        let (trace, flags) =
            parent.map_or((made.as_str(), FLAGS_OF_NEW_TRACE), |parent| (parent.trace_id, parent.flags));
        let span = self.random_digits::<8>();
        environ.set_item(request_id, &id)?;
        environ.set_item(request_field, &id)?;
        environ.set_item(trace_id, trace)?;
        environ.set_item(span_id, &span)?;
        environ.set_item(traceparent, format_traceparent(trace, &span, flags))?;
        // W3C Trace Context 4.3: without a valid traceparent, tracestate means nothing.
        if parent.is_none() && (request.is_trusted || self.clears_untrusted) {
            for key in trace_fields {
                if environ.contains(key)? {
                    environ.del_item(key)?;
                }
            }
        }
        Ok(id)
    }

    fn random_digits<const BYTES: usize>(&self) -> String {
        let bytes = self.random.borrow_mut().take::<BYTES>();
        let digit = |digit: u8| char::from(HEXADECIMAL.get(usize::from(digit)).copied().unwrap_or(b'0'));
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

/// The value of a field that came exactly once.
fn single_value<'a>(request: &Request<'a>, name: &'static [u8]) -> Option<&'a [u8]> {
    let mut values = values(request, name);
    values.next().filter(|_| values.next().is_none())
}

/// Random bytes of the kernel.
struct RandomPool {
    bytes: [u8; POOL_BYTES],
    used: usize,
    process: u32,
}

impl Default for RandomPool {
    fn default() -> RandomPool {
        RandomPool { bytes: [0; POOL_BYTES], used: POOL_BYTES, process: std::process::id() }
    }
}

impl RandomPool {
    /// Some bytes, not all zero.
    fn take<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        if self.used + BYTES > POOL_BYTES {
            self.fill();
        }
        let taken = self.bytes.get(self.used..self.used + BYTES).and_then(|bytes| <[u8; BYTES]>::try_from(bytes).ok());
        self.used += BYTES;
        match taken {
            Some(taken) if taken != [0; BYTES] => taken,
            _ => [1; BYTES],
        }
    }

    #[cold]
    fn fill(&mut self) {
        self.used = 0;
        let mut filled = 0;
        while let Some(rest) = self.bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            // It fails only if a signal comes first, or the kernel is older than 3.17.
            match getrandom(rest, GetRandomFlags::empty()) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return self.mix(),
            }
        }
    }

    /// Numbers that differ between processes, for a kernel that has no random ones.
    fn mix(&mut self) {
        use std::hash::{BuildHasher, RandomState};
        let state = RandomState::new();
        let (words, _) = self.bytes.as_chunks_mut::<8>();
        for (index, word) in words.iter_mut().enumerate() {
            let seed = (self.process, std::time::SystemTime::now(), index);
            *word = state.hash_one(seed).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_do_not_repeat() {
        let mut pool = RandomPool::default();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1000 {
            assert!(seen.insert(pool.take::<16>()));
        }
        pool.mix();
        pool.used = 0;
        for _ in 0..POOL_BYTES / 16 {
            assert!(seen.insert(pool.take::<16>()));
        }
    }
}
