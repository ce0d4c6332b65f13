//! The scoreboard: memory that all workers of a service share, with a slot for each worker.
//!
//! A worker that computes answers no message. Therefore everything that others must know of it at any time stands in
//! shared memory: whether it is ready, when its loop last turned, what it has counted. Any process of the service reads
//! the slots without waking their owners. The memory is a memfd (memfd_create(2)), made before the first fork. USR2
//! hands it on to the next generation by its descriptor.
//!
//! # Layout, version 2
//!
//! All numbers have the byte order of the machine. A page of header comes first, then three pages for each slot. Each
//! line of 64 bytes has one writer, so that no two processes wait for the same line of a processor's cache.
//!
//! | header  | field      | meaning                                                    |
//! |---------|------------|------------------------------------------------------------|
//! | 0, u64  | magic      | [`MAGIC`]                                                  |
//! | 8, u32  | version    | [`VERSION`]                                                |
//! | 12, u32 | slots      | the number of slots                                        |
//! | 64, u32 | stopping   | 1 once the whole service stops                             |
//! | 128     | exits      | a u64 for each of [`EXIT_REASONS`]: workers that have ended |
//! | 256, u32 | places    | the number of places, see [`places`](super::places)        |
//! | 264     | key        | 32 bytes that sign cookies, zero until the master sets them |
//!
//! | slot     | field             | written by | meaning                                                       |
//! |----------|-------------------|------------|---------------------------------------------------------------|
//! | 0, u32   | state             | both       | [`WorkerState`]                                               |
//! | 4, u32   | asks              | worker     | [`Request for replacement`](ReplacementReason), 0 for none    |
//! | 8, u32   | pid               | worker     | its process id, 0 before it has one                           |
//! | 16, u64  | generation        | master     | how many workers have owned the slot                          |
//! | 24, u64  | requests before   | master     | the counter of requests when the owner took the slot          |
//! | 32, u64  | connections before | master    | the counter of connections at that time                       |
//! | 40, u32  | place holder      | master     | of the place with the slot's number: its holder's slot + 1    |
//! | 64, u64  | turn              | worker     | when the running turn of the loop began, 0 while it waits     |
//! | 128, u64 | begun             | worker     | requests that have begun                                      |
//! | 136, u64 | requests          | worker     | requests that have been answered                              |
//! | 192, u64 | connections       | worker     | connections that were accepted                                |
//! | 200, u64 | open connections  | worker     | connections that are open                                     |
//! | 256, u64 | websockets begun  | worker     | WebSockets that were accepted                                 |
//! | 264, u64 | websockets over   | worker     | WebSockets that are over                                      |
//! | 320      | measures          | worker     | [`Measures`], in the order of its fields                      |
//! | 9312     | interest          | worker     | [`ChannelInterest`]: the channels that the worker listens to  |
//!
//! The rest of a slot's pages is reserved, and zero. A slot that never had an owner has no memory but its first page.
//!
//! # Counters never go backwards
//!
//! The counters of a slot go on with its next owner: they are never reset. The sum over all slots therefore includes
//! the dead workers, and grows whatever ends at whichever moment. A worker's own number is the difference to the
//! counter that its owner found.
//!
//! # Faults
//!
//! All fields are atomics and no lock exists, so a process that dies by SIGKILL leaves nothing half done. The memfd is
//! sealed against a change of its size (fcntl(2), F_SEAL_SHRINK), so a read never meets a missing page. A process with the
//! descriptor can write any number into any field: no field is an index or a length, and an unknown state counts as
//! free.

#![expect(unsafe_code, reason = "mmap(2), and the fields of memory that other processes write")]

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::{Errno, fcntl_dupfd_cloexec, pread};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::process::{Pid, test_kill_process};
use rustix::time::{ClockId, clock_gettime};

use super::interest::ChannelInterest;
use super::measures::{CHANNEL_EVENTS, HandOvers, Measured, Measures};

/// The first eight bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"RMECREW\0");

/// The version of the layout. Generations with another version do not share a scoreboard.
pub const VERSION: u32 = 3;

/// The number of slots by default. A service with more workers asks for more.
pub const DEFAULT_SLOTS: u32 = 256;

