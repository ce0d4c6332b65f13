//! The admin listener: answers probes and scrapes on an OS thread of its own.
//!
//! The thread knows neither the loop nor Python, so it answers while both compute. One request is answered on each
//! connection. A client has [`CLIENT_TIME`] for its request and for taking the answer, and [`SCRAPE_TIME`] for taking
//! metrics; then it is disconnected. No client holds up another one: nothing waits for a single socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use rustix::time::{ClockId, clock_gettime};

use super::probe::{self, Topics};
use super::scoreboard::Scoreboard;
use crate::http::date::imf_fixdate;
use crate::http::error::RequestError;
use crate::http::head::{Head, Parsed};
use crate::http::limits::HeadLimits;
use crate::kernel::{Bell, be_prompt, timespec_until};
use crate::net::{Accepted, Listener};
use crate::output;
use crate::sync::lock;

/// The limits of a probe's head: those of a small request with a few fields of a proxy.
pub(super) const HEAD_LIMITS: HeadLimits =
    HeadLimits { request_line_bytes: 2048, field_count: 64, field_bytes: 4096, head_bytes: 8192 };

/// How long a client may take, from its connection to the last byte of the answer. Kubernetes waits 1 s by default.
const CLIENT_TIME: Duration = Duration::from_secs(2);

/// How long a client may take to receive metrics. Prometheus waits 10 s by default.
const SCRAPE_TIME: Duration = Duration::from_secs(10);

/// How long the rest of a client's bytes is discarded, so that the close does not destroy the answer (RFC 9112 9.6).
const LINGER: Duration = Duration::from_secs(1);

/// Clients at once. Another one takes the place of the oldest whose request has not arrived, or of the oldest.
const CLIENTS: usize = 64;

/// How long the thread goes on after its stop, for the clients whose connections it has accepted.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// The pause of accepting when no descriptor is left.
const PAUSE: Duration = Duration::from_millis(200);

/// The thread that answers probes on one listening socket.
pub struct AdminThread {
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
    process: u32,
}

impl AdminThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// Errors of eventfd(2) and clone(2), when a limit of the process is reached.
    pub fn start(listener: Listener, board: Arc<Scoreboard>, topics: Topics) -> io::Result<AdminThread> {
        let bell = Arc::new(Bell::new()?);
        // A forked child of the application must not keep the port in use.
        listener.keep_from_children();
        let mut desk = Desk {
            listener,
            board,
            topics,
            bell: Arc::clone(&bell),
            clients: Vec::new(),
            resume_at: None,
            ends_at: None,
        };
        let run = move || {
            be_prompt();
            desk.run();
        };
        let thread = std::thread::Builder::new().name("admin".into()).spawn(run)?;
        Ok(AdminThread { bell, thread: Mutex::new(Some(thread)), process: std::process::id() })
    }

    /// Stops the thread and closes its sockets. Clients whose connections were accepted still get their answers, within
    /// [`LAST_ANSWERS`]. In a forked child, which has no such thread, it does nothing.
    pub fn stop(&self) {
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread.filter(|_| self.process == std::process::id()) {
            self.bell.ring();
            let _ = thread.join();
        }
    }
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The work of the thread.
struct Desk {
    listener: Listener,
    board: Arc<Scoreboard>,
    topics: Topics,
    bell: Arc<Bell>,
    /// The oldest client comes first.
    clients: Vec<ProbeClient>,
    /// Accepting pauses until then.
    resume_at: Option<Instant>,
    /// After a stop nothing is accepted, and the thread ends at this time, or earlier with its last client.
    ends_at: Option<Instant>,
}

struct ProbeClient {
    socket: OwnedFd,
    deadline: Instant,
    stage: ProbeStage,
}

enum ProbeStage {
    Asks(Box<Head>, Vec<u8>),
    /// The answer, and how much of it is sent.
    Takes(Vec<u8>, usize),
    Lingers,
    Over,
}

