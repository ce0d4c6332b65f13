//! The reports on a blocked loop: by the class `rmeinheld.blockage.Reporter`, or without the interpreter.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::given_descriptor::given_descriptor;
use crate::event_loop::activity;
use crate::event_loop::records::{self, Record, Snapshot, WorkKind};
use crate::http::date::log_date;
use crate::http::redaction::redacted;
use crate::interp::inspection::StackReader;
use crate::interp::{self, StackSignals};
use crate::kernel::{SystemCall, running_threads};
use crate::output::{self, Output};
use crate::sync::lock;

/// The time in which a place is reported once.
const PLACE_TIME: Duration = Duration::from_secs(60);

/// The most reports in [`PLACE_TIME`].
const MOST_REPORTS: usize = 10;

/// The most threads that are asked for their stacks.
const MOST_THREADS: usize = 3;

/// The number of places that are remembered.
const MOST_PLACES: usize = 256;

/// The most bytes of a report without the interpreter.
const MOST_BYTES: usize = 64 * 1024;

/// The kind of a blockage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockageKind {
    /// Python code runs.
    Python,
    /// C code holds the interpreter.
    Holds,
    /// A call waits without parking.
    Waits,
    /// C code computes, and has released the interpreter.
    Computes,
    /// Another thread holds the interpreter.
    Thread,
}

impl BlockageKind {
    fn name(self) -> &'static str {
        match self {
            BlockageKind::Python => "python",
            BlockageKind::Holds => "holds",
            BlockageKind::Waits => "waits",
            BlockageKind::Computes => "computes",
            BlockageKind::Thread => "thread",
        }
    }
}

/// A way to see the stack of the loop's thread while C code holds the interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The thread runs, and can write its stack itself.
    Running,
    /// The thread waits in a system call that a signal would cut short.
    Waiting,
    /// Another thread holds the interpreter, and runs.
    Others,
    /// The stack is not read.
    None,
}

/// The first report about a blockage, once there is one.
#[derive(Default)]
pub struct Reported(Mutex<Option<FirstReport>>);

#[derive(Clone)]
struct FirstReport {
    /// The culprit.
    subject: String,
    /// The id of the culprit, if it is a request that has one, and the interpreter came.
    request_id: Option<String>,
    kind: BlockageKind,
    has_stack: bool,
}

impl Reported {
    /// Whether the blockage was reported.
    pub fn is_reported(&self) -> bool {
        lock(&self.0).is_some()
    }

    fn report(&self) -> Option<FirstReport> {
        lock(&self.0).clone()
    }

    fn set(&self, report: FirstReport) {
        *lock(&self.0) = Some(report);
    }
}

/// Writes reports, to the error log.
pub struct Reporter {
    /// An instance of `rmeinheld.blockage.Reporter`.
    object: Py<PyAny>,
    /// The words and the cure for each kind, by its name.
    texts: Vec<(String, String, String)>,
    /// Parts of file names that stand for a culprit, each with its cure.
    marks: Vec<(String, String)>,
    /// The signals that write stacks; `None` if they could not be had.
    signals: Mutex<Option<StackSignals>>,
    log: Mutex<Option<Output>>,
    utc_offset: i32,
    limiter: Mutex<Limiter>,
}

impl Reporter {
    /// Makes the reporter of a server that begins to run.
    ///
    /// # Errors
    /// The exceptions of an import.
    pub fn new(py: Python<'_>) -> PyResult<Reporter> {
        let object = py.import("rmeinheld.blockage")?.getattr("Reporter")?.call0()?;
        let reporter = Reporter {
            texts: object.getattr("kinds")?.extract()?,
            marks: object.getattr("marks")?.extract()?,
            utc_offset: object.call_method0("utc_offset")?.extract()?,
            signals: Mutex::new(StackSignals::install(py).ok()),
            log: Mutex::default(),
            limiter: Mutex::default(),
            object: object.unbind(),
        };
        reporter.reopen(py);
        Ok(reporter)
    }

    /// Whether the program is unpatched.
    pub fn is_unpatched(&self, py: Python<'_>) -> bool {
        self.object.bind(py).getattr("is_unpatched").and_then(|is_unpatched| is_unpatched.extract()).unwrap_or(false)
    }

