//! The facts about a worker and its service that need no interpreter.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Pid, Signal, getppid, kill_process};
use rustix::time::ClockId;
use serde_json::{Map, Value, json};

use super::question::{WorkName, answer, refusal};
use crate::crew::measures::REQUEST_BOUNDS;
use crate::crew::message::Sibling;
use crate::crew::place::CrewPlace;
use crate::crew::roster::{Roster, SlotOwner};
use crate::crew::scoreboard::{EXIT_REASONS, Scoreboard, nanoseconds};
use crate::event_loop::reasons::peer_of;
use crate::event_loop::records::{self, Snapshot, WorkKind};
use crate::http::redaction::redacted;
use crate::net::{LocalAddress, PeerCredentials};

/// A worker, and its place in its service.
pub struct OwnWorker {
    board: Arc<Scoreboard>,
    own: Sibling,
    place: Option<CrewPlace>,
    /// The process of the arbiter.
    master: Option<u32>,
    /// The user who opened the socket, apart from the worker's own.
    user: u32,
    /// Requests belong to workers by their sessions.
    is_sticky: bool,
}

impl OwnWorker {
    /// The worker that owns `slot` now. It is alone without a `place`, and has no arbiter without a `master`.
    pub fn new(
        board: Arc<Scoreboard>,
        slot: u32,
        place: Option<CrewPlace>,
        master: Option<u32>,
        user: u32,
    ) -> OwnWorker {
        let own = Sibling { slot, generation: board.generation(slot) };
        OwnWorker { board, own, place, master, user, is_sticky: false }
    }

    /// The worker, which says more of each one if sessions are sticky: its place, and the connections that have moved.
    #[must_use]
    pub fn sticky(self, is_sticky: bool) -> OwnWorker {
        OwnWorker { is_sticky, ..self }
    }

    /// The worker's name.
    pub(super) fn own(&self) -> Sibling {
        self.own
    }

    /// The owner of a slot.
    pub(super) fn owner(&self, slot: u32) -> Option<SlotOwner> {
        self.board.owner(slot)
    }

    /// The other workers of the service. A worker that has not begun yet is left out.
    pub(super) fn siblings(&self) -> Vec<SlotOwner> {
        self.board.taken().filter_map(|slot| self.owner(slot)).filter(|owner| owner.worker != self.own).collect()
    }

    /// The addresses of a worker's inspect socket.
    pub(super) fn addresses(&self, worker: Sibling) -> Vec<LocalAddress> {
        self.place.iter().flat_map(|place| place.inspect_addresses(worker)).collect()
    }

    /// Removes the sockets that killed owners of the slot have left.
    pub(super) fn remove_predecessors(&self) {
        if let Some(place) = &self.place {
            place.remove_predecessors(self.own);
        }
    }

    /// Whether the process may ask: it has the user of the worker or of the master, or it is root's.
    pub(super) fn trusts(&self, peer: PeerCredentials) -> bool {
        [0, self.user, rustix::process::geteuid().as_raw()].contains(&peer.user)
    }

    /// The states of all workers, by the shared memory and the kernel.
    pub(super) fn workers(&self) -> Vec<Value> {
        self.board.taken().map(|slot| self.slot_state(slot)).collect()
    }

    /// The numbers of the whole service.
    pub(super) fn service(&self) -> Value {
        let total = self.board.total();
        let exits = EXIT_REASONS.into_iter().zip(self.board.exits()).filter(|(_, number)| *number > 0);
        json!({
            "master": self.master,
            "stopping": self.board.is_stopping(),
            "worker_starts": self.board.starts(),
            "worker_exits": exits.map(|(reason, number)| (reason.to_owned(), number)).collect::<HashMap<_, _>>(),
            "durations": self.board.measured_in_total().all_durations().counts,
            "duration_bounds": REQUEST_BOUNDS,
            "requests": total.requests,
            "connections": total.connections,
            "open_connections": total.open_connections,
            "in_progress": total.in_progress,
            "websockets": total.websockets,
        })
    }