impl Desk {
    fn run(&mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    output::say(&format!("the admin listener at {} fails: {error}", self.listener.place()));
                    return;
                }
            };
            let now = Instant::now();
            if ready.bell {
                self.bell.silence();
                self.ends_at = Some(now + LAST_ANSWERS);
            }
            for (client, _) in self.clients.iter_mut().zip(&ready.clients).filter(|(_, is_ready)| **is_ready) {
                client.go_on(&self.board, &self.topics);
            }
            for client in self.clients.iter_mut().filter(|client| client.deadline <= now) {
                client.expire(now);
            }
            self.clients.retain(|client| !matches!(client.stage, ProbeStage::Over));
            if ready.listener && !self.accept(now) {
                return;
            }
            if self.ends_at.is_some_and(|at| at <= now || self.clients.is_empty()) {
                return;
            }
        }
    }

    /// Waits for an event or the next deadline.
    fn wait(&mut self) -> rustix::io::Result<Ready> {
        self.resume_at = self.resume_at.filter(|&at| at > Instant::now());
        let mut polled = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        polled.extend(self.clients.iter().map(|client| PollFd::new(&client.socket, client.interest())));
        let is_accepting = self.resume_at.or(self.ends_at).is_none();
        if is_accepting {
            polled.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let deadline =
            self.clients.iter().map(|client| client.deadline).chain(self.resume_at).chain(self.ends_at).min();
        poll(&mut polled, deadline.map(timespec_until).as_ref())?;
        let mut ready = polled.iter().map(|one| !one.revents().is_empty());
        Ok(Ready {
            bell: ready.next().unwrap_or(false),
            clients: ready.by_ref().take(self.clients.len()).collect(),
            listener: ready.next().unwrap_or(false),
        })
    }

    /// Accepts what waits, and answers what has arrived already. Returns false if the socket does not listen any more.
    fn accept(&mut self, now: Instant) -> bool {
        for _ in 0..CLIENTS {
            match self.listener.accept() {
                Accepted::Connection(socket, _) => {
                    let stage = ProbeStage::Asks(Box::new(Head::new()), Vec::new());
                    let mut client = ProbeClient { socket, deadline: now + CLIENT_TIME, stage };
                    client.go_on(&self.board, &self.topics);
                    if matches!(client.stage, ProbeStage::Over) {
                        continue;
                    }
                    if self.clients.len() >= CLIENTS {
                        let asks = |client: &ProbeClient| matches!(client.stage, ProbeStage::Asks(..));
                        self.clients.remove(self.clients.iter().position(asks).unwrap_or(0));
                    }
                    self.clients.push(client);
                }
                // Another worker was first.
                Accepted::Nothing => break,
                Accepted::OutOfResources(_) => {
                    self.resume_at = Some(now + PAUSE);
                    break;
                }
                Accepted::Over(error) => {
                    output::say(&format!("the admin listener does not listen any more: {error}"));
                    return false;
                }
            }
        }
        true
    }
}

/// The outcome of a wait. `clients` is in the order of the clients.
struct Ready {
    bell: bool,
    listener: bool,
    clients: Vec<bool>,
}

impl ProbeClient {
    fn interest(&self) -> PollFlags {
        match self.stage {
            ProbeStage::Takes(..) => PollFlags::OUT,
            _ => PollFlags::IN,
        }
    }

    /// Goes on as far as the socket permits now.
    fn go_on(&mut self, board: &Scoreboard, topics: &Topics) {
        if let ProbeStage::Asks(head, bytes) = &mut self.stage {
            match read_some(&self.socket, bytes) {
                Ok(0) => return self.end(),
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => return self.end(),
            }
            let answer = match head.parse(bytes, &HEAD_LIMITS) {
                Ok(Parsed::Partial) => return,
                Ok(Parsed::Complete) => {
                    let response = probe::respond(head, bytes, board, topics, &date());
                    if response.is_scrape {
                        self.deadline = Instant::now() + SCRAPE_TIME;
                    }
                    response.bytes
                }
                Err(error) => probe::refuse(error, bytes, &date()),
            };
            self.stage = ProbeStage::Takes(answer, 0);
        }
        self.send();
        if matches!(self.stage, ProbeStage::Lingers) {
            self.discard();
        }
    }

    fn send(&mut self) {
        while let ProbeStage::Takes(answer, sent) = &mut self.stage {
            let rest = answer.get(*sent..).unwrap_or_default();
            if rest.is_empty() {
                let _ = shutdown(&self.socket, Shutdown::Write);
                self.deadline = Instant::now() + LINGER;
                self.stage = ProbeStage::Lingers;
                return;
            }
            match send(&self.socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => *sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => return self.end(),
            }
        }
    }

    fn discard(&mut self) {
        let mut bytes = [0; 4096];
        match rustix::io::read(&self.socket, &mut bytes) {
            Ok(0) => self.end(),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.end(),
        }
    }

    fn expire(&mut self, now: Instant) {
        match &self.stage {
            ProbeStage::Asks(_, bytes) if !bytes.is_empty() => {
                self.stage = ProbeStage::Takes(probe::refuse(RequestError::Timeout, bytes, &date()), 0);
                self.deadline = now + LINGER;
                self.send();
            }
            _ => self.end(),
        }
    }

    fn end(&mut self) {
        // A forked child may have a duplicate of the socket.
        let _ = shutdown(&self.socket, Shutdown::Both);
        self.stage = ProbeStage::Over;
    }
}

/// Appends what has arrived, up to the limit of a head.
fn read_some(socket: &OwnedFd, bytes: &mut Vec<u8>) -> rustix::io::Result<usize> {
    let mut piece = [0; HEAD_LIMITS.head_bytes];
    let room = HEAD_LIMITS.head_bytes.saturating_sub(bytes.len());
    let count = rustix::io::read(socket.as_fd(), piece.get_mut(..room).unwrap_or_default())?;
    bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
    Ok(count)
}

fn date() -> [u8; 29] {
    imf_fixdate(u64::try_from(clock_gettime(ClockId::RealtimeCoarse).tv_sec).unwrap_or(0))
}