    /// Looks again for the descriptor of the error log, whose file may have been renamed.
    pub fn reopen(&self, py: Python<'_>) {
        let number: RawFd =
            self.object.bind(py).call_method0("descriptor").and_then(|number| number.extract()).unwrap_or(2);
        let duplicate = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned();
        let log = given_descriptor(number, "the error log", duplicate).ok();
        *lock(&self.log) = log.map(|descriptor| Output::new(descriptor, false));
    }

    /// Removes the handlers of signals.
    pub fn remove_signals(&self, py: Python<'_>) {
        let signals = lock(&self.signals).take();
        if let Some(signals) = signals {
            signals.remove(py);
        }
    }

    /// Points out a wait of an unpatched program. Returns whether it did.
    pub fn hint(&self, py: Python<'_>, age: Duration) -> bool {
        let frame = Culprit::find(py).frame;
        self.call(py, "hint", (frame, age.as_secs_f64())).and_then(|said| said.extract(py).ok()).unwrap_or(false)
    }

    /// Reports a blockage, unless its place was reported just before.
    pub fn blocked(
        &self,
        py: Python<'_>,
        reported: &Reported,
        age: Duration,
        kind: BlockageKind,
        call: Option<SystemCall>,
    ) {
        let culprit = Culprit::find(py);
        let place = culprit.place();
        let Some(unsaid) = lock(&self.limiter).admit(place, Instant::now()) else { return };
        let Culprit { name, age: old, frame, request_id } = culprit;
        let report = FirstReport { subject: name.clone(), request_id: request_id.clone(), kind, has_stack: true };
        reported.set(report);
        let details = call.filter(|_| kind == BlockageKind::Waits).map(SystemCall::describe).unwrap_or_default();
        let arguments = (name + &old, age.as_secs_f64(), kind.name(), details, frame, unsaid, request_id);
        self.call(py, "blocked", arguments);
    }

    /// Says that C code has released the interpreter, after a report without it.
    pub fn let_go(&self, py: Python<'_>, reported: &Reported, age: Duration) {
        let Some(report) = reported.report().filter(|report| report.kind == BlockageKind::Holds) else { return };
        let Culprit { name, frame, request_id, .. } = Culprit::find(py);
        let subject = if report.subject == UNKNOWN { name } else { report.subject };
        let has_stack = report.has_stack;
        reported.set(FirstReport { subject: subject.clone(), request_id: request_id.clone(), ..report });
        self.call(py, "let_go", (subject, age.as_secs_f64(), frame, has_stack, request_id));
    }

    /// Says that the loop turns again.
    pub fn ended(&self, py: Python<'_>, reported: &Reported, age: Duration) {
        if let Some(FirstReport { subject, request_id, .. }) = reported.report() {
            self.call(py, "ended", (subject, age.as_secs_f64(), request_id));
        }
    }

    /// Writes the stacks of all coroutines.
    pub fn stuck(&self, py: Python<'_>, reported: &Reported, age: Duration) {
        if let Some(FirstReport { subject, request_id, .. }) = reported.report() {
            self.call(py, "stuck", (subject, age.as_secs_f64(), request_id));
        }
    }

    /// Reports a blockage without the interpreter.
    pub fn blocked_alone(
        &self,
        reported: &Reported,
        age: Duration,
        kind: BlockageKind,
        call: Option<SystemCall>,
        look: Look,
    ) {
        let record = records::running().map(|(record, _)| record);
        let (whose, stack) = self.stack_alone(record.as_deref(), look);
        let place = stack.first().cloned().unwrap_or_default();
        let Some(unsaid) = lock(&self.limiter).admit(place, Instant::now()) else { return };
        let (name, old) =
            record.map_or_else(|| (UNKNOWN.to_owned(), String::new()), |record| name_of(&record.snapshot(), None));
        let seconds = age.as_secs_f64();
        let (words, mut cure) = self.texts_of(kind);
        let (subject, old) = if kind == BlockageKind::Thread { (whose.clone(), String::new()) } else { (name, old) };
        // The id is read with the interpreter only.
        reported.set(FirstReport { subject: subject.clone(), request_id: None, kind, has_stack: !stack.is_empty() });
        let mut text =
            format!("{subject}{old} has blocked the loop for {seconds:.1} s, and all requests with it: {words}");
        if let Some(call) = call.filter(|_| kind == BlockageKind::Holds) {
            let _ = write!(text, ", in {}", call.describe());
        }
        for (part, known) in &self.marks {
            if stack.first().is_some_and(|line| line.contains(part)) {
                cure = known;
            }
        }
        let _ = write!(text, ". Cure: {cure}");
        if unsaid > 0 {
            let _ = write!(text, ". {unsaid} more blockages at this place since its last report");
        }
        if !stack.is_empty() {
            let _ = write!(text, "\nStack of {whose} (most recent call last):");
            stack.iter().rev().for_each(|line| _ = write!(text, "\n{line}"));
        }
        self.write(&text);
    }

