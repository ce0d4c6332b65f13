//! The thread of the inspect socket: takes questions, has them answered, and never waits for the interpreter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde_json::Value;

use super::gathering::Gathering;
use super::jobs::InspectJobs;
use super::line::{Filled, LineSocket};
use super::own::OwnWorker;
use super::question::{Inquiry, refusal};
use crate::kernel::{Bell, timespec_until};
use crate::net::{LocalListener, LocalSocket};
use crate::output;

/// The longest question. The longest one of ours has under 100 bytes.
const QUESTION_BYTES: usize = 4096;

/// How long a client may take from the first byte of a question to its end, and between two pieces of an answer.
const LINE_TIME: Duration = Duration::from_secs(5);

/// How long a client may stay without a question.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// Clients at once, of each of the two sockets. Another one takes the place of the one that has been idle longest.
const VISITORS: usize = 32;

/// How long a client has kept its place before another one takes it. Others wait in the kernel's queue meanwhile.
/// Otherwise a flood of connections would disconnect a client before it has asked.
const PLACE_TIME: Duration = Duration::from_secs(1);

/// Questions that one client has answered before others have their turn.
const QUESTIONS_IN_A_ROW: usize = 8;

/// The pause of accepting when no descriptor is left.
const PAUSE: Duration = Duration::from_millis(200);

/// The work of the thread.
pub(super) struct InspectDesk {
    pub(super) worker: Arc<OwnWorker>,
    pub(super) jobs: Arc<InspectJobs>,
    pub(super) bell: Arc<Bell>,
    /// The socket of the service, which all its workers listen on.
    pub(super) public: Option<LocalListener>,
    /// The socket for this worker's siblings.
    pub(super) private: Option<LocalListener>,
    pub(super) visitors: Vec<Visitor>,
    /// Accepting pauses until then.
    pub(super) resume_at: Option<Instant>,
}

/// A client.
pub(super) struct Visitor {
    line: LineSocket,
    /// Is its question for all workers?
    is_public: bool,
    deadline: Instant,
    stage: VisitStage,
}

enum VisitStage {
    Asks,
    Waits(Box<Gathering>),
    Takes,
    /// The connection ends when the answer is sent.
    TakesLast,
    Over,
}

impl InspectDesk {
    /// Answers until `is_over` returns true after a ring of the bell.
    pub(super) fn run(&mut self, is_over: impl Fn() -> bool) {
        loop {
            if let Err(error) = self.wait()
                && error != Errno::INTR
            {
                output::say(&format!("the inspect socket fails: {error}"));
                return;
            }
            self.bell.silence();
            if is_over() {
                return;
            }
            let now = Instant::now();
            self.accept(now);
            for visitor in &mut self.visitors {
                visitor.go_on(&self.worker, &self.jobs);
                if visitor.deadline() <= Instant::now() {
                    visitor.expire(&self.worker);
                }
            }
            self.visitors.retain(|visitor| !matches!(visitor.stage, VisitStage::Over));
        }
    }

    /// Waits for an event or the next deadline.
    fn wait(&mut self) -> rustix::io::Result<usize> {
        self.resume_at = self.resume_at.filter(|&at| at > Instant::now());
        let mut polled = vec![PollFd::new(&*self.bell, PollFlags::IN)];
        let now = Instant::now();
        let mut deadline = self.visitors.iter().map(Visitor::deadline).chain(self.resume_at).min();
        if self.resume_at.is_none() {
            for (listener, is_public) in [(&self.public, true), (&self.private, false)] {
                let Some(listener) = listener else { continue };
                match self.accepts_at(is_public).filter(|&at| at > now) {
                    Some(at) => deadline = Some(deadline.map_or(at, |deadline| deadline.min(at))),
                    None => polled.push(PollFd::new(listener, PollFlags::IN)),
                }
            }
        }
        for visitor in &self.visitors {
            match &visitor.stage {
                // A client that has gone is noticed when it is answered.
                VisitStage::Waits(gathering) => {
                    polled.extend(gathering.sockets().map(|line| PollFd::new(line, line.interest())));
                }
                _ => polled.push(PollFd::new(&visitor.line, visitor.line.interest())),
            }
        }
        let has_more = self.visitors.iter().any(|visitor| visitor.is_ready());
        let deadline = if has_more { Some(now) } else { deadline };
        poll(&mut polled, deadline.map(timespec_until).as_ref())
    }

    /// When another client can be accepted, if there is no place now.
    fn accepts_at(&self, is_public: bool) -> Option<Instant> {
        let others = || self.visitors.iter().filter(|other| other.is_public == is_public);
        if others().count() < VISITORS {
            return None;
        }
        // Without an idle client, another one is accepted and refused.
        others().filter_map(Visitor::idle_since).min().map(|since| since + PLACE_TIME)
    }

    fn accept(&mut self, now: Instant) {
        if self.resume_at.is_some() {
            return;
        }
        for is_public in [true, false] {
            let Some(listener) = (if is_public { &self.public } else { &self.private }) else { continue };
            for _ in 0..VISITORS {
                if self.accepts_at(is_public).is_some_and(|at| at > now) {
                    break;
                }
                match listener.accept() {
                    Ok(Some(socket)) => welcome(&mut self.visitors, socket, is_public, now, &self.worker),
                    // Another worker was first.
                    Ok(None) => break,
                    Err(_) => {
                        self.resume_at = Some(now + PAUSE);
                        return;
                    }
                }
            }
        }
    }
}

