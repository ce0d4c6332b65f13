//! The layout of the scoreboard in memory: the header, and the slot of a worker.
//!
//! Any process of the service may write any field at any time. Therefore every field that is read or written is an
//! atomic, and every bit pattern is valid for it.
//!
//! # Layout, version 3
//!
//! All numbers have the byte order of the machine. A page of header comes first, then three pages for each slot. Each
//! line of 64 bytes has one writer, so that no two processes wait for the same line of a processor's cache.
//!
//! | header   | field    | meaning                                                     |
//! |----------|----------|-------------------------------------------------------------|
//! | 0, u64   | magic    | [`MAGIC`]                                                   |
//! | 8, u32   | version  | [`VERSION`]                                                 |
//! | 12, u32  | slots    | the number of slots                                         |
//! | 64, u32  | stopping | 1 once the whole service stops                              |
//! | 128      | exits    | a u64 for each of [`EXIT_REASONS`]: workers that have ended |
//! | 256, u32 | places   | the number of places, see [`places`](crate::crew::places)   |
//! | 264      | key      | 32 bytes that sign cookies, zero until the master sets them |
//!
//! | slot     | field              | written by | meaning                                                      |
//! |----------|--------------------|------------|--------------------------------------------------------------|
//! | 0, u32   | state              | both       | [`WorkerState`](super::WorkerState)                          |
//! | 4, u32   | asks               | worker     | [`reason`](super::REASONS) to be replaced, 0 for none        |
//! | 8, u32   | pid                | worker     | its process id, 0 before it has one                          |
//! | 16, u64  | generation         | master     | how many workers have owned the slot                         |
//! | 24, u64  | requests before    | master     | the counter of requests when the owner took the slot         |
//! | 32, u64  | connections before | master     | the counter of connections at that time                      |
//! | 40, u32  | place holder       | master     | of the place with the slot's number: its holder's slot + 1   |
//! | 64, u64  | turn               | worker     | when the running turn of the loop began, 0 while it waits    |
//! | 128, u64 | begun              | worker     | requests that have begun                                     |
//! | 136, u64 | requests           | worker     | requests that have been answered                             |
//! | 192, u64 | connections        | worker     | connections that were accepted                               |
//! | 200, u64 | open connections   | worker     | connections that are open                                    |
//! | 256, u64 | websockets begun   | worker     | WebSockets that were accepted                                |
//! | 264, u64 | websockets over    | worker     | WebSockets that are over                                     |
//! | 320      | measures           | worker     | [`Measures`], in the order of its fields                     |
//! | 9312     | interest           | worker     | [`ChannelInterest`]: the channels that the worker listens to |
//!
//! The rest of a slot's pages is reserved, and zero. A slot that never had an owner has no memory but its first page.

use std::mem::{offset_of, size_of};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::worker_state::EXIT_REASONS;
use crate::crew::interest::ChannelInterest;
use crate::crew::measures::Measures;

/// The first eight bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"RMECREW\0");

/// The version of the layout. Generations with another version do not share a scoreboard.
pub const VERSION: u32 = 3;

/// The number of slots by default. A service with more workers asks for more.
pub const DEFAULT_SLOTS: u32 = 256;

/// The largest number of slots: 768 MiB of address space.
pub const MOST_SLOTS: u32 = 65_536;

/// The size of the header.
pub(super) const PAGE_BYTES: usize = 4096;

/// The size of a slot.
pub(super) const SLOT_BYTES: usize = 3 * PAGE_BYTES;

/// The first page.
#[repr(C)]
pub(in crate::crew) struct BoardHeader {
    pub(super) magic: AtomicU64,
    pub(super) version: AtomicU32,
    pub(super) slots: AtomicU32,
    _unused: [u64; 5],
    _line_0: u64,
    pub(super) stopping: AtomicU32,
    _line_1: [u32; 15],
    pub(super) exits: [AtomicU64; EXIT_REASONS.len()],
    _line_2: [u64; 5],
    pub(in crate::crew) places: AtomicU32,
    _unused_of_places: u32,
    pub(in crate::crew) service_key: [AtomicU64; 4],
}

/// A slot. The table at the top of this file explains the fields.
#[derive(Default)]
#[repr(C, align(4096))]
pub(in crate::crew) struct WorkerSlot {
    pub(super) state: AtomicU32,
    pub(super) asks: AtomicU32,
    pub(in crate::crew) pid: AtomicU32,
    _unused: u32,
    pub(super) generation: AtomicU64,
    pub(super) requests_before: AtomicU64,
    pub(super) connections_before: AtomicU64,
    pub(in crate::crew) place_holder: AtomicU32,
    _unused_of_place: u32,
    _line_0: [u64; 2],
    pub(in crate::crew) turn: AtomicU64,
    _line_1: [u64; 7],
    pub(in crate::crew) begun: AtomicU64,
    pub(in crate::crew) requests: AtomicU64,
    _line_2: [u64; 6],
    pub(in crate::crew) connections: AtomicU64,
    pub(in crate::crew) open_connections: AtomicU64,
    _line_3: [u64; 6],
    pub(in crate::crew) websockets_begun: AtomicU64,
    pub(in crate::crew) websockets_over: AtomicU64,
    _line_4: [u64; 6],
    pub(in crate::crew) measures: Measures,
    pub(super) interest: ChannelInterest,
}

const _: () = assert!(size_of::<BoardHeader>() <= PAGE_BYTES && size_of::<WorkerSlot>() == SLOT_BYTES);
const _: () = assert!(offset_of!(BoardHeader, stopping) == 64 && offset_of!(BoardHeader, exits) == 128);
const _: () = assert!(offset_of!(BoardHeader, places) == 256 && offset_of!(BoardHeader, service_key) == 264);
const _: () = assert!(offset_of!(WorkerSlot, place_holder) == 40 && offset_of!(WorkerSlot, measures) == 320);
const _: () = assert!(offset_of!(WorkerSlot, interest) == 9312);

impl WorkerSlot {
    /// A slot in memory of this process alone.
    pub(in crate::crew) fn private() -> Box<WorkerSlot> {
        Box::default()
    }
}

/// The size of a scoreboard with this number of slots.
pub(super) fn bytes_of(slots: u32) -> usize {
    PAGE_BYTES + SLOT_BYTES * slots as usize
}