    /// Writes the stacks of all threads without the interpreter.
    pub fn stuck_alone(&self, reported: &Reported, age: Duration) {
        let Some(FirstReport { subject, .. }) = reported.report() else { return };
        let stacks = lock(&self.signals).as_ref().map(StackSignals::stacks).unwrap_or_default();
        self.write(&format!(
            "{subject} still blocks the loop after {:.1} s, and the interpreter cannot be had. Stacks of threads and \
             coroutines, of at most 100, the innermost call first:\n{}",
            age.as_secs_f64(),
            stacks.trim_end()
        ));
    }

    /// The stack of the culprit, the innermost call first, while C code holds the interpreter, and whose stack it is.
    fn stack_alone(&self, record: Option<&Record>, look: Look) -> (String, Vec<String>) {
        let signals = lock(&self.signals);
        let coroutine = if look == Look::Others { "another OS thread" } else { "the coroutine" }.to_owned();
        let (Some(signals), Some(thread)) = (&*signals, activity::loop_thread()) else {
            return (coroutine, Vec::new());
        };
        match look {
            Look::Running => (coroutine, calls_of(&signals.stack_of(thread))),
            Look::Waiting => {
                (coroutine, record.map(|it| calls_of(&signals.stack_of_state(it.thread_state()))).unwrap_or_default())
            }
            Look::Others => {
                let others = running_threads().into_iter().filter(|(number, _)| *number != thread).take(MOST_THREADS);
                let found = others.map(|(number, name)| {
                    (format!("OS thread {number} ({name})"), calls_of(&signals.stack_of(number)))
                });
                found.into_iter().find(|(_, calls)| !calls.is_empty()).unwrap_or((coroutine, Vec::new()))
            }
            Look::None => (coroutine, Vec::new()),
        }
    }

    fn texts_of(&self, kind: BlockageKind) -> (&str, &str) {
        let found = self.texts.iter().find(|(name, _, _)| name == kind.name());
        found.map_or(("", ""), |(_, words, cure)| (words, cure))
    }

    /// Calls a method of the object in Python. Its failure is a line on standard error.
    fn call<'py, A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>>>(
        &self,
        py: Python<'py>,
        method: &str,
        arguments: A,
    ) -> Option<Py<PyAny>> {
        let call = || -> PyResult<Py<PyAny>> {
            let arguments = arguments.into_pyobject(py).map_err(Into::into)?;
            let method = self.object.bind(py).getattr(method)?;
            interp::call_on_thread(&method, &arguments)?.into_py_any(py)
        };
        call().inspect_err(|error| output::say(&format!("a report on the blocked loop fails: {error}"))).ok()
    }

    /// Writes a record to the file of the error log, or to standard error.
    fn write(&self, text: &str) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut record =
            format!("[{}] [{}] [{}] {text}", log_date(seconds, self.utc_offset), std::process::id(), "WARNING");
        record.truncate(record.floor_char_boundary(MOST_BYTES));
        record.push('\n');
        let mut rest = record.as_bytes();
        let log = lock(&self.log);
        while !rest.is_empty() {
            match log.as_ref().map(|log| log.write(rest)) {
                Some(Ok(count)) => rest = rest.get(count..).unwrap_or_default(),
                _ => return output::say(&String::from_utf8_lossy(rest)),
            }
        }
    }
}

/// The name of a culprit that is not known.
const UNKNOWN: &str = "the server";

/// The coroutine that blocks the loop.
struct Culprit<'py> {
    name: String,
    /// The age and the id in words; empty if the work is not known.
    age: String,
    frame: Option<Bound<'py, PyAny>>,
    request_id: Option<String>,
}

