//! The questions of the inspect socket, one JSON object on each line. Without input and output.
//!
//! `{"rmeinheld": 1, "ask": "stack", "id": "0-1-42"}` asks for the stack of a request. `rmeinheld` is the version of the
//! protocol. Members that this version does not know are ignored.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::crew::message::Sibling;
use crate::crew::place::INSPECT_VERSION;

/// The levels of the error log.
pub const LEVELS: [&str; 5] = ["debug", "info", "warning", "error", "critical"];

/// The name of one piece of work: a request or a coroutine of one worker. No other work of the service ever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkName {
    /// The worker: its slot, and the generation of the slot.
    pub worker: Sibling,
    /// The number of the work in its worker.
    pub work: u64,
}

impl fmt::Display for WorkName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}-{}", self.worker.slot, self.worker.generation, self.work)
    }
}

impl FromStr for WorkName {
    type Err = ();

    fn from_str(text: &str) -> Result<WorkName, ()> {
        let mut numbers = text.split('-');
        let mut next = || {
            let digits = numbers.next().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u64>().ok()).ok_or(())
        };
        let (slot, generation, work) = (next()?, next()?, next()?);
        let slot = u32::try_from(slot).map_err(drop)?;
        if numbers.next().is_some() || work == 0 {
            return Err(());
        }
        Ok(WorkName { worker: Sibling { slot, generation }, work })
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// The state of all workers.
    Workers,
    /// The requests in progress; with `true`, all coroutines.
    Requests(bool),
    /// The stack of one piece of work; with `true`, with its local variables.
    Stack(WorkName, bool),
    /// Ends one piece of work.
    Kill(WorkName),
    /// The dump of all workers; with `true`, with local variables.
    Dump(bool),
    /// Has the master load the service anew.
    Reload,
    /// Sets the level of the error log in all workers.
    LogLevel(&'static str),
}

impl Inquiry {
    /// Reads the text of a line.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Inquiry, String> {
        let members: Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| format!("a question is one JSON object on a line; this line is not: {error}"))?;
        match members.get("rmeinheld") {
            Some(version) if *version == json!(INSPECT_VERSION) => {}
            Some(version) => {
                return Err(format!("this server speaks version {INSPECT_VERSION} of the protocol, not {version}"));
            }
            None => {
                return Err(format!("the member \"rmeinheld\" is missing: {{\"rmeinheld\": {INSPECT_VERSION}, ...}}"));
            }
        }
        let flag = |name: &str| match members.get(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(format!("the member {name:?} is true or false, not {other}")),
        };
        let id = || -> Result<WorkName, String> {
            let text = members.get("id").ok_or_else(|| "the member \"id\" is missing".to_owned())?;
            text.as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("an id is slot, generation and work, as \"0-1-42\", not {text}"))
        };
        let Some(asked) = members.get("ask").and_then(Value::as_str) else {
            return Err("the member \"ask\" is missing, or is no text".to_owned());
        };
        Ok(match asked {
            "workers" => Inquiry::Workers,
            "requests" => Inquiry::Requests(flag("all")?),
            "stack" => Inquiry::Stack(id()?, flag("locals")?),
            "kill" => Inquiry::Kill(id()?),
            "dump" => Inquiry::Dump(flag("locals")?),
            "reload" => Inquiry::Reload,
            "log-level" => {
                let level = members.get("level").and_then(Value::as_str).map(str::to_ascii_lowercase);
                let known = LEVELS.into_iter().find(|known| Some(*known) == level.as_deref());
                Inquiry::LogLevel(known.ok_or_else(|| format!("the member \"level\" is one of {}", LEVELS.join(", ")))?)
            }
            other => {
                return Err(format!(
                    "the server knows no question {other:?}; it knows workers, requests, stack, kill, dump, reload and \
                     log-level"
                ));
            }
        })
    }

    /// The question as the text of a line.
    pub fn text(&self) -> String {
        let mut members = match self {
            Inquiry::Workers => json!({"ask": "workers"}),
            Inquiry::Requests(is_all) => json!({"ask": "requests", "all": is_all}),
            Inquiry::Stack(id, locals) => json!({"ask": "stack", "id": id.to_string(), "locals": locals}),
            Inquiry::Kill(id) => json!({"ask": "kill", "id": id.to_string()}),
            Inquiry::Dump(locals) => json!({"ask": "dump", "locals": locals}),
            Inquiry::Reload => json!({"ask": "reload"}),
            Inquiry::LogLevel(level) => json!({"ask": "log-level", "level": level}),
        };
        if let Value::Object(members) = &mut members {
            members.insert("rmeinheld".to_owned(), json!(INSPECT_VERSION));
        }
        members.to_string()
    }

    /// The work that the question names.
    pub fn subject(&self) -> Option<WorkName> {
        match self {
            Inquiry::Stack(id, _) | Inquiry::Kill(id) => Some(*id),
            _ => None,
        }
    }

    /// Whether the answer needs the interpreter.
    pub fn needs_interpreter(&self) -> bool {
        matches!(self, Inquiry::Stack(..) | Inquiry::Kill(_) | Inquiry::Dump(_) | Inquiry::LogLevel(_))
    }
}