/// Takes a new client in, or refuses it.
fn welcome(visitors: &mut Vec<Visitor>, socket: LocalSocket, is_public: bool, now: Instant, worker: &OwnWorker) {
    let peer = socket.peer();
    let mut visitor =
        Visitor { line: LineSocket::new(socket), is_public, deadline: now + IDLE_TIME, stage: VisitStage::Asks };
    match peer {
        Ok(peer) if worker.trusts(peer) => {}
        Ok(peer) => {
            let why = format!("user {} may not inspect this service: only its own user and root may", peer.user);
            return visitor.refuse(&why);
        }
        Err(_) => return,
    }
    if visitors.iter().filter(|other| other.is_public == is_public).count() >= VISITORS {
        let others = visitors.iter().enumerate().filter(|(_, other)| other.is_public == is_public);
        let idle = others.filter_map(|(place, other)| Some((other.idle_since()?, place)));
        match idle.min().map(|(_, place)| place) {
            Some(place) => drop(visitors.remove(place)),
            None => return visitor.refuse(&format!("{VISITORS} clients have questions already; try again")),
        }
    }
    visitors.push(visitor);
}

impl Visitor {
    fn deadline(&self) -> Instant {
        match &self.stage {
            VisitStage::Waits(gathering) => gathering.deadline,
            _ => self.deadline,
        }
    }

    /// Since when it has had no whole question. `None`: it has one.
    fn idle_since(&self) -> Option<Instant> {
        let allowed = if self.line.begun_bytes() > 0 { LINE_TIME } else { IDLE_TIME };
        matches!(self.stage, VisitStage::Asks).then(|| self.deadline - allowed)
    }

    /// Whether the next step needs no event.
    fn is_ready(&self) -> bool {
        match &self.stage {
            VisitStage::Asks => self.line.has_line(),
            VisitStage::Waits(gathering) => gathering.is_complete(),
            _ => false,
        }
    }

    /// Goes on as far as the socket and the workers permit now.
    fn go_on(&mut self, worker: &OwnWorker, jobs: &InspectJobs) {
        for _ in 0..QUESTIONS_IN_A_ROW {
            match &mut self.stage {
                VisitStage::Asks => {
                    if !self.hear(worker, jobs) {
                        return;
                    }
                }
                VisitStage::Waits(gathering) => {
                    gathering.go_on();
                    if !gathering.is_complete() {
                        return;
                    }
                    self.conclude(worker);
                }
                VisitStage::Takes | VisitStage::TakesLast => {
                    if !self.send() {
                        return;
                    }
                }
                VisitStage::Over => return,
            }
        }
    }

    /// Reads a question and begins to answer it. Returns false if none is there.
    fn hear(&mut self, worker: &OwnWorker, jobs: &InspectJobs) -> bool {
        let had = self.line.begun_bytes();
        let mut filled = Filled::Some;
        let line = loop {
            if let Some(line) = self.line.take_line() {
                break line;
            }
            if self.line.begun_bytes() > QUESTION_BYTES {
                self.answer_last(&refusal(format!("a question has at most {QUESTION_BYTES} bytes")));
                return true;
            }
            match filled {
                Filled::Some => filled = self.line.fill(),
                Filled::Nothing => {
                    if had == 0 && self.line.begun_bytes() > 0 {
                        self.deadline = Instant::now() + LINE_TIME;
                    }
                    return false;
                }
                Filled::End => {
                    self.stage = VisitStage::Over;
                    return false;
                }
            }
        };
        if line.len() > QUESTION_BYTES {
            self.answer_last(&refusal(format!("a question has at most {QUESTION_BYTES} bytes")));
            return true;
        }
        let begun = Inquiry::parse(&line)
            .map_err(|why| Box::new(refusal(why)))
            .and_then(|question| Gathering::begin(question, self.is_public, worker, jobs));
        match begun {
            Ok(gathering) => self.stage = VisitStage::Waits(Box::new(gathering)),
            Err(value) => self.answer(&value),
        }
        true
    }

    fn conclude(&mut self, worker: &OwnWorker) {
        if let VisitStage::Waits(gathering) = std::mem::replace(&mut self.stage, VisitStage::Over) {
            let value = gathering.finish(self.is_public, worker);
            self.answer(&value);
        }
    }

    fn answer(&mut self, value: &Value) {
        self.line.queue_answer(value);
        self.deadline = Instant::now() + LINE_TIME;
        self.stage = VisitStage::Takes;
    }

    fn answer_last(&mut self, value: &Value) {
        self.answer(value);
        self.stage = VisitStage::TakesLast;
    }

    /// Sends a client away.
    fn refuse(&mut self, why: &str) {
        self.answer_last(&refusal(why));
        self.send();
    }

    /// Sends the answer. Returns whether all of it is sent.
    fn send(&mut self) -> bool {
        match self.line.flush() {
            Err(_) => self.stage = VisitStage::Over,
            Ok(is_moving) => {
                let now = Instant::now();
                if self.line.has_unsent() {
                    if is_moving {
                        self.deadline = now + LINE_TIME;
                    }
                    return false;
                }
                let is_last = matches!(self.stage, VisitStage::TakesLast);
                self.stage = if is_last { VisitStage::Over } else { VisitStage::Asks };
                let has_begun = self.line.begun_bytes() > 0;
                self.deadline = now + if has_begun { LINE_TIME } else { IDLE_TIME };
            }
        }
        true
    }

    /// Acts on a deadline that has passed.
    fn expire(&mut self, worker: &OwnWorker) {
        match &self.stage {
            VisitStage::Waits(_) => {
                self.conclude(worker);
                self.send();
            }
            VisitStage::Asks if self.line.begun_bytes() > 0 => {
                let seconds = LINE_TIME.as_secs();
                self.refuse(&format!("the rest of the question has not come within {seconds} s"));
                self.stage = VisitStage::Over;
            }
            _ => self.stage = VisitStage::Over,
        }
    }
}
