//! One question on its way to the workers that it concerns, until they have answered or its time is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::jobs::{InspectJob, InspectJobs};
use super::line::{Filled, LineSocket};
use super::own::OwnWorker;
use super::question::{Inquiry, answer, marked, refusal};
use crate::crew::message::Sibling;
use crate::crew::roster::SlotOwner;
use crate::net::LocalSocket;

/// How long a worker may take for an answer without its interpreter: its thread computes nothing else.
const THREAD_TIME: Duration = Duration::from_secs(1);

/// How long a worker waits for its interpreter. Python code gives it up every 5 ms (`sys.setswitchinterval`).
pub(super) const INTERPRETER_TIME: Duration = Duration::from_secs(2);

/// The longest answer of a sibling: the dump of some ten thousand coroutines.
const ANSWER_BYTES: usize = 64 << 20;

/// A question, and the answers so far.
pub(super) struct Gathering {
    question: Inquiry,
    own: Option<OwnPart>,
    calls: Vec<Call>,
    pub(super) deadline: Instant,
}

/// This worker's part of the answer.
enum OwnPart {
    Known(Value),
    Asked(Arc<InspectJob>),
}

/// The question to a sibling.
struct Call {
    owner: SlotOwner,
    line: Option<LineSocket>,
    outcome: Option<Value>,
}

impl Gathering {
    /// Asks this worker, and its siblings if the question `is_public`. `Err` is the answer where none is to be asked.
    pub(super) fn begin(
        question: Inquiry,
        is_public: bool,
        worker: &OwnWorker,
        jobs: &InspectJobs,
    ) -> Result<Gathering, Box<Value>> {
        let time = if question.needs_interpreter() { INTERPRETER_TIME } else { THREAD_TIME };
        // A sibling's own time is over first.
        let deadline = Instant::now() + if is_public { time + THREAD_TIME } else { time };
        let mut gathering = Gathering { question, own: None, calls: Vec::new(), deadline };
        if gathering.question == Inquiry::Reload {
            return Err(Box::new(worker.reload()));
        }
        match gathering.question.subject() {
            Some(id) if id.worker != worker.own() => {
                let owner = worker.owner(id.worker.slot).filter(|owner| is_public && owner.worker == id.worker);
                let Some(owner) = owner else { return Err(Box::new(gone(&gathering.question))) };
                gathering.calls.push(Call::begin(owner, &gathering.question, worker));
            }
            Some(id) if worker.request(id.work).is_none() => return Err(Box::new(gone(&gathering.question))),
            subject => {
                gathering.own = Some(own_part(&gathering.question, worker, jobs));
                if is_public && subject.is_none() {
                    let siblings = worker.siblings().into_iter();
                    gathering.calls = siblings.map(|owner| Call::begin(owner, &gathering.question, worker)).collect();
                }
            }
        }
        Ok(gathering)
    }

    /// The sockets of siblings that have not answered.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &LineSocket> {
        self.calls.iter().filter_map(|call| call.line.as_ref())
    }

    /// Reads and writes what the sockets permit, and takes the answer of this worker if it is there.
    pub(super) fn go_on(&mut self) {
        self.calls.iter_mut().for_each(Call::go_on);
        if let Some(OwnPart::Asked(job)) = &self.own
            && let Some(known) = job.answer()
        {
            self.own = Some(OwnPart::Known(known));
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        !matches!(self.own, Some(OwnPart::Asked(_))) && self.calls.iter().all(|call| call.line.is_none())
    }

    /// The answer, with what is missing if the time is over.
    pub(super) fn finish(mut self, is_public: bool, worker: &OwnWorker) -> Value {
        let own = self.own.take().map(|part| match part {
            OwnPart::Known(known) => known,
            OwnPart::Asked(job) => job.answer().unwrap_or_else(|| late(&self.question, !job.withdraw(), worker)),
        });
        if !is_public {
            return own.unwrap_or_else(|| gone(&self.question));
        }
        let mut parts: Vec<(Sibling, Value)> = own.into_iter().map(|known| (worker.own(), known)).collect();
        let late = || refusal("the worker did not answer in time; it may be stopped, or just ending");
        parts.extend(self.calls.into_iter().map(|call| (call.owner.worker, call.outcome.unwrap_or_else(late))));
        match self.question {
            Inquiry::Workers => workers(&parts, worker),
            Inquiry::Requests(_) => requests(parts),
            Inquiry::Stack(..) | Inquiry::Kill(_) => {
                parts.pop().map_or_else(|| gone(&self.question), |(_, value)| value)
            }
            Inquiry::Dump(_) | Inquiry::LogLevel(_) | Inquiry::Reload => of_each(parts, worker),
        }
    }
}

impl Call {
    fn begin(owner: SlotOwner, question: &Inquiry, worker: &OwnWorker) -> Call {
        let mut call = Call { owner, line: None, outcome: None };
        let mut why = "the worker has no inspect socket: it has just begun, or is of another version".to_owned();
        for address in worker.addresses(owner.worker) {
            match LocalSocket::connect(&address) {
                // An abstract name belongs to the process that took it first.
                Ok(socket) if socket.peer().is_ok_and(|peer| worker.trusts(peer)) => {
                    let mut line = LineSocket::new(socket);
                    line.queue(&question.text());
                    call.line = Some(line);
                    call.go_on();
                    return call;
                }
                Ok(_) => why = "another user's process is in the place of the worker's inspect socket".to_owned(),
                Err(error)
                    if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                }
                Err(error) => why = format!("the worker's inspect socket cannot be reached: {error}"),
            }
        }
        call.outcome = Some(refusal(why));
        call
    }

    fn go_on(&mut self) {
        let Some(line) = &mut self.line else { return };
        let mut is_over = line.flush().is_err();
        while !is_over {
            match line.fill() {
                Filled::Some => {}
                Filled::Nothing => break,
                Filled::End => is_over = true,
            }
            if let Some(text) = line.take_line() {
                self.outcome = serde_json::from_slice(&text).ok().filter(Value::is_object);
                is_over = true;
            }
            is_over |= line.begun_bytes() > ANSWER_BYTES;
        }
        if is_over {
            self.line = None;
            self.outcome.get_or_insert_with(|| refusal("the worker has ended"));
        }
    }
}

