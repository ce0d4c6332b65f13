//! Locks that stay usable after a panic.
//!
//! A panic while a lock is held marks its mutex as poisoned. The data behind every lock of this crate is consistent at
//! each statement. The panic itself is reported as a Python exception, or ends the process. The next holder of the lock
//! can therefore use the data.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks `mutex`, poisoned or not.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    recover(mutex.lock())
}

/// Unwraps the result of another way to lock or to wait, poisoned or not.
pub fn recover<G>(locked: LockResult<G>) -> G {
    locked.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_does_not_keep_others_from_the_data() {
        let mutex = Mutex::new(1);
        let panicked = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    *lock(&mutex) = 2;
                    let _held = lock(&mutex);
                    panic!("while the lock is held");
                })
                .join()
        });
        assert!(panicked.is_err() && mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 2);
    }
}