/// The largest number of slots: 768 MiB of address space.
pub const MOST_SLOTS: u32 = 65_536;

/// How long a turn of the loop may last until its worker counts as stuck.
pub const TURN_LIMIT: Duration = Duration::from_secs(5);

/// The size of the header.
const PAGE_BYTES: usize = 4096;

/// The size of a slot.
const SLOT_BYTES: usize = 3 * PAGE_BYTES;

/// The seals of the memfd: its size stays.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// The state of a slot and its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum WorkerState {
    /// No worker owns the slot.
    Free = 0,
    /// The worker starts, or imports the application.
    Booting = 1,
    /// The worker accepts and serves.
    Ready = 2,
    /// The worker is about to end.
    Draining = 3,
}

impl WorkerState {
    /// All states, in their order.
    pub const ALL: [WorkerState; 4] =
        [WorkerState::Free, WorkerState::Booting, WorkerState::Ready, WorkerState::Draining];

    /// The name of the state.
    pub fn name(self) -> &'static str {
        match self {
            WorkerState::Free => "free",
            WorkerState::Booting => "booting",
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
        }
    }

    fn of(number: u32) -> WorkerState {
        Self::ALL.into_iter().find(|state| *state as u32 == number).unwrap_or(WorkerState::Free)
    }
}

/// The reasons why a worker asks to be replaced, in the order of their numbers from 1.
pub const REASONS: [&str; 5] = ["requests", "memory", "lifetime", "reload", "stuck"];

/// The reasons for which workers have ended: those of [`REASONS`], and others.
pub const EXIT_REASONS: [&str; 11] =
    ["requests", "memory", "lifetime", "reload", "stuck", "scale_down", "stop", "timeout", "killed", "crash", "boot"];

/// The numbers that a worker has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that were answered.
    pub requests: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that are open.
    pub open_connections: u64,
    /// Requests in progress.
    pub in_progress: u64,
    /// WebSockets that are open.
    pub websockets: u64,
}

/// The first page.
#[repr(C)]
pub(super) struct BoardHeader {
    magic: AtomicU64,
    version: AtomicU32,
    slots: AtomicU32,
    _unused: [u64; 5],
    _line_0: u64,
    stopping: AtomicU32,
    _line_1: [u32; 15],
    exits: [AtomicU64; EXIT_REASONS.len()],
    _line_2: [u64; 5],
    pub(super) places: AtomicU32,
    _unused_of_places: u32,
    pub(super) service_key: [AtomicU64; 4],
}

/// A slot. The table at the top of this file explains the fields.
#[derive(Default)]
#[repr(C, align(4096))]
pub(super) struct WorkerSlot {
    pub(super) state: AtomicU32,
    asks: AtomicU32,
    pub(super) pid: AtomicU32,
    _unused: u32,
    generation: AtomicU64,
    requests_before: AtomicU64,
    connections_before: AtomicU64,
    pub(super) place_holder: AtomicU32,
    _unused_of_place: u32,
    _line_0: [u64; 2],
    pub(super) turn: AtomicU64,
    _line_1: [u64; 7],
    pub(super) begun: AtomicU64,
    pub(super) requests: AtomicU64,
    _line_2: [u64; 6],
    pub(super) connections: AtomicU64,
    pub(super) open_connections: AtomicU64,
    _line_3: [u64; 6],
    pub(super) websockets_begun: AtomicU64,
    pub(super) websockets_over: AtomicU64,
    _line_4: [u64; 6],
    pub(super) measures: Measures,
    interest: ChannelInterest,
}

const _: () = assert!(size_of::<BoardHeader>() <= PAGE_BYTES && size_of::<WorkerSlot>() == SLOT_BYTES);
const _: () = assert!(offset_of!(BoardHeader, stopping) == 64 && offset_of!(BoardHeader, exits) == 128);
const _: () = assert!(offset_of!(BoardHeader, places) == 256 && offset_of!(BoardHeader, service_key) == 264);
const _: () = assert!(offset_of!(WorkerSlot, place_holder) == 40 && offset_of!(WorkerSlot, measures) == 320);
const _: () = assert!(offset_of!(WorkerSlot, interest) == 9312);

