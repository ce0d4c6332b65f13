//! The lines of the log about work that is ended by force.
//!
//! The loop writes the lines between the answers to others. Therefore they wait until the requests that are ready have
//! had their turn ([`log_later`]). The records of the lines are copies of one record. `logging` takes as long to make a
//! record as a request takes, mostly for facts that do not change.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMapping};

use super::exceptions::CoroutineExit;
use super::log::{LOGGER_NAME, Level, logger, logging};
use crate::event_loop::{self, ends};
use crate::sync::lock;

/// How long lines are written in one turn, unless a handler takes longer for one: about as long as a request takes.
const TURN: Duration = Duration::from_micros(50);

/// The lines that wait. No Python code runs under the lock.
static WAITING: Mutex<LineQueue> = Mutex::new(LineQueue { lines: VecDeque::new(), has_writer: false });

struct LineQueue {
    lines: VecDeque<LogLine>,
    /// A task of the loop writes the lines. There is one at a time, which keeps their order.
    has_writer: bool,
}

/// Logs a line on the loop thread, in a later turn, behind the requests that are ready.
pub fn log_later(line: LogLine) {
    let has_writer = {
        let mut waiting = lock(&WAITING);
        waiting.lines.push_back(line);
        std::mem::replace(&mut waiting.has_writer, true)
    };
    if !has_writer {
        event_loop::spawn_last(Box::new(write_in_turns));
    }
}

/// Logs the lines that the loop had no time for. Call it once the loop has ended.
pub fn log_rest(py: Python<'_>) {
    while let Some(line) = next_line() {
        line.log(py);
    }
}

/// Leaves the lines to [`log_rest`] from the end of the loop on, which would interrupt the wait of a handler.
///
/// # Parks
/// Where a handler waits.
fn write_in_turns() {
    let begun = Instant::now();
    let mut has_more = true;
    Python::attach(|py| {
        while has_more && begun.elapsed() < TURN && !ends::is_killed() {
            match next_line() {
                Some(line) => {
                    if let Err(error) = line.hand_over(py) {
                        // A handler that has waited may have begun with the line, which is better than no line.
                        if ends::is_killed() && error.is_instance_of::<CoroutineExit>(py) {
                            lock(&WAITING).lines.push_front(line);
                        } else {
                            error.write_unraisable(py, None);
                        }
                    }
                }
                None => has_more = false,
            }
        }
    });
    if ends::is_killed() {
        return;
    }
    if has_more {
        event_loop::spawn_last(Box::new(write_in_turns));
    }
}

/// Takes the next line. Without one, the writer is done.
fn next_line() -> Option<LogLine> {
    let mut waiting = lock(&WAITING);
    let line = waiting.lines.pop_front();
    waiting.has_writer &= line.is_some();
    line
}

/// A line about work that is ended.
pub struct LogLine {
    /// The level of the record.
    pub level: Level,
    /// The message, which may have several lines.
    pub text: String,
    /// The attribute `request_id` of the record; `None` if it has none.
    pub request_id: Option<String>,
    /// The number by which Python knows the coroutine.
    pub ident: u64,
    /// The name of the coroutine.
    pub name: String,
}

impl LogLine {
    /// Logs the line now. If logging itself fails, `sys.unraisablehook` gets that exception.
    ///
    /// # Parks
    /// Where a handler waits.
    pub fn log(&self, py: Python<'_>) {
        if let Err(error) = self.hand_over(py) {
            error.write_unraisable(py, None);
        }
    }

    /// Hands the record of the line to the handlers.
    fn hand_over(&self, py: Python<'_>) -> PyResult<()> {
        let logger = logger(py)?;
        if logger.call_method1(intern!(py, "isEnabledFor"), (self.level.number(),))?.is_truthy()? {
            logger.call_method1(intern!(py, "handle"), (self.record(&logger)?,))?;
        }
        Ok(())
    }

    /// The record of the line, made now.
    fn record<'py>(&self, logger: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if self.level == Level::Warning && makes_plain_records(logger)? {
            Model::present(logger)?.record(logger.py(), self)
        } else {
            make_record(logger, self.level, &self.text, self.request_id.as_deref())
        }
    }
}

/// Has `logging` make a record.
fn make_record<'py>(
    logger: &Bound<'py, PyAny>,
    level: Level,
    text: &str,
    request_id: Option<&str>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = logger.py();
    let extra = PyDict::new(py);
    if let Some(id) = request_id {
        extra.set_item(intern!(py, "request_id"), id)?;
    }
    // `logging` has these words for a caller that it does not find. The caller is no Python code.
    let (file, function) = ("(unknown file)", "(unknown function)");
    let arguments = (LOGGER_NAME, level.number(), file, 0, "%s", (text,), py.None(), function, extra);
    logger.call_method1(intern!(py, "makeRecord"), arguments)
}

