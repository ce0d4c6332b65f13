//! The memory of the scoreboard: a memfd, mapped into each process that uses it.
//!
//! The first process makes the memfd and seals its size. Another process takes the descriptor over, after a check of the
//! file. References into the mapping borrow the [`Scoreboard`], which unmaps the memory when it is dropped.

#![expect(unsafe_code, reason = "mmap(2), and the fields of memory that other processes write")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::{Errno, fcntl_dupfd_cloexec, pread};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{BoardHeader, MAGIC, MOST_SLOTS, PAGE_BYTES, SLOT_BYTES, VERSION, WorkerSlot, bytes_of};

/// The seals of the memfd: its size stays.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

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

    pub(in crate::crew) fn header(&self) -> &BoardHeader {
        // SAFETY: `map` made the pointer; the memory stays mapped while `self` lives, and its size is sealed.
        unsafe { self.header.as_ref() }
    }

    pub(in crate::crew) fn slot(&self, index: u32) -> Option<&WorkerSlot> {
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