/// The scoreboard of a service.
pub struct Scoreboard {
    descriptor: OwnedFd,
    header: NonNull<BoardHeader>,
    first: NonNull<WorkerSlot>,
    slots: u32,
}

// SAFETY: the pointers are to memory that stays mapped for as long as the value lives. All fields that are ever read or
// written are atomics, which threads and processes may use at once.
unsafe impl Send for Scoreboard {}
// SAFETY: as above.
unsafe impl Sync for Scoreboard {}

impl Scoreboard {
    /// A scoreboard with free slots only.
    ///
    /// # Errors
    /// InvalidInput for 0 slots or more than [`MOST_SLOTS`]; errors of memfd_create(2) and mmap(2).
    pub fn new(slots: u32) -> io::Result<Scoreboard> {
        if !(1..=MOST_SLOTS).contains(&slots) {
            let message = format!("a scoreboard has 1 to {MOST_SLOTS} slots, not {slots}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = match memfd_create("rmeinheld-scoreboard", flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not know the flag.
            Err(Errno::INVAL) => memfd_create("rmeinheld-scoreboard", flags),
            made => made,
        }?;
        ftruncate(&descriptor, bytes_of(slots) as u64)?;
        fcntl_add_seals(&descriptor, SEALS)?;
        let board = Scoreboard::map(descriptor, slots)?;
        let header = board.header();
        header.magic.store(MAGIC, Ordering::Relaxed);
        header.version.store(VERSION, Ordering::Relaxed);
        header.slots.store(slots, Ordering::Release);
        Ok(board)
    }

    /// The scoreboard behind a descriptor of another process, of which this one keeps a duplicate.
    ///
    /// # Errors
    /// InvalidData, with the difference, for a file that is no scoreboard or has another version or size; errors of
    /// fcntl(2) and mmap(2).
    pub fn from_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<Scoreboard> {
        let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let bytes = fstat(descriptor)?.st_size;
        let seals = fcntl_get_seals(descriptor).unwrap_or(SealFlags::empty());
        if !seals.contains(SEALS) || bytes < (2 * PAGE_BYTES) as i64 {
            return refuse(format!("it is no scoreboard: its size is {bytes} bytes, with the seals {seals:?}"));
        }
        if let Some(version) = Scoreboard::foreign_version(descriptor) {
            return refuse(format!("its version is {version}, and this process knows version {VERSION}"));
        }
        let slots = (bytes as u64 - PAGE_BYTES as u64) / SLOT_BYTES as u64;
        let Some(slots) = u32::try_from(slots).ok().filter(|&slots| slots <= MOST_SLOTS) else {
            return refuse(format!("its size is {bytes} bytes, more than a scoreboard can have"));
        };
        let board = Scoreboard::map(fcntl_dupfd_cloexec(descriptor, 0)?, slots)?;
        let header = board.header();
        let magic = header.magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            return refuse(format!("it is no scoreboard: it begins with {magic:#018x} instead of {MAGIC:#018x}"));
        }
        let named = header.slots.load(Ordering::Acquire);
        if named != slots || bytes as usize != bytes_of(slots) {
            return refuse(format!("it names {named} slots, and its size is {bytes} bytes"));
        }
        Ok(board)
    }

    /// The version of a scoreboard with another layout, whose slots may be smaller than ours.
    fn foreign_version(descriptor: BorrowedFd<'_>) -> Option<u32> {
        let mut start = [0; 12];
        let read = pread(descriptor, &mut start, 0).ok()?;
        let (magic, version) = start.get(..read)?.split_first_chunk::<8>()?;
        let version = u32::from_ne_bytes(*version.first_chunk()?);
        (u64::from_ne_bytes(*magic) == MAGIC && version != VERSION).then_some(version)
    }

