//! Records of all units: readable from any OS thread, without the interpreter and without stopping the loop.
//!
//! Every unit has one [`Record`] from its making to its end, in a process-wide table. The loop thread writes the fields
//! with relaxed stores, and any thread reads them. Only the making and the end of a unit, and readers, lock the table.
//! A reader may see the fields of two moments; [`Record::snapshot`] repeats until the work was the same throughout.
//!
//! Times are nanoseconds on the coarse monotonic clock ([`now`]).

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Instant;

use slab::Slab;

use super::activity::{Activity, activity};
use super::reasons::{Reason, Wait};
use crate::sync::lock;

pub use super::activity::coarse_now as now;

/// The longest label in bytes. Longer labels are cut.
pub const LABEL_BYTES: usize = 120;

const WORD: usize = size_of::<u64>();

/// How often a reader tries to read a label or a snapshot that changes meanwhile.
const ATTEMPTS: usize = 100;

/// The table of all records. No other lock is taken under this one but that of the deadlines.
static TABLE: Mutex<Slab<Arc<Record>>> = Mutex::new(Slab::new());

/// The number of the running unit's record, plus one; 0 for none.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// This is a forked child, and the records are its parent's.
static FORGOTTEN: AtomicBool = AtomicBool::new(false);

/// The kind of a unit's work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorkKind {
    /// No work: the unit waits for some, or leads.
    #[default]
    Idle,
    /// A request, from its head to the end of its response.
    Request,
    /// A function that the application has spawned; a thread of `threading` is one, too.
    Spawned,
    /// Work of the server: accepting, reading a head, watching a stream.
    Engine,
}

impl WorkKind {
    fn from_number(number: u8) -> WorkKind {
        [WorkKind::Idle, WorkKind::Request, WorkKind::Spawned, WorkKind::Engine]
            .get(usize::from(number))
            .copied()
            .unwrap_or_default()
    }

    /// The kind as users know it.
    pub fn name(self) -> &'static str {
        match self {
            WorkKind::Idle => "idle",
            WorkKind::Request => "request",
            WorkKind::Spawned => "coroutine",
            WorkKind::Engine => "server",
        }
    }
}

/// The facts about one unit and its work.
pub struct Record {
    /// The record's number in the table.
    number: AtomicUsize,
    ident: AtomicU64,
    work: AtomicU64,
    kind: AtomicU8,
    begun: AtomicU64,
    waits_since: AtomicU64,
    /// The start of the waits for the present reason, which may be several; 0 before the first.
    reason_since: AtomicU64,
    reason: AtomicU8,
    details: [AtomicU64; 2],
    until: AtomicU64,
    client: AtomicI32,
    thread_state: AtomicUsize,
    subject: AtomicUsize,
    /// Odd while the label changes.
    label_version: AtomicU64,
    /// The length of the whole label, of which at most [`LABEL_BYTES`] are kept.
    label_length: AtomicUsize,
    label: [AtomicU64; LABEL_BYTES / WORD],
}

/// A consistent copy of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The number by which Python knows the coroutine.
    pub ident: u64,
    /// The number of the piece of work, never used twice; 0 without work. Every request has its own.
    pub work: u64,
    /// The kind of the work.
    pub kind: WorkKind,
    /// "GET /path?query", or the qualified name of a function. Unredacted.
    pub label: String,
    /// The start of the work.
    pub begun: u64,
    /// The present wait; `None` if the unit runs or is ready.
    pub wait: Option<Wait>,
    /// The descriptor of the request's client.
    pub client: Option<i32>,
}