/// Whether the program leaves it to `logging` how records are made.
fn makes_plain_records(logger: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = logger.py();
    let logging = logging(py)?;
    let class = logging.getattr(intern!(py, "LogRecord"))?;
    let own_file = |function: &Bound<'_, PyAny>| -> PyResult<bool> {
        let code = function.getattr(intern!(py, "__code__"))?;
        code.getattr(intern!(py, "co_filename"))?.eq(logging.getattr(intern!(py, "__file__"))?)
    };
    // A tool may have replaced either method.
    Ok(logging.call_method0(intern!(py, "getLogRecordFactory"))?.is(&class)
        && own_file(&logger.getattr(intern!(py, "makeRecord"))?).unwrap_or(false)
        && own_file(&class.getattr(intern!(py, "__init__"))?).unwrap_or(false))
}

/// A warning that others are copied from.
struct Model {
    /// The process that it was made in: it has the number and the name of the process.
    process: u32,
    attributes: Py<PyDict>,
    /// [`SystemTime`] and `relativeCreated` of the model.
    times: (f64, f64),
}

static MODEL: Mutex<Option<Arc<Model>>> = Mutex::new(None);

impl Model {
    /// The model of this process.
    fn present(logger: &Bound<'_, PyAny>) -> PyResult<Arc<Model>> {
        let process = std::process::id();
        if let Some(known) = lock(&MODEL).as_ref().filter(|model| model.process == process) {
            return Ok(Arc::clone(known));
        }
        let record = make_record(logger, Level::Warning, "", None)?;
        // Not the dictionary of an object, whose copy costs more.
        let attributes = PyDict::new(logger.py());
        attributes.update(record.getattr("__dict__")?.cast::<PyMapping>()?)?;
        let time = |name: &str| record.getattr(name)?.extract::<f64>();
        let times = (time("created")?, time("relativeCreated")?);
        let model = Arc::new(Model { process, attributes: attributes.unbind(), times });
        let previous = lock(&MODEL).replace(Arc::clone(&model));
        drop(previous);
        Ok(model)
    }

