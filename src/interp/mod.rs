//! The interpreter boundary: thread states, the process's loop, coroutines as Python sees them, exceptions.
//!
//! Every unit of the event loop owns a `PyThreadState`; all of these live on the loop thread. A unit is attached while
//! it runs and detached while it waits, so CPython sees threads that release the GIL in blocking calls. Thread states
//! are attached in `thread_state` only; all other code gets its `Python` token from its caller.

mod application_waits;
mod asynchronous;
mod context;
mod deferred;
mod ending_work;
mod endings;
mod errors;
mod exceptions;
mod exit;
mod few_frames;
mod followed;
mod frame_memory;
mod give_way;
pub mod identity;
pub mod inspection;
mod interruptions;
mod lent;
mod log;
mod log_lines;
mod new_bytes;
mod on_thread;
mod process_loop;
mod raising;
mod recursion;
mod references;
mod request_timeout;
mod spawned;
mod stack_signals;
mod subject;
mod swallowed;
mod thread_state;
mod time_limit;
mod timeout;
mod waiter;
mod waiters;

pub use application_waits::{
    deadline_after, events_now, monotonic, park_or_detach, sleep, sleep_until, wait_any, wait_descriptor,
};
pub use context::in_fresh_context;
pub use deferred::{defer_spawned, start_spawned};
pub use ending_work::{EndReason, end_overdue, end_work};
pub use endings::{any as any_endings, reason_of as end_reason_of};
pub use errors::{failure_error, io_error, os_error, wake_error};
pub use exceptions::{CoroutineExit, Timeout};
pub use exit::{arm_exit, arm_exit_and_watch, disarm_exit};
pub use few_frames::FewFrames;
pub use followed::{follow, followed, forget_followed, is_followed, set_followed};
pub use give_way::{give_way, give_way_quietly};
pub use lent::Lent;
pub use log::{Level, log};
pub use new_bytes::NewBytes;
pub use on_thread::call_on_thread;
pub use process_loop::{
    descriptor_closes, end_awaited, ensure_started, forget_in_child, hurry, is_forked, leave_if_forked, prepare_with,
    stop, stop_at_exit,
};
pub use references::reference_count;
pub use request_timeout::{ClientDisconnected, RequestTimeout};
pub use spawned::{Coroutine, current, spawn, take_back, throw_at};
pub use stack_signals::{StackSignals, wait_for_readers};
pub use subject::{Subject, request_id, running as running_subject};
pub use swallowed::work_has_ended;
pub use timeout::TimeoutContext;
pub use waiter::{EventWaiter, Line, WaitReason, Waiter, insist, take, wait, wait_for_event};
pub use waiters::Waiters;

#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
