//! Environs of heads that connections repeat: a copy costs less than to make the strings of the fields again.
//!
//! Each place of [`KnownHeads`](crate::http::head::known::KnownHeads) has at most one entry here, so the memory is
//! bounded. The dictionaries hold strings of the request alone, nothing of its connection, and are never handed out.

use std::cell::RefCell;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::request::Request;
use crate::http::head::Repeated;
use crate::http::head::known::KNOWN_SECTIONS;

/// The environs of known heads. Lives on the loop thread. No Python code runs while it is borrowed.
#[derive(Default)]
pub struct KnownEnvirons(RefCell<Vec<Option<KnownEnviron>>>);

struct KnownEnviron {
    section: u32,
    /// The listener's dictionary, to which the entry adds.
    template: Py<PyDict>,
    is_trusted: bool,
    /// With the items of the fields.
    fields: Py<PyDict>,
    line: u32,
    /// With the items of the request line, too.
    whole: Option<Py<PyDict>>,
}

/// The dictionary that an environ begins as.
pub enum Beginning<'py> {
    /// A copy of the listener's dictionary.
    Template(Bound<'py, PyDict>),
    /// A copy that has the items of the fields.
    Fields(Bound<'py, PyDict>),
    /// A copy that has the items of the fields and of the request line.
    Whole(Bound<'py, PyDict>),
}

impl KnownEnvirons {
    /// A new dictionary for the environ of `request`.
    ///
    /// # Errors
    /// MemoryError.
    pub fn begin<'py>(&self, py: Python<'py>, request: &Request<'_>) -> PyResult<Beginning<'py>> {
        let found = request.head.repeated.and_then(|repeated| {
            let known = self.0.borrow();
            let known = known.get(place(repeated))?.as_ref().filter(|known| known.is_for(repeated, request))?;
            Some(match &known.whole {
                Some(whole) if known.line == repeated.line => (whole.clone_ref(py), true),
                _ => (known.fields.clone_ref(py), false),
            })
        });
        Ok(match found {
            None => Beginning::Template(request.template.bind(py).copy()?),
            Some((fields, false)) => Beginning::Fields(fields.bind(py).copy()?),
            Some((whole, true)) => Beginning::Whole(whole.bind(py).copy()?),
        })
    }

    /// Keeps the items of the fields, which `environ` has beyond those of the listener's dictionary.
    ///
    /// # Errors
    /// MemoryError.
    pub fn keep_fields(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> PyResult<()> {
        let Some(repeated) = request.head.repeated else { return Ok(()) };
        let known = KnownEnviron {
            section: repeated.section,
            template: request.template.clone_ref(environ.py()),
            is_trusted: request.is_trusted,
            fields: environ.copy()?.unbind(),
            line: 0,
            whole: None,
        };
        let previous = {
            let mut places = self.0.borrow_mut();
            places.resize_with(KNOWN_SECTIONS, || None);
            places.get_mut(place(repeated)).and_then(|place| place.replace(known))
        };
        drop(previous);
        Ok(())
    }

    /// Keeps the items of the request line in addition to those of the fields.
    ///
    /// # Errors
    /// MemoryError.
    pub fn keep_whole(&self, environ: &Bound<'_, PyDict>, request: &Request<'_>) -> PyResult<()> {
        let Some(repeated) = request.head.repeated.filter(|repeated| repeated.line > 0) else { return Ok(()) };
        let whole = environ.copy()?.unbind();
        let previous = {
            let mut places = self.0.borrow_mut();
            let known = places.get_mut(place(repeated)).and_then(Option::as_mut);
            known.filter(|known| known.is_for(repeated, request)).and_then(|known| {
                known.line = repeated.line;
                known.whole.replace(whole)
            })
        };
        drop(previous);
        Ok(())
    }
}

impl KnownEnviron {
    fn is_for(&self, repeated: Repeated, request: &Request<'_>) -> bool {
        self.section == repeated.section && self.template.is(request.template) && self.is_trusted == request.is_trusted
    }
}

fn place(repeated: Repeated) -> usize {
    repeated.section as usize % KNOWN_SECTIONS
}