    /// A record of `line`.
    fn record<'py>(&self, py: Python<'py>, line: &LogLine) -> PyResult<Bound<'py, PyAny>> {
        let attributes = self.attributes.bind(py).copy()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let created = now.as_secs_f64();
        attributes.set_item(intern!(py, "args"), (&line.text,))?;
        attributes.set_item(intern!(py, "created"), created)?;
        attributes.set_item(intern!(py, "msecs"), f64::from(now.subsec_millis()))?;
        attributes.set_item(intern!(py, "relativeCreated"), self.times.1 + (created - self.times.0) * 1e3)?;
        attributes.set_item(intern!(py, "thread"), line.ident)?;
        attributes.set_item(intern!(py, "threadName"), &line.name)?;
        if let Some(id) = &line.request_id {
            attributes.set_item(intern!(py, "request_id"), id)?;
        }
        let class = logging(py)?.getattr(intern!(py, "LogRecord"))?;
        let record = class.call_method1(intern!(py, "__new__"), (&class,))?;
        record.setattr(intern!(py, "__dict__"), attributes)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use pyo3::types::{PyCFunction, PyTuple};

    use super::super::testing::{in_coroutine, run, with_python};
    use super::super::{application_waits, process_loop};
    use super::*;

    const HANDLER: &str = "import logging\n\
        class Kept(logging.Handler):\n\
        \x20   def emit(self, record): records.append(record)\n\
        records = []\n\
        logger = logging.getLogger('rmeinheld.error')\n\
        handler = Kept()\n\
        logger.addHandler(handler)\n";

    fn line(level: Level, number: usize, request_id: Option<&str>) -> LogLine {
        let (text, request_id) = (format!("line {number} of %s"), request_id.map(str::to_owned));
        LogLine { level, text, request_id, ident: 7, name: "request".to_owned() }
    }

    /// Runs `check`, Python code that finds the `records` of `lines`.
    fn logged(py: Python<'_>, preparation: &str, lines: &[LogLine], check: &CStr) {
        let globals = run(py, &format!("{HANDLER}{preparation}"), &[]).unwrap();
        lines.iter().for_each(|line| line.log(py));
        let checked = py.run(check, Some(&globals), None);
        py.run(c"logger.removeHandler(handler); logging.setLogRecordFactory(logging.LogRecord)", Some(&globals), None)
            .unwrap();
        checked.unwrap();
    }

    #[test]
    fn a_record_is_like_those_that_logging_makes() {
        let check = c"
import os, pickle, time
(one, two) = records
assert type(one) is logging.LogRecord
made = logger.makeRecord(logger.name, 30, '(unknown file)', 0, '%s', ('x',), None, '(unknown function)')
for record in records:
    assert set(record.__dict__) - {'request_id'} == set(made.__dict__), record.__dict__
    differ = {name for name, value in made.__dict__.items() if record.__dict__[name] != value}
    assert differ <= {'args', 'created', 'msecs', 'relativeCreated', 'thread', 'threadName'}, differ
    assert abs(record.created - time.time()) < 60
    assert abs(record.created % 1 * 1000 - record.msecs) < 1.001
    assert abs((made.relativeCreated - record.relativeCreated) / 1000 - (made.created - record.created)) < 0.001
    assert (record.thread, record.threadName) == (7, 'request')
assert (one.getMessage(), one.request_id) == ('line 1 of %s', 'abc')
assert two.getMessage() == 'line 2 of %s' and not hasattr(two, 'request_id')
assert pickle.loads(pickle.dumps(one)).getMessage() == one.getMessage()
";
        with_python(|py| {
            logged(py, "", &[line(Level::Warning, 1, Some("abc")), line(Level::Warning, 2, None)], check);
        });
    }

    #[test]
    fn a_program_may_make_records_of_its_own() {
        let preparation = "class Own(logging.LogRecord): pass\nlogging.setLogRecordFactory(Own)\n";
        let check = c"(one,) = records; assert type(one) is Own and one.request_id == 'abc', one";
        with_python(|py| {
            logged(py, "", &[line(Level::Warning, 1, None)], c"assert type(records[0]) is logging.LogRecord");
            logged(py, preparation, &[line(Level::Warning, 2, Some("abc"))], check);
        });
    }

    #[test]
    fn a_filter_and_the_level_of_the_logger_are_obeyed() {
        let preparation = "odd = lambda record: 'line 1' in record.getMessage()\nlogger.addFilter(odd)\n";
        let check = c"logger.removeFilter(odd); assert [r.getMessage() for r in records] == ['line 1 of %s'], records";
        let lines = [line(Level::Warning, 1, None), line(Level::Warning, 2, None), line(Level::Debug, 1, None)];
        with_python(|py| logged(py, preparation, &lines, check));
    }

    #[test]
    fn lines_keep_their_order_and_come_even_if_the_loop_ends() {
        with_python(|py| {
            let globals = run(py, HANDLER, &[]).unwrap();
            in_coroutine(py, |_| {
                (0..5000).for_each(|number| log_later(line(Level::Warning, number, None)));
                Ok(())
            })
            .unwrap();
            process_loop::stop(py).unwrap();
            let check = c"logger.removeHandler(handler)
assert [r.getMessage() for r in records] == [f'line {n} of %s' for n in range(5000)], len(records)";
            py.run(check, Some(&globals), None).unwrap();
            // The next loop has a writer of its own.
            assert!(next_line().is_none() && !lock(&WAITING).has_writer);
        });
    }

    #[test]
    fn a_line_whose_handler_waits_at_the_end_of_the_loop_is_not_lost() {
        let preparation = "class Waiting(logging.Handler):\n\
            \x20   def emit(self, record):\n\
            \x20       begun.append(record)\n\
            \x20       wait()\n\
            waiting, begun = Waiting(), []\n\
            logger.addHandler(waiting)\n";
        with_python(|py| {
            let wait =
                PyCFunction::new_closure(py, None, None, |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
                    if event_loop::can_park() { application_waits::sleep(args.py(), 60.0) } else { Ok(()) }
                });
            let wait = wait.unwrap();
            let globals = run(py, &format!("{HANDLER}{preparation}"), &[("wait", wait.as_any())]).unwrap();
            let names = globals.clone().unbind();
            in_coroutine(py, move |py| {
                (0..3).for_each(|number| log_later(line(Level::Warning, number, None)));
                while names.bind(py).as_any().get_item("begun")?.is_empty()? {
                    application_waits::sleep(py, 0.001)?;
                }
                Ok(())
            })
            .unwrap();
            process_loop::stop(py).unwrap();
            let check = c"logger.removeHandler(handler); logger.removeHandler(waiting)
assert [r.getMessage() for r in begun] == [f'line {n} of %s' for n in (0, 0, 1, 2)], begun
assert [r.getMessage() for r in records] == [f'line {n} of %s' for n in (0, 0, 1, 2)], records";
            py.run(check, Some(&globals), None).unwrap();
        });
    }
}