impl Record {
    /// A new record, entered in the table.
    pub(super) fn enter() -> Arc<Record> {
        let record = Arc::new(Record {
            number: AtomicUsize::new(0),
            ident: AtomicU64::new(0),
            work: AtomicU64::new(0),
            kind: AtomicU8::new(WorkKind::Idle as u8),
            begun: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            reason_since: AtomicU64::new(0),
            reason: AtomicU8::new(0),
            details: [const { AtomicU64::new(0) }; 2],
            until: AtomicU64::new(0),
            client: AtomicI32::new(-1),
            thread_state: AtomicUsize::new(0),
            subject: AtomicUsize::new(0),
            label_version: AtomicU64::new(0),
            label_length: AtomicUsize::new(0),
            label: [const { AtomicU64::new(0) }; LABEL_BYTES / WORD],
        });
        let number = lock(&TABLE).insert(Arc::clone(&record));
        record.number.store(number, Ordering::Relaxed);
        record
    }

    /// Removes the record from the table.
    pub(super) fn leave(&self) {
        let number = self.number.load(Ordering::Relaxed);
        let mut table = lock(&TABLE);
        if table.get(number).is_some_and(|known| std::ptr::eq(Arc::as_ptr(known), self)) {
            table.remove(number);
        }
    }

    /// Notes the beginning of a piece of work of the server, which may turn out to be a request.
    pub(super) fn begin(&self, work: u64, begun: u64) {
        self.begun.store(begun, Ordering::Relaxed);
        self.kind.store(WorkKind::Engine as u8, Ordering::Relaxed);
        self.work.store(work, Ordering::Release);
    }

    /// Notes the end of the work.
    pub(super) fn end(&self) {
        self.work.store(0, Ordering::Relaxed);
        self.kind.store(WorkKind::Idle as u8, Ordering::Relaxed);
    }

