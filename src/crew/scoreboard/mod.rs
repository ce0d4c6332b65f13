//! The scoreboard: memory that all workers of a service share, with a slot for each worker.
//!
//! A worker that computes answers no message. Therefore everything that others must know of it at any time stands in
//! shared memory: whether it is ready, when its loop last turned, what it has counted. Any process of the service reads
//! the slots without waking their owners. The memory is a memfd (memfd_create(2)), made before the first fork. USR2
//! hands it on to the next generation by its descriptor.
//!
//! | module         | contents                                                                   |
//! |----------------|----------------------------------------------------------------------------|
//! | `layout`       | the fields in memory, their offsets and the version                        |
//! | `mapping`      | [`Scoreboard`]: the memfd, its mapping, and the references into it         |
//! | `worker_state` | the states of a worker, and the reasons for its replacement or end         |
//! | `lifecycle`    | a slot from its reservation to its release, and what is noted of its owner |
//! | `readiness`    | which workers serve                                                        |
//! | `counters`     | the numbers of one worker, and the sums over all                           |
//! | `clock`        | the clock of all processes                                                 |
//!
//! # Faults
//!
//! All fields are atomics and no lock exists, so a process that dies by SIGKILL leaves nothing half done. The memfd is
//! sealed against a change of its size (fcntl(2), F_SEAL_SHRINK), so a read never meets a missing page. A process with the
//! descriptor can write any number into any field: no field is an index or a length, and an unknown state counts as
//! free.

mod clock;
mod counters;
mod layout;
mod lifecycle;
mod mapping;
mod readiness;
mod worker_state;

pub(super) use clock::nanoseconds;
pub use counters::Counters;
pub(super) use layout::WorkerSlot;
pub use layout::{DEFAULT_SLOTS, MAGIC, MOST_SLOTS, VERSION};
pub use mapping::Scoreboard;
pub use readiness::TURN_LIMIT;
pub use worker_state::{EXIT_REASONS, REASONS, WorkerState};

#[cfg(test)]
mod tests;