/// An answer with these members.
pub fn answer(members: Value) -> Value {
    marked(members, true)
}

/// An answer that says why nothing was done or found.
pub fn refusal(error: impl Into<String>) -> Value {
    marked(json!({"error": error.into()}), false)
}

/// `members` as an answer.
pub fn marked(mut members: Value, is_ok: bool) -> Value {
    if let Value::Object(members) = &mut members {
        members.insert("rmeinheld".to_owned(), json!(INSPECT_VERSION));
        members.insert("ok".to_owned(), json!(is_ok));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: WorkName = WorkName { worker: Sibling { slot: 3, generation: 7 }, work: 42 };

    #[test]
    fn a_question_is_the_same_after_its_way_over_a_line() {
        for question in [
            Inquiry::Workers,
            Inquiry::Requests(false),
            Inquiry::Requests(true),
            Inquiry::Stack(ID, true),
            Inquiry::Kill(ID),
            Inquiry::Dump(false),
            Inquiry::Reload,
            Inquiry::LogLevel("debug"),
        ] {
            assert_eq!(Inquiry::parse(question.text().as_bytes()), Ok(question));
        }
    }

    #[test]
    fn a_line_that_is_no_question_is_refused_with_the_reason() {
        for (line, reason) in [
            ("", "is not: EOF"),
            ("hello", "is not: expected value"),
            ("[1]", "is not: invalid type"),
            ("\u{1}\u{2}", "is not: "),
            (r#"{"ask": "workers"}"#, "\"rmeinheld\" is missing"),
            (r#"{"rmeinheld": 2, "ask": "workers"}"#, "version 1 of the protocol, not 2"),
            (r#"{"rmeinheld": 1}"#, "\"ask\" is missing"),
            (r#"{"rmeinheld": 1, "ask": 7}"#, "\"ask\" is missing"),
            (r#"{"rmeinheld": 1, "ask": "sing"}"#, "no question \"sing\""),
            (r#"{"rmeinheld": 1, "ask": "kill"}"#, "\"id\" is missing"),
            (r#"{"rmeinheld": 1, "ask": "kill", "id": 7}"#, "not 7"),
            (r#"{"rmeinheld": 1, "ask": "requests", "all": 1}"#, "\"all\" is true or false, not 1"),
            (r#"{"rmeinheld": 1, "ask": "log-level", "level": "loud"}"#, "one of debug, info"),
        ] {
            let refusal = Inquiry::parse(line.as_bytes()).unwrap_err();
            assert!(refusal.contains(reason), "{line}: {refusal}");
        }
        assert!(Inquiry::parse(b"\xff\xfe").is_err());
        assert!(Inquiry::parse("[".repeat(4000).as_bytes()).is_err());
    }

    #[test]
    fn the_name_of_work_has_three_numbers() {
        assert_eq!((ID.to_string().as_str(), "3-7-42".parse()), ("3-7-42", Ok(ID)));
        for text in ["", "3", "3-7", "3-7-42-1", "-3-7-42", "3-7-0", "3-7-x", "3-7-+1", "4294967296-1-1", "3--42"] {
            assert_eq!(text.parse::<WorkName>(), Err(()), "{text}");
        }
    }
}