impl<'py> Culprit<'py> {
    /// Finds the unit that runs, with its frame.
    fn find(py: Python<'py>) -> Culprit<'py> {
        match records::running() {
            Some((record, _)) => {
                let request_id = interp::request_id(py, &record);
                let (name, age) = name_of(&record.snapshot(), request_id.as_deref());
                Culprit { name, age, frame: StackReader::new(py).innermost(&record), request_id }
            }
            None => Culprit { name: UNKNOWN.to_owned(), age: String::new(), frame: None, request_id: None },
        }
    }

    /// The place of the innermost call.
    fn place(&self) -> String {
        let read = |frame: &Bound<'py, PyAny>| -> PyResult<String> {
            let line: u32 = frame.getattr("f_lineno")?.extract().unwrap_or(0);
            Ok(format!("{}:{line}", frame.getattr("f_code")?.getattr("co_filename")?))
        };
        self.frame.as_ref().and_then(|frame| read(frame).ok()).unwrap_or_default()
    }
}

/// The lines of faulthandler that name calls.
fn calls_of(text: &str) -> Vec<String> {
    let calls = text.lines().filter(|line| line.trim_start().starts_with("File "));
    calls.map(|line| line.trim_end().to_owned()).collect()
}

/// The name of a unit's work, "request GET /path", and its age and id in words.
fn name_of(unit: &Snapshot, id: Option<&str>) -> (String, String) {
    if unit.work == 0 || !matches!(unit.kind, WorkKind::Request | WorkKind::Spawned) {
        return (UNKNOWN.to_owned(), String::new());
    }
    let age = Duration::from_nanos(records::now().saturating_sub(unit.begun));
    let id = id.map_or(String::new(), |id| format!(", id {id}"));
    (format!("{} {}", unit.kind.name(), redacted(&unit.label)), format!(" ({:.1} s old{id})", age.as_secs_f64()))
}

/// The rate limit of reports: a place once in [`PLACE_TIME`], and [`MOST_REPORTS`] in all.
#[derive(Default)]
struct Limiter {
    places: HashMap<String, (Instant, u32)>,
    reports: Vec<Instant>,
}

impl Limiter {
    /// Whether a blockage at `place` is reported: the number of blockages there that were not reported since the last
    /// one. `None` if it is not.
    fn admit(&mut self, place: String, now: Instant) -> Option<u32> {
        self.reports.retain(|&at| now.saturating_duration_since(at) < PLACE_TIME);
        if self.places.len() >= MOST_PLACES {
            self.places.retain(|_, (at, _)| now.saturating_duration_since(*at) < PLACE_TIME);
        }
        let is_known = self.places.contains_key(&place);
        if !is_known && (self.places.len() >= MOST_PLACES || self.reports.len() >= MOST_REPORTS) {
            return None;
        }
        let (at, unsaid) = self.places.entry(place).or_insert((now, 0));
        if is_known && (now.saturating_duration_since(*at) < PLACE_TIME || self.reports.len() >= MOST_REPORTS) {
            *unsaid = unsaid.saturating_add(1);
            return None;
        }
        *at = now;
        self.reports.push(now);
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_reported_once_a_minute_with_the_number_of_unsaid_blockages() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut admit = |place: &str, seconds| limiter.admit(place.to_owned(), at(seconds));
        assert_eq!(admit("a", 0), Some(0));
        assert_eq!((admit("a", 1), admit("a", 59)), (None, None));
        assert_eq!(admit("b", 59), Some(0));
        assert_eq!(admit("a", 60), Some(2));
        assert_eq!(admit("a", 121), Some(0));
    }

    #[test]
    fn there_are_ten_reports_a_minute_and_few_places_are_remembered() {
        let mut limiter = Limiter::default();
        let start = Instant::now();
        let admitted = (0..1000).filter(|number| limiter.admit(number.to_string(), start).is_some()).count();
        assert_eq!(admitted, MOST_REPORTS);
        for minute in 1..1000 {
            let now = start + PLACE_TIME * minute;
            assert_eq!(limiter.admit(format!("place {minute}"), now), Some(0));
        }
        assert!(limiter.places.len() <= MOST_PLACES);
    }
}