    /// Gives the work its kind and its label: the first `length` bytes of `text`. Bytes behind them are not shown, and
    /// spare a look at the end of the last word.
    pub(super) fn name(&self, kind: WorkKind, text: &[u8], length: usize, client: i32) {
        let version = self.label_version.load(Ordering::Relaxed);
        self.label_version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.label_length.store(length, Ordering::Relaxed);
        let (words, rest) = text.as_chunks::<WORD>();
        let needed = length.div_ceil(WORD).min(self.label.len());
        for (place, word) in self.label.iter().zip(words.iter().take(needed)) {
            place.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
        if words.len() < needed
            && let Some(place) = self.label.get(words.len())
        {
            let mut last = [0; WORD];
            last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            place.store(u64::from_le_bytes(last), Ordering::Relaxed);
        }
        self.client.store(client, Ordering::Relaxed);
        self.kind.store(kind as u8, Ordering::Relaxed);
        self.label_version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub(super) fn set_kind(&self, kind: WorkKind) {
        self.kind.store(kind as u8, Ordering::Relaxed);
    }

    /// The number by which Python knows the unit's coroutine.
    pub fn ident(&self) -> u64 {
        self.ident.load(Ordering::Relaxed)
    }

    pub(super) fn set_ident(&self, ident: u64) {
        self.ident.store(ident, Ordering::Relaxed);
    }

    /// The number of the piece of work; 0 without work.
    pub fn work(&self) -> u64 {
        self.work.load(Ordering::Acquire)
    }

    /// The kind of the work.
    pub fn kind(&self) -> WorkKind {
        WorkKind::from_number(self.kind.load(Ordering::Relaxed))
    }

    /// The start of the work.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// The thread state that the unit uses; 0 for none. Written under the GIL, and cleared before the thread state is
    /// deleted.
    pub fn thread_state(&self) -> usize {
        self.thread_state.load(Ordering::Relaxed)
    }

    pub(super) fn replace_thread_state(&self, state: usize) -> usize {
        let previous = self.thread_state();
        self.thread_state.store(state, Ordering::Relaxed);
        previous
    }

    /// The subject of the work, a number of the layers above; 0 for none.
    pub fn subject(&self) -> usize {
        self.subject.load(Ordering::Relaxed)
    }

    pub(super) fn replace_subject(&self, subject: usize) -> usize {
        // The loop thread alone writes.
        let previous = self.subject.load(Ordering::Relaxed);
        self.subject.store(subject, Ordering::Relaxed);
        previous
    }

    /// The present wait; `None` if the unit runs or is ready.
    pub fn wait(&self) -> Option<Wait> {
        let since = self.waits_since.load(Ordering::Acquire);
        let [first, second] = &self.details;
        (since > 0).then(|| Wait {
            since,
            reason: Reason::from_number(self.reason.load(Ordering::Relaxed)),
            details: [first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)],
            until: Some(self.until.load(Ordering::Relaxed)).filter(|&until| until > 0),
        })
    }

    /// Notes that the unit waits from now on, until `until` (0 for ever).
    pub(super) fn waits(&self, until: u64) {
        self.until.store(until, Ordering::Relaxed);
        // A lock that was missed is waited for again, and the first wait counts.
        let since = match self.reason_since.load(Ordering::Relaxed) {
            0 => now(),
            since => since,
        };
        self.reason_since.store(since, Ordering::Relaxed);
        self.waits_since.store(since, Ordering::Release);
    }

    /// Notes that the wait is over: the unit is ready, or runs.
    pub(super) fn is_ready(&self) {
        self.waits_since.store(0, Ordering::Relaxed);
    }

    pub(super) fn reason(&self) -> Reason {
        Reason::from_number(self.reason.load(Ordering::Relaxed))
    }

    pub(super) fn set_reason(&self, reason: Reason, details: [u64; 2]) {
        for (place, detail) in self.details.iter().zip(details) {
            place.store(detail, Ordering::Relaxed);
        }
        self.reason_since.store(0, Ordering::Relaxed);
        self.reason.store(reason as u8, Ordering::Relaxed);
    }

    /// The label of the work: "GET /path?query", or the qualified name of a function. Unredacted. Empty if it changes all
    /// the time.
    pub fn label(&self) -> String {
        let mut bytes = [0; LABEL_BYTES];
        for _ in 0..ATTEMPTS {
            let version = self.label_version.load(Ordering::Acquire);
            let length = self.label_length.load(Ordering::Relaxed);
            for (to, from) in bytes.as_chunks_mut::<WORD>().0.iter_mut().zip(&self.label) {
                *to = from.load(Ordering::Relaxed).to_le_bytes();
            }
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.label_version.load(Ordering::Relaxed) == version {
                let text = String::from_utf8_lossy(bytes.get(..length).unwrap_or(&bytes));
                let cut = if length > LABEL_BYTES { "..." } else { "" };
                return format!("{}{cut}", text.trim_end_matches('\u{fffd}').escape_debug());
            }
            std::hint::spin_loop();
        }
        String::new()
    }

    /// A copy of the facts, all about the same piece of work unless it changes again and again.
    pub fn snapshot(&self) -> Snapshot {
        let read = || {
            let kind = self.kind();
            let is_named = matches!(kind, WorkKind::Request | WorkKind::Spawned);
            Snapshot {
                ident: self.ident(),
                work: self.work(),
                kind,
                label: if is_named { self.label() } else { String::new() },
                begun: self.begun(),
                wait: self.wait(),
                client: Some(self.client.load(Ordering::Relaxed)).filter(|&client| is_named && client >= 0),
            }
        };
        let mut snapshot = read();
        for _ in 0..ATTEMPTS {
            if self.work() == snapshot.work && self.kind() == snapshot.kind {
                break;
            }
            snapshot = read();
        }
        snapshot
    }
}

/// A deadline on the clock of the records.
pub(super) fn time_of(deadline: Instant) -> u64 {
    let ahead = deadline.saturating_duration_since(Instant::now()).as_nanos();
    now().saturating_add(u64::try_from(ahead).unwrap_or(u64::MAX))
}

/// All records, those of idle units included. Empty in a forked child.
pub fn all() -> Vec<Arc<Record>> {
    if FORGOTTEN.load(Ordering::Relaxed) {
        return Vec::new();
    }
    lock(&TABLE).iter().map(|(_, record)| Arc::clone(record)).collect()
}

/// Calls `look` for all records, those of idle units included; for none in a forked child. It runs under a lock: it must
/// not call out of this layer.
pub fn each(mut look: impl FnMut(&Arc<Record>)) {
    if !FORGOTTEN.load(Ordering::Relaxed) {
        lock(&TABLE).iter().for_each(|(_, record)| look(record));
    }
}

/// The first record that `is_meant` finds, which runs under the same conditions as in [`each`].
pub fn find(is_meant: impl Fn(&Record) -> bool) -> Option<Arc<Record>> {
    if FORGOTTEN.load(Ordering::Relaxed) {
        return None;
    }
    lock(&TABLE).iter().find(|(_, record)| is_meant(record)).map(|(_, record)| Arc::clone(record))
}

/// The record of the unit that runs the present turn, and the start of the turn. `None` while the loop waits for events,
/// without a loop, and in a forked child. The unit has no [work](Record::work) if it leads between two pieces of work.
pub fn running() -> Option<(Arc<Record>, u64)> {
    if FORGOTTEN.load(Ordering::Relaxed) {
        return None;
    }
    let begun = match activity() {
        Activity::Waits => return None,
        Activity::Turns(begun) => begun,
        // The unit has the thread, and waits for the interpreter.
        Activity::Polled(_) => now(),
    };
    let number = RUNNING.load(Ordering::Acquire).checked_sub(1)?;
    lock(&TABLE).get(number).map(|record| (Arc::clone(record), begun))
}

/// The subject of the unit that ran last on the loop thread.
pub(super) fn running_subject() -> usize {
    let number = RUNNING.load(Ordering::Acquire).checked_sub(1);
    number.and_then(|number| lock(&TABLE).get(number).map(|record| record.subject())).unwrap_or(0)
}

/// Notes the unit that runs from now on.
pub(super) fn set_running(record: Option<&Record>) {
    let number = record.map_or(0, |record| record.number.load(Ordering::Relaxed) + 1);
    RUNNING.store(number, Ordering::Release);
}

/// Forgets all records in a forked child: they are its parent's. Allocates and frees nothing.
pub(super) fn forget_in_child() {
    let is_empty = match TABLE.try_lock() {
        Ok(table) => table.is_empty(),
        Err(TryLockError::Poisoned(table)) => table.get_ref().is_empty(),
        // A thread that the child does not have holds the lock, so there is a loop.
        Err(TryLockError::WouldBlock) => false,
    };
    if !is_empty {
        FORGOTTEN.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_all_lengths_are_read_as_they_were_written() {
        let record = Record::enter();
        let text: String = ('a'..='z').cycle().take(200).collect();
        for length in 0..=LABEL_BYTES {
            record.name(WorkKind::Spawned, &text.as_bytes()[..length], length, -1);
            assert_eq!(record.label(), text[..length]);
            record.name(WorkKind::Request, text.as_bytes(), length, 7);
            assert_eq!(record.label(), text[..length]);
        }
        record.name(WorkKind::Request, text.as_bytes(), 200, 7);
        assert_eq!(record.label(), format!("{}...", &text[..LABEL_BYTES]));
        record.leave();
    }

    #[test]
    fn a_label_is_never_read_half_changed() {
        let record = Record::enter();
        let (first, second) = ("a".repeat(100), "b".repeat(90));
        record.name(WorkKind::Request, first.as_bytes(), first.len(), 1);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20_000 {
                    record.name(WorkKind::Request, second.as_bytes(), second.len(), 1);
                    record.name(WorkKind::Request, first.as_bytes(), first.len(), 1);
                }
            });
            while !writer.is_finished() {
                let label = record.label();
                assert!(label == first || label == second || label.is_empty(), "{label}");
            }
        });
        record.leave();
    }
}
