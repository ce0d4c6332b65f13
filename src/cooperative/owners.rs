//! The owners of locks, for reports.

use pyo3::prelude::*;

use super::lock::Lock;
use super::native;
use super::rlock::RLock;
use crate::interp::inspection::LockOwner;

/// The owner of a lock that coroutines wait for. `None` if it has none, or none is known. Runs no Python code.
pub fn owner_of(object: &Bound<'_, PyAny>) -> Option<LockOwner> {
    if let Ok(lock) = object.cast::<Lock>() {
        return lock.get().holder().map(LockOwner::Ident);
    }
    if let Ok(lock) = object.cast::<RLock>() {
        return lock.get().owner().map(LockOwner::ThreadState);
    }
    native::holder(object.as_ptr().addr()).map(LockOwner::Ident)
}