    fn map(descriptor: OwnedFd, slots: u32) -> io::Result<Scoreboard> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses the address, so the mapping replaces nothing.
        let memory = unsafe { mmap(std::ptr::null_mut(), bytes_of(slots), access, MapFlags::SHARED, &descriptor, 0) }?;
        let Some(header) = NonNull::new(memory.cast::<BoardHeader>()) else {
            return Err(io::Error::from(Errno::NOMEM));
        };
        // SAFETY: the mapping has a page of header and at least one slot, and mappings begin at a page.
        let first = unsafe { header.byte_add(PAGE_BYTES) }.cast::<WorkerSlot>();
        Ok(Scoreboard { descriptor, header, first, slots })
    }

    /// The number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Does the whole service stop?
    pub fn is_stopping(&self) -> bool {
        self.header().stopping.load(Ordering::Acquire) != 0
    }

    /// Notes whether the whole service stops.
    pub fn set_stopping(&self, is_stopping: bool) {
        self.header().stopping.store(is_stopping.into(), Ordering::Release);
    }

    /// Takes a free slot for a worker that is about to start. Returns `None` if no slot is free.
    pub fn reserve(&self) -> Option<u32> {
        (0..self.slots).find(|&index| {
            let Some(slot) = self.slot(index) else { return false };
            let (free, booting) = (WorkerState::Free as u32, WorkerState::Booting as u32);
            // Two masters, of which one starts to replace the other, may reserve at once.
            let is_ours = slot.state.compare_exchange(free, booting, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if is_ours {
                slot.interest.clear();
                slot.generation.fetch_add(1, Ordering::AcqRel);
            }
            is_ours
        })
    }

    /// Gives the slot of a dead worker free. Its counters stay in the sum.
    pub fn release(&self, index: u32) {
        let Some(slot) = self.slot(index) else { return };
        // The numbers of what is open or in progress end with the worker.
        slot.begun.store(slot.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.websockets_over.store(slot.websockets_begun.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.open_connections.store(0, Ordering::Relaxed);
        slot.requests_before.store(slot.requests.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.connections_before.store(slot.connections.load(Ordering::Relaxed), Ordering::Relaxed);
        slot.measures.release(nanoseconds(ClockId::Monotonic));
        slot.interest.clear();
        slot.pid.store(0, Ordering::Relaxed);
        slot.asks.store(0, Ordering::Relaxed);
        slot.turn.store(0, Ordering::Relaxed);
        slot.state.store(WorkerState::Free as u32, Ordering::Release);
    }

    /// The state of a slot; `Free` for one that does not exist.
    pub fn state(&self, index: u32) -> WorkerState {
        self.slot(index).map_or(WorkerState::Free, WorkerSlot::state)
    }

    /// Sets the state of a worker. A worker that drains does not become ready again.
    pub fn set_state(&self, index: u32, state: WorkerState) {
        if let Some(slot) = self.slot(index) {
            slot.set_state(state);
        }
    }

    /// The reason why the worker asks to be replaced; empty if it does not ask.
    pub fn asks(&self, index: u32) -> &'static str {
        let number = self.slot(index).map_or(0, |slot| slot.asks.load(Ordering::Acquire));
        number.checked_sub(1).and_then(|place| REASONS.get(place as usize)).copied().unwrap_or_default()
    }

    /// Notes the worker's wish to be replaced. Returns false for an unknown reason.
    pub fn ask(&self, index: u32, reason: &str) -> bool {
        let number = match REASONS.iter().position(|known| *known == reason) {
            Some(place) => place as u32 + 1,
            None if reason.is_empty() => 0,
            None => return false,
        };
        if let Some(slot) = self.slot(index) {
            slot.asks.store(number, Ordering::Release);
        }
        true
    }

    /// The process id of the worker; 0 before it has written it.
    pub fn pid(&self, index: u32) -> u32 {
        self.slot(index).map_or(0, |slot| slot.pid.load(Ordering::Acquire))
    }

    /// The number of workers that have owned the slot.
    pub fn generation(&self, index: u32) -> u64 {
        self.slot(index).map_or(0, |slot| slot.generation.load(Ordering::Acquire))
    }

    /// How long the running turn of the worker's loop has lasted; zero while the loop waits for events.
    pub fn turn_age(&self, index: u32) -> Duration {
        let begun = self.slot(index).map_or(0, |slot| slot.turn.load(Ordering::Acquire));
        if begun == 0 {
            Duration::ZERO
        } else {
            Duration::from_nanos(nanoseconds(ClockId::Monotonic).saturating_sub(begun))
        }
    }

    /// The numbers of the slot's worker.
    pub fn counters(&self, index: u32) -> Counters {
        let Some(slot) = self.slot(index) else { return Counters::default() };
        let before = (slot.requests_before.load(Ordering::Acquire), slot.connections_before.load(Ordering::Acquire));
        let sums = slot.sums();
        Counters {
            requests: sums.requests.saturating_sub(before.0),
            connections: sums.connections.saturating_sub(before.1),
            ..sums
        }
    }

    /// The numbers of all workers, with those of the dead.
    pub fn total(&self) -> Counters {
        (0..self.slots).filter_map(|index| self.slot(index)).map(WorkerSlot::sums).fold(
            Counters::default(),
            |sum, one| Counters {
                requests: sum.requests.wrapping_add(one.requests),
                connections: sum.connections.wrapping_add(one.connections),
                open_connections: sum.open_connections.wrapping_add(one.open_connections),
                in_progress: sum.in_progress.wrapping_add(one.in_progress),
                websockets: sum.websockets.wrapping_add(one.websockets),
            },
        )
    }

    /// The measures of a slot at this time, with those of its earlier owners. `None` if no worker has owned it.
    pub fn measured(&self, index: u32) -> Option<Measured> {
        self.measures(index).map(|measures| measures.read(nanoseconds(ClockId::Monotonic)))
    }

    /// The measures of all slots at this time, with those of the dead.
    pub fn measured_in_total(&self) -> Measured {
        let mut total = Measured::default();
        (0..self.slots).filter_map(|index| self.measured(index)).for_each(|one| total.include(&one));
        total
    }

    /// The share of the last ten seconds for which the loop of the slot's worker was busy, from 0 to 1.
    pub fn busy_share(&self, index: u32) -> f64 {
        self.measures(index).map_or(0.0, |measures| measures.busy_share(nanoseconds(ClockId::Monotonic)))
    }

    /// The use of the slot's worker, from 0 to 1. It is the larger of two shares: the busy time of its loop over ten
    /// seconds, and its requests in progress over the most that it takes.
    pub fn saturation(&self, index: u32) -> f64 {
        let limit = self.measures(index).map_or(0, |measures| measures.request_limit.load(Ordering::Acquire));
        let in_use = if limit == 0 { 0.0 } else { self.counters(index).in_progress as f64 / limit as f64 };
        self.busy_share(index).max(in_use.min(1.0))
    }

    /// How many WebSockets have been accepted, by all workers and those that have ended.
    pub fn websockets_begun(&self) -> u64 {
        let slots = (0..self.slots).filter_map(|index| self.slot(index));
        slots.map(|slot| slot.websockets_begun.load(Ordering::Acquire)).fold(0, u64::wrapping_add)
    }

    /// The connections that the slot's worker has handed over and taken over.
    pub fn hand_overs(&self, index: u32) -> HandOvers {
        self.measures(index).map_or_else(HandOvers::default, Measures::hand_overs)
    }

    /// The measures of a slot that has or had an owner. Reading others would give them memory.
    fn measures(&self, index: u32) -> Option<&Measures> {
        self.slot(index).filter(|slot| slot.generation.load(Ordering::Acquire) > 0).map(|slot| &slot.measures)
    }

    /// Adds to the numbers of messages of channels of the slot's worker.
    pub fn note_channels(&self, index: u32, more: [u64; CHANNEL_EVENTS.len()]) {
        if let Some(measures) = self.measures(index) {
            measures.note_channels(more);
        }
    }

    /// The channels that the slot's worker listens to. `None` if no worker has owned the slot.
    pub fn interest(&self, index: u32) -> Option<&ChannelInterest> {
        self.slot(index).filter(|slot| slot.generation.load(Ordering::Acquire) > 0).map(|slot| &slot.interest)
    }

    /// How many workers have been started, by any master of the service.
    pub fn starts(&self) -> u64 {
        (0..self.slots).map(|index| self.generation(index)).fold(0, u64::wrapping_add)
    }

    /// Counts a worker that has ended. Returns false for an unknown reason.
    pub fn count_exit(&self, reason: &str) -> bool {
        let place = EXIT_REASONS.iter().position(|known| *known == reason);
        let count = place.and_then(|place| self.header().exits.get(place));
        count.inspect(|count| _ = count.fetch_add(1, Ordering::AcqRel)).is_some()
    }

    /// How many workers have ended, by [`EXIT_REASONS`].
    pub fn exits(&self) -> [u64; EXIT_REASONS.len()] {
        std::array::from_fn(|place| self.header().exits[place].load(Ordering::Acquire))
    }

    /// Whether a worker serves: it is ready, alive, and its loop turns within `turn_limit`.
    pub fn is_ready(&self, index: u32, turn_limit: Duration) -> bool {
        self.state(index) == WorkerState::Ready && self.turn_age(index) <= turn_limit && self.is_alive(index)
    }

    /// Whether the process of the slot's worker exists. A worker that has not written its process id counts as alive.
    pub fn is_alive(&self, index: u32) -> bool {
        let pid = i32::try_from(self.pid(index)).ok().and_then(Pid::from_raw);
        // A process of another user exists as well (EPERM).
        pid.is_none_or(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    }

    /// The number of workers that serve.
    pub fn ready_workers(&self, turn_limit: Duration) -> u32 {
        (0..self.slots).map(|index| u32::from(self.is_ready(index, turn_limit))).sum()
    }

    /// The slots that workers own.
    pub fn taken(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots).filter(|&index| self.state(index) != WorkerState::Free)
    }

    pub(super) fn header(&self) -> &BoardHeader {
        // SAFETY: `map` made the pointer; the memory stays mapped while `self` lives, and its size is sealed.
        unsafe { self.header.as_ref() }
    }

    pub(super) fn slot(&self, index: u32) -> Option<&WorkerSlot> {
        // SAFETY: the mapping has `slots` slots behind the header. It stays mapped while `self` lives, and its size is
        // sealed. Every bit pattern is valid for the fields.
        (index < self.slots).then(|| unsafe { self.first.add(index as usize).as_ref() })
    }
}

impl AsFd for Scoreboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Scoreboard {
    fn drop(&mut self) {
        // SAFETY: `map` made the mapping with this size, and every reference into it borrows `self`.
        let _ = unsafe { munmap(self.header.as_ptr().cast(), bytes_of(self.slots)) };
    }
}

impl WorkerSlot {
    /// A slot in memory of this process alone.
    pub(super) fn private() -> Box<WorkerSlot> {
        Box::default()
    }

    pub(super) fn state(&self) -> WorkerState {
        WorkerState::of(self.state.load(Ordering::Acquire))
    }

    pub(super) fn set_state(&self, state: WorkerState) {
        let changed = |before: u32| {
            let is_late = before == WorkerState::Draining as u32 && state == WorkerState::Ready;
            (!is_late).then_some(state as u32)
        };
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed);
    }

    /// The counters, with those of earlier owners.
    pub(super) fn sums(&self) -> Counters {
        // Ended work is read first: it must not outnumber begun work.
        let requests = self.requests.load(Ordering::Acquire);
        let websockets_over = self.websockets_over.load(Ordering::Acquire);
        Counters {
            requests,
            connections: self.connections.load(Ordering::Acquire),
            open_connections: self.open_connections.load(Ordering::Acquire),
            in_progress: self.begun.load(Ordering::Acquire).saturating_sub(requests),
            websockets: self.websockets_begun.load(Ordering::Acquire).saturating_sub(websockets_over),
        }
    }
}

/// The time on a clock that all processes share, in nanoseconds.
pub(super) fn nanoseconds(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    now.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

fn bytes_of(slots: u32) -> usize {
    PAGE_BYTES + SLOT_BYTES * slots as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crew::seat::{MoveOutcome, Seat};

    /// A seat in a slot that was reserved for it, and its number.
    fn worker(board: &Arc<Scoreboard>) -> (Seat, u32) {
        let slot = board.reserve().unwrap();
        (Seat::take(Arc::clone(board), slot).unwrap(), slot)
    }

    #[test]
    fn counters_go_on_when_a_worker_dies_and_its_slot_has_another_owner() {
        let board = Arc::new(Scoreboard::new(2).unwrap());
        let (first, slot) = worker(&board);
        for _ in 0..3 {
            first.count_begun();
            first.count_answered();
        }
        // The worker dies in the middle of a request, with two connections and a WebSocket.
        first.count_begun();
        first.count_accepted(1);
        first.count_accepted(2);
        first.count_websocket();
        let alive = Counters { requests: 3, connections: 2, open_connections: 2, in_progress: 1, websockets: 1 };
        assert_eq!((board.counters(slot), board.total()), (alive, alive));
        board.release(slot);
        let dead = Counters { requests: 3, connections: 2, ..Counters::default() };
        assert_eq!((board.total(), board.state(slot), board.pid(slot)), (dead, WorkerState::Free, 0));

        let (second, again) = worker(&board);
        assert_eq!((again, board.generation(slot)), (slot, 2));
        second.count_begun();
        second.count_answered();
        assert_eq!(second.counters().requests, 1);
        assert_eq!(board.counters(slot), Counters { requests: 1, ..Counters::default() });
        assert_eq!(board.total(), Counters { requests: 4, ..dead });
    }

    #[test]
    fn a_reader_sees_counters_grow_only_while_workers_write_and_come_and_go() {
        let board = Arc::new(Scoreboard::new(1).unwrap());
        let writer = {
            let board = Arc::clone(&board);
            std::thread::spawn(move || {
                for _ in 0..200 {
                    let (seat, slot) = worker(&board);
                    for _ in 0..500 {
                        seat.count_begun();
                        seat.count_answered();
                    }
                    board.release(slot);
                }
            })
        };
        let mut seen = Counters::default();
        while !writer.is_finished() {
            let now = board.total();
            assert!(now.requests >= seen.requests && now.in_progress <= 1_000_000, "{seen:?} before {now:?}");
            seen = now;
        }
        writer.join().unwrap();
        assert_eq!(board.total(), Counters { requests: 100_000, ..Counters::default() });
    }

    #[test]
    fn another_process_sees_the_same_slots() {
        let board = Arc::new(Scoreboard::new(3).unwrap());
        let other = Scoreboard::from_descriptor(board.as_fd()).unwrap();
        let (seat, slot) = worker(&board);
        seat.count_answered();
        seat.set_state(WorkerState::Ready);
        board.set_stopping(true);
        assert!(board.ask(slot, "memory") && !board.ask(slot, "boredom"));
        assert_eq!(other.slots(), 3);
        assert_eq!((other.state(slot), other.pid(slot)), (WorkerState::Ready, std::process::id()));
        assert_eq!((other.asks(slot), other.is_stopping(), other.total().requests), ("memory", true, 1));
        assert_eq!(other.taken().collect::<Vec<_>>(), [slot]);
        other.release(slot);
        assert_eq!((board.state(slot), board.asks(slot)), (WorkerState::Free, ""));
    }

    #[test]
    fn a_foreign_file_is_refused_with_the_difference() {
        let refusal = |descriptor: BorrowedFd<'_>| Scoreboard::from_descriptor(descriptor).err().unwrap().to_string();
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(refusal(null.as_fd()).starts_with("it is no scoreboard: its size is 0 bytes"));
        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&unsealed, 2 * PAGE_BYTES as u64).unwrap();
        assert!(refusal(unsealed.as_fd()).starts_with("it is no scoreboard: its size is 8192 bytes"));

        let board = Scoreboard::new(2).unwrap();
        assert!(ftruncate(&board, 0).is_err(), "the size of a scoreboard is sealed");
        board.header().slots.store(5, Ordering::Relaxed);
        assert_eq!(refusal(board.as_fd()), "it names 5 slots, and its size is 28672 bytes");
        board.header().version.store(7, Ordering::Relaxed);
        assert_eq!(refusal(board.as_fd()), "its version is 7, and this process knows version 3");
        board.header().magic.store(1, Ordering::Relaxed);
        assert!(refusal(board.as_fd()).starts_with("it is no scoreboard: it begins with 0x0000000000000001"));
    }

    #[test]
    fn a_scoreboard_has_as_many_slots_as_it_was_asked_for() {
        let board = Scoreboard::new(1000).unwrap();
        for expected in 0..1000 {
            assert_eq!(board.reserve(), Some(expected));
        }
        assert_eq!(board.reserve(), None);
        board.release(700);
        assert_eq!(board.reserve(), Some(700));
        for slots in [0, MOST_SLOTS + 1] {
            assert!(Scoreboard::new(slots).err().unwrap().to_string().contains("1 to 65536 slots"));
        }
    }

    #[test]
    fn each_reason_for_a_replacement_is_one_for_the_end_of_a_worker() {
        let board = Scoreboard::new(1).unwrap();
        assert!(REASONS.into_iter().all(|reason| board.count_exit(reason)) && !board.count_exit("boredom"));
        assert_eq!(board.exits().iter().sum::<u64>(), REASONS.len() as u64);
    }

    #[test]
    fn a_slot_that_does_not_exist_is_free_and_has_counted_nothing() {
        let board = Arc::new(Scoreboard::new(1).unwrap());
        assert!(Seat::take(Arc::clone(&board), 1).is_none());
        board.release(1);
        board.set_state(u32::MAX, WorkerState::Ready);
        assert_eq!((board.state(u32::MAX), board.counters(9)), (WorkerState::Free, Counters::default()));
    }

    #[test]
    fn a_worker_is_ready_while_its_loop_turns_or_waits_and_until_it_drains() {
        let board = Arc::new(Scoreboard::new(2).unwrap());
        let (seat, slot) = worker(&board);
        let (short, long) = (Duration::ZERO, Duration::from_secs(600));
        seat.note_turn();
        assert!(!board.is_ready(slot, long), "it imports");
        seat.set_state(WorkerState::Ready);
        std::thread::sleep(Duration::from_millis(20));
        assert!(board.turn_age(slot) >= Duration::from_millis(5));
        assert!(board.is_ready(slot, long) && !board.is_ready(slot, short));
        seat.note_wait();
        assert!(board.is_ready(slot, short) && board.turn_age(slot).is_zero());
        seat.set_state(WorkerState::Draining);
        seat.set_state(WorkerState::Ready);
        assert_eq!((board.state(slot), board.ready_workers(long)), (WorkerState::Draining, 0));
    }

    #[test]
    fn a_worker_whose_process_is_gone_is_not_ready() {
        let board = Arc::new(Scoreboard::new(1).unwrap());
        let (seat, slot) = worker(&board);
        seat.set_state(WorkerState::Ready);
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        board.slot(slot).unwrap().pid.store(gone.id(), Ordering::Relaxed);
        assert_eq!(board.ready_workers(Duration::from_secs(5)), 0);
    }

    #[test]
    fn the_next_owner_of_a_slot_counts_its_own_hand_overs() {
        let board = Arc::new(Scoreboard::new(1).unwrap());
        let (first, slot) = worker(&board);
        // Without metrics, too.
        first.count_hand_over(MoveOutcome::Sent);
        first.count_hand_over(MoveOutcome::Sent);
        first.count_hand_over(MoveOutcome::Received);
        first.count_hand_over(MoveOutcome::Failed);
        assert_eq!(board.hand_overs(slot), HandOvers { sent: 2, received: 1, failed: 1 });
        board.release(slot);
        let (second, _) = worker(&board);
        assert_eq!(board.hand_overs(slot), HandOvers::default());
        second.count_hand_over(MoveOutcome::Received);
        assert_eq!(board.hand_overs(slot), HandOvers { received: 1, ..HandOvers::default() });
        assert_eq!(board.measured(slot).unwrap().taken_over, 2);
    }

    #[test]
    fn numbers_that_no_worker_writes_do_no_harm() {
        let board = Scoreboard::new(1).unwrap();
        let slot = board.slot(0).unwrap();
        for field in [&slot.turn, &slot.begun, &slot.requests, &slot.websockets_over, &slot.requests_before] {
            field.store(u64::MAX, Ordering::Relaxed);
        }
        for field in [&slot.state, &slot.asks, &slot.pid] {
            field.store(u32::MAX, Ordering::Relaxed);
        }
        assert_eq!((board.state(0), board.asks(0)), (WorkerState::Free, ""));
        assert_eq!((board.counters(0).in_progress, board.turn_age(0)), (0, Duration::ZERO));
        assert_eq!(board.ready_workers(Duration::MAX), 0);
        let _ = board.total();
    }
}