    fn slot_state(&self, slot: u32) -> Value {
        let (pid, counters) = (self.board.pid(slot), self.board.counters(slot));
        let mut state = json!({
            "slot": slot,
            "generation": self.board.generation(slot),
            "pid": pid,
            "state": self.board.state(slot).name(),
            "asks": self.board.asks(slot),
            "turn_age": seconds(self.board.turn_age(slot)),
            "busy": self.board.busy_share(slot),
            "age": process_age(pid).map(seconds),
            "memory_bytes": memory_bytes(pid),
            "requests": counters.requests,
            "connections": counters.connections,
            "open_connections": counters.open_connections,
            "in_progress": counters.in_progress,
            "websockets": counters.websockets,
        });
        if let Value::Object(members) = &mut state
            && self.is_sticky
        {
            let hand_overs = self.board.hand_overs(slot);
            members.insert("place".to_owned(), json!(self.board.place_of(slot)));
            members.insert("moved_out".to_owned(), json!(hand_overs.sent));
            members.insert("moved_in".to_owned(), json!(hand_overs.received));
            members.insert("moves_refused".to_owned(), json!(hand_overs.failed));
        }
        state
    }

    /// The coroutines of this worker by what they wait for.
    pub(super) fn details(&self) -> Map<String, Value> {
        let running = running_work();
        let mut coroutines: BTreeMap<&str, u64> = BTreeMap::new();
        for record in records::all().iter().filter(|record| record.work() != 0) {
            let state = match record.wait() {
                Some(wait) => wait.reason.name(),
                None => state_name(running == Some(record.work())),
            };
            *coroutines.entry(state).or_default() += 1;
        }
        Map::from_iter([("coroutines".to_owned(), json!(coroutines))])
    }

    /// The requests of this worker, or all its coroutines.
    pub(super) fn requests(&self, is_all: bool) -> Vec<Value> {
        let running = running_work();
        let found = records::all().into_iter().map(|record| record.snapshot());
        let wanted = found.filter(|one| one.work != 0 && (is_all || one.kind == WorkKind::Request));
        wanted.map(|one| self.described(&one, running)).collect()
    }

    /// A piece of work of this worker, unless it is over.
    pub(super) fn request(&self, work: u64) -> Option<Value> {
        let found = records::all().into_iter().find(|record| record.work() == work)?.snapshot();
        (found.work == work).then(|| self.described(&found, running_work()))
    }

    fn described(&self, found: &Snapshot, running: Option<u64>) -> Value {
        let now = records::now();
        let since = |begun: u64| seconds(Duration::from_nanos(now.saturating_sub(begun)));
        let state = found.wait.map_or_else(|| state_name(running == Some(found.work)), |_| "waits");
        json!({
            "id": WorkName { worker: self.own, work: found.work }.to_string(),
            "kind": found.kind.name(),
            "label": redacted(&found.label),
            "client": found.client.and_then(|client| peer_of(u64::try_from(client).ok()?)),
            "age": since(found.begun),
            "state": state,
            "waits": found.wait.map(|wait| since(wait.since)),
            "reason": found.wait.map(|wait| wait.describe(now)),
        })
    }

    /// Sends SIGHUP to the master.
    pub(super) fn reload(&self) -> Value {
        let Some(master) = self.master else {
            return refusal(
                "a single process has nothing to reload; with --workers 2 or more the workers are replaced without a gap",
            );
        };
        let pid = i32::try_from(master).ok().and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| getppid() == Some(*pid)) else {
            return refusal(format!("the master (process {master}) has ended"));
        };
        match kill_process(pid, Signal::HUP) {
            Ok(()) => answer(json!({"master": master})),
            Err(error) => {
                let mut refused = refusal(format!("the worker may not signal the master: {error}; kill -HUP {master}"));
                if let Value::Object(members) = &mut refused {
                    members.insert("master".to_owned(), json!(master));
                }
                refused
            }
        }
    }
}

/// The number of the work that has the loop thread.
fn running_work() -> Option<u64> {
    records::running().map(|(record, _)| record.work())
}

fn state_name(is_running: bool) -> &'static str {
    if is_running { "runs" } else { "ready" }
}

/// `duration` in seconds, to the microsecond.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e6
}

/// The resident memory of a process (proc_pid_statm(5)).
fn memory_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(page_size() as u64)
}

/// The time since the start of a process (proc_pid_stat(5), field 22).
fn process_age(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may contain spaces and parentheses.
    let (_, fields) = text.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    let begun = u128::from(ticks) * 1_000_000_000 / u128::from(clock_ticks_per_second());
    let age = u128::from(nanoseconds(ClockId::Boottime)).saturating_sub(begun);
    Some(Duration::from_nanos(u64::try_from(age).ok()?))
}
