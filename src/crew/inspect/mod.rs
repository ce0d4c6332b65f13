//! The inspect socket: questions about all workers of a service, and orders to end one request.
//!
//! Each worker has a thread that knows neither the loop nor Python. It takes questions on two sockets: the one of the
//! service, which the master opened, and a private one in the directory of the crew. A question at the socket of the
//! service is for all workers, so the thread that takes it asks the private sockets of its siblings. A question at a
//! private socket is for that worker alone. No wait for an answer holds up another client.
//!
//! | module      | contents                                                              |
//! |-------------|-----------------------------------------------------------------------|
//! | `question`  | the questions, and the ids of requests, without input and output      |
//! | `line`      | lines on a socket                                                     |
//! | `own`       | what is known without the interpreter                                 |
//! | `jobs`      | questions that need the interpreter, on a thread that may wait for it |
//! | `gathering` | one question, and the answers of the workers                          |
//! | `desk`      | the thread, its clients and their limits                              |

mod desk;
mod gathering;
mod jobs;
mod line;
mod own;
mod question;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use self::desk::InspectDesk;
pub use self::gathering::gone;
pub use self::jobs::InspectHost;
use self::jobs::InspectJobs;
pub use self::own::OwnWorker;
pub use self::question::{Inquiry, WorkName, answer, refusal};
use crate::kernel::{Bell, be_prompt};
use crate::net::LocalListener;
use crate::sync::lock;

/// The threads of the inspect socket in this process.
pub struct InspectThreads {
    bell: Arc<Bell>,
    jobs: Arc<InspectJobs>,
    is_over: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

impl InspectThreads {
    /// Starts to answer on `public`, a listening socket, and for siblings.
    ///
    /// # Errors
    /// Errors of eventfd(2) and clone(2), when a limit of the process is reached.
    pub fn start(
        public: Option<LocalListener>,
        worker: OwnWorker,
        host: Box<dyn InspectHost>,
    ) -> io::Result<InspectThreads> {
        let bell = Arc::new(Bell::new()?);
        let jobs = Arc::new(InspectJobs::new(host, Arc::clone(&bell)));
        let is_over = Arc::new(AtomicBool::new(false));
        let addresses = worker.addresses(worker.own());
        worker.remove_predecessors();
        // Without a socket of its own the worker is known by the shared memory alone.
        let private = addresses.iter().find_map(|address| LocalListener::bind(address).ok());
        let mut desk = InspectDesk {
            worker: Arc::new(worker),
            jobs: Arc::clone(&jobs),
            bell: Arc::clone(&bell),
            public,
            private,
            visitors: Vec::new(),
            resume_at: None,
        };
        let is_over_too = Arc::clone(&is_over);
        let run = move || {
            be_prompt();
            desk.run(|| is_over_too.load(Ordering::Acquire));
        };
        let thread = std::thread::Builder::new().name("inspect".into()).spawn(run)?;
        Ok(InspectThreads { bell, jobs, is_over, thread: Mutex::new(Some(thread)), process: std::process::id() })
    }

    /// Stops the threads and closes their sockets. The caller does not hold the interpreter. In a forked child, which
    /// has no such threads, it does nothing.
    pub fn stop(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread.filter(|_| self.process == std::process::id()) {
            self.is_over.store(true, Ordering::Release);
            self.bell.ring();
            let _ = thread.join();
            self.jobs.stop();
        }
    }
}

impl Drop for InspectThreads {
    fn drop(&mut self) {
        self.stop();
    }
}