fn own_part(question: &Inquiry, worker: &OwnWorker, jobs: &InspectJobs) -> OwnPart {
    if question.needs_interpreter() {
        return match jobs.ask(question.clone()) {
            Ok(job) => OwnPart::Asked(job),
            Err(_) => OwnPart::Known(refusal("too many questions wait for the interpreter of the worker")),
        };
    }
    OwnPart::Known(match question {
        Inquiry::Requests(is_all) => answer(json!({"requests": worker.requests(*is_all)})),
        _ => answer(json!({"worker": worker.details()})),
    })
}

/// The answer where the interpreter was not free in time: what is known without it.
fn late(question: &Inquiry, is_begun: bool, worker: &OwnWorker) -> Value {
    let limit = INTERPRETER_TIME.as_secs();
    let why = if is_begun {
        format!("the worker has begun to answer and is not done after {limit} s")
    } else {
        format!("the interpreter of the worker was not free for {limit} s: C code holds the GIL. Nothing was done")
    };
    let mut members = Map::from_iter([("error".to_owned(), json!(why)), ("holds_gil".to_owned(), json!(!is_begun))]);
    if let Some(id) = question.subject() {
        members.insert("request".to_owned(), worker.request(id.work).unwrap_or(Value::Null));
    } else if matches!(question, Inquiry::Dump(_)) {
        members.insert("requests".to_owned(), json!(worker.requests(true)));
    }
    marked(Value::Object(members), false)
}

/// The answer for work that is over. No other work has its id.
pub fn gone(question: &Inquiry) -> Value {
    let id = question.subject().map(|id| id.to_string()).unwrap_or_default();
    let mut value = refusal(format!("{id} is over: it has ended, or its worker has; nothing was done"));
    if let Value::Object(members) = &mut value {
        members.insert("gone".to_owned(), json!(true));
    }
    value
}

fn is_ok(value: &Value) -> bool {
    value.get("ok") == Some(&Value::Bool(true))
}

fn error_of(value: &Value) -> Value {
    value.get("error").cloned().unwrap_or(Value::Null)
}

fn workers(parts: &[(Sibling, Value)], worker: &OwnWorker) -> Value {
    let mut states = worker.workers();
    for state in &mut states {
        let named = |member: &str| state.get(member).and_then(Value::as_u64);
        let (slot, generation) = (named("slot"), named("generation"));
        let part = parts
            .iter()
            .find(|(sibling, _)| Some(u64::from(sibling.slot)) == slot && Some(sibling.generation) == generation);
        let Value::Object(members) = state else { continue };
        match part {
            Some((_, value)) if is_ok(value) => {
                if let Some(Value::Object(details)) = value.get("worker") {
                    members.extend(details.clone());
                }
            }
            Some((_, value)) => drop(members.insert("unanswered".to_owned(), error_of(value))),
            None => drop(members.insert("unanswered".to_owned(), json!("the worker has just begun or ended"))),
        }
    }
    answer(json!({"service": worker.service(), "workers": states}))
}

/// All requests, the oldest first.
fn requests(parts: Vec<(Sibling, Value)>) -> Value {
    let (mut all, mut unanswered) = (Vec::new(), Vec::new());
    for (sibling, mut value) in parts {
        match value.get_mut("requests").map(Value::take) {
            Some(Value::Array(requests)) => all.extend(requests),
            _ => unanswered
                .push(json!({"slot": sibling.slot, "generation": sibling.generation, "error": error_of(&value)})),
        }
    }
    let age = |request: &Value| request.get("age").and_then(Value::as_f64).unwrap_or(0.0);
    all.sort_by(|one, other| age(other).total_cmp(&age(one)));
    answer(json!({"requests": all, "unanswered": unanswered}))
}

fn of_each(parts: Vec<(Sibling, Value)>, worker: &OwnWorker) -> Value {
    let are_ok = parts.iter().all(|(_, value)| is_ok(value));
    let mut listed: Vec<(Sibling, Value)> = parts
        .into_iter()
        .map(|(sibling, mut value)| {
            if let Value::Object(members) = &mut value {
                members.remove("rmeinheld");
                members.insert("slot".to_owned(), json!(sibling.slot));
                members.insert("generation".to_owned(), json!(sibling.generation));
                members.insert("pid".to_owned(), json!(worker.owner(sibling.slot).map(|owner| owner.process)));
            }
            (sibling, value)
        })
        .collect();
    listed.sort_by_key(|(sibling, _)| sibling.slot);
    let listed: Vec<Value> = listed.into_iter().map(|(_, value)| value).collect();
    let error = listed.iter().filter(|value| !is_ok(value)).map(error_of).next().unwrap_or(Value::Null);
    let members = if are_ok { json!({"workers": listed}) } else { json!({"workers": listed, "error": error}) };
    marked(members, are_ok)
}
