//! The place where an object waits for one receiver.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync::lock;
use pyo3::prelude::*;

/// A place for one object, shared by the giver and the receiver.
#[derive(Clone, Default)]
pub struct HandOver {
    object: Arc<Mutex<Option<Py<PyAny>>>>,
}

impl HandOver {
    /// A place with `object` in it.
    pub fn holding(object: Py<PyAny>) -> HandOver {
        HandOver { object: Arc::new(Mutex::new(Some(object))) }
    }

    /// Puts `object` in.
    pub fn put(&self, object: Py<PyAny>) {
        let previous = self.object().replace(object);
        drop(previous);
    }

    /// Takes the object out.
    pub fn take(&self) -> Option<Py<PyAny>> {
        self.object().take()
    }

    fn object(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        lock(&self.object)
    }
}
