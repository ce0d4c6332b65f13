//! Checks whether there is room for one more stack.
//!
//! `may` allocates the stack inside its spawn and panics if the kernel refuses. The room is therefore probed first. A
//! refusal is then an ordinary error, and leaves memory for the existing coroutines.

#![expect(unsafe_code, reason = "rustix has no safe wrapper for mmap(2)")]

use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::guard;

/// Memory mappings of a coroutine: its stack, unless it joins the mapping of a neighbour. The frames of its thread state
/// are on the heap.
const MAPPINGS_PER_COROUTINE: usize = 1;

/// The part of `vm.max_map_count` that is left to the rest of the process (libraries, memory arenas, threads): one in
/// this number.
const MAPPINGS_KEPT: usize = 16;

/// Address space, in bytes, that is left to the rest of the process if it is limited (`RLIMIT_AS`).
const BYTES_KEPT: usize = 16 * 1024 * 1024;

/// OS threads that `may` starts with the first coroutine, and bytes of the stack of each (the default of Rust's std).
const FIRST_THREADS: (usize, usize) = (2, 2 * 1024 * 1024);

/// The number of coroutines that have been spawned and have not ended.
static LIVING: AtomicUsize = AtomicUsize::new(0);

/// Counts a coroutine as living until it is dropped.
pub struct Living(());

impl Living {
    /// Counts one more living coroutine.
    pub fn begin() -> Living {
        LIVING.fetch_add(1, Ordering::Relaxed);
        Living(())
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        LIVING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Checks that a stack of `stack_bytes` can be allocated now.
///
/// # Errors
/// OutOfMemory, whose message names the limit and the remedy.
pub fn check(stack_bytes: usize) -> io::Result<()> {
    let living = LIVING.load(Ordering::Relaxed);
    if let Some(most) = most_coroutines()
        && living >= most
    {
        return Err(refusal(format!(
            "{living} coroutines take up to {} memory mappings each, and vm.max_map_count allows a process \
             {} mappings. Raise the limit: sysctl -w vm.max_map_count={}",
            mappings_per_coroutine(),
            map_count_limit().unwrap_or_default(),
            map_count_limit().unwrap_or_default().saturating_mul(4),
        )));
    }
    probe(stack_bytes + BYTES_KEPT).map_err(|error| {
        refusal(format!(
            "the kernel refuses {stack_bytes} bytes of address space ({error}) in addition to {living} coroutines. \
             Raise the limit of memory (ulimit -v, RLIMIT_AS, vm.overcommit_memory, vm.max_map_count), \
             or lower --stack-size",
        ))
    })
}

/// Like [`check`], for the first coroutine of the process. `may` then also allocates `pooled_stacks` more stacks and
/// starts its threads.
///
/// # Errors
/// As for [`check`].
pub fn check_first(stack_bytes: usize, pooled_stacks: usize) -> io::Result<()> {
    let (threads, thread_bytes) = FIRST_THREADS;
    check(stack_bytes * (pooled_stacks + 1) + threads * thread_bytes)
}

/// Memory mappings of a coroutine on this kernel. Without guards within a mapping, the guard page takes one more.
fn mappings_per_coroutine() -> usize {
    MAPPINGS_PER_COROUTINE + usize::from(!guard::is_supported())
}

/// The number of coroutines for which `vm.max_map_count` leaves room; `None` if the kernel does not report it.
fn most_coroutines() -> Option<usize> {
    static MOST: OnceLock<Option<usize>> = OnceLock::new();
    *MOST.get_or_init(|| {
        let limit = map_count_limit()?;
        let mapped = std::fs::read("/proc/self/maps").ok()?.iter().filter(|&&byte| byte == b'\n').count();
        Some((limit - limit / MAPPINGS_KEPT).saturating_sub(mapped) / mappings_per_coroutine())
    })
}

fn map_count_limit() -> Option<usize> {
    static LIMIT: OnceLock<Option<usize>> = OnceLock::new();
    *LIMIT.get_or_init(|| std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok())
}

/// Maps `bytes` bytes as `may` maps a stack, protects a guard page, and unmaps all.
fn probe(bytes: usize) -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
    // SAFETY: a new mapping at an address that the kernel chooses. It replaces no other mapping.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the first page of the mapping made above. Nothing else refers to it.
    let protected = unsafe { libc::mprotect(start, rustix::param::page_size(), libc::PROT_NONE) };
    let error = io::Error::last_os_error();
    // SAFETY: the mapping made above, whole. Nothing refers to it.
    unsafe { libc::munmap(start, bytes) };
    if protected == 0 { Ok(()) } else { Err(error) }
}

fn refusal(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_an_ordinary_stack() {
        check(8 * 1024 * 1024).unwrap();
    }

    #[test]
    fn a_stack_beyond_the_address_space_is_refused_with_the_cure() {
        let error = check(1 << 60).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("--stack-size"), "{error}");
    }

    #[test]
    fn the_ceiling_leaves_mappings_to_the_rest_of_the_process() {
        let (Some(most), Some(limit)) = (most_coroutines(), map_count_limit()) else { return };
        assert!(most > 0 && most * mappings_per_coroutine() < limit, "{most} of {limit}");
    }
}
