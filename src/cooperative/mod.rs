//! Blocking operations of Python, made to park: locks, queues, the calls of sockets and files.
//!
//! Each works between coroutines and OS threads in both directions: a coroutine that waits parks, an OS thread blocks
//! ([`crate::interp::wait`]). The mutexes in here are held for moments: no Python code runs under them, no Python
//! object is dropped under them, and none is held across a wait.

mod builtin;
mod classes;
mod condition;
mod descriptor;
mod event;
mod file_methods;
mod hand_over;
mod jobs;
mod lock;
pub mod native;
mod owners;
mod permits;
mod queue;
mod rlock;
mod semaphore;
pub mod socket;
mod socket_fields;
mod timeouts;

pub use builtin::{as_builtin, as_method};
pub use classes::set_attribute;
pub use condition::Condition;
pub use descriptor::{is_fifo, may_wait};
pub use event::Event;
pub use file_methods::{detour, in_turn};
pub use jobs::{Jobs, OffloadFigures};
pub use lock::Lock;
pub use owners::owner_of;
pub use queue::{LifoQueue, Queue, ShutDown, SimpleQueue};
pub use rlock::RLock;
pub use semaphore::{BoundedSemaphore, Semaphore};

#[cfg(test)]
mod tests;
