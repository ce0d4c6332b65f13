//! Guard pages that need no memory mapping of their own.
//!
//! `may` makes the page below a stack inaccessible with mprotect(2). The call splits the stack's mapping in two, and
//! prevents neighbouring stacks from sharing a mapping. Linux 6.13 has guards within a mapping (MADV_GUARD_INSTALL,
//! madvise(2)). A coroutine then takes one mapping less of the number that `vm.max_map_count` allows.
//!
//! A guard within a mapping survives fork(2), madvise(MADV_DONTNEED) and a change of the mapping's protection.

#![expect(unsafe_code, reason = "madvise(2) and mprotect(2) on a stack that another crate has mapped")]

use std::io;
use std::ptr;
use std::sync::OnceLock;

use super::overflow::StackBounds;
use crate::output;

/// Available from Linux 6.13. Neither libc nor rustix defines it yet.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Whether this kernel has guards within a mapping. Tested on a page, since emulators accept every advice and ignore
/// it.
pub fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        let page = rustix::param::page_size();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses. It replaces no other mapping.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), page, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return false;
        }
        let address = start.expose_provenance();
        let works = is_readable(address, page) && install(address, page) && !is_readable(address, page);
        // SAFETY: the mapping made above, whole. Nothing refers to it.
        unsafe { libc::munmap(start, page) };
        works
    })
}

/// Replaces the guard page of the caller's stack of `stack_bytes` by a guard within the stack's mapping. Call it at the
/// start of a coroutine. Changes nothing if the stack does not look as expected.
pub fn lighten(stack_bytes: usize) {
    if !is_supported() {
        return;
    }
    let page = rustix::param::page_size();
    let bottom = StackBounds::of_caller(stack_bytes).top.saturating_sub(stack_bytes);
    let guard = bottom.saturating_sub(page);
    // An unreadable page right below a readable page at the stack's bottom can only be the guard page.
    if !is_readable(bottom, page) || is_readable(guard, page) {
        return;
    }
    // In this order the kernel joins the page to the stack's mapping. A guard installed first would prevent that.
    // SAFETY: the page belongs to the stack's mapping, as checked above, and `may` unmaps that mapping as a whole. The
    // page holds no data, and the stack does not reach it between the calls.
    if unsafe { protect(guard, page, libc::PROT_READ | libc::PROT_WRITE) } && !install(guard, page) {
        // SAFETY: the page is the one above, without data.
        if !unsafe { protect(guard, page, libc::PROT_NONE) } {
            let error = io::Error::last_os_error();
            output::say(&format!("the guard page of a stack cannot be restored ({error}); the process ends"));
            std::process::abort();
        }
    }
}

/// Changes the protection of the page at `address`. Returns false if the kernel refuses.
///
/// # Safety
/// Nothing relies on the former protection of the page.
unsafe fn protect(address: usize, page: usize, access: libc::c_int) -> bool {
    // SAFETY: the caller promises that nothing relies on the former protection.
    unsafe { libc::mprotect(ptr::with_exposed_provenance_mut(address), page, access) == 0 }
}

/// Puts a guard on the page at `address`. Returns false if the kernel refuses.
fn install(address: usize, page: usize) -> bool {
    // SAFETY: the callers pass a page without data: a fresh one, or a stack's guard page.
    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), page, MADV_GUARD_INSTALL) == 0 }
}

/// Whether the page at `address` is mapped and can be read.
fn is_readable(address: usize, page: usize) -> bool {
    // SAFETY: this advice reads the page, as any load would, and changes no content. It fails on an unreadable page.
    unsafe { libc::madvise(ptr::with_exposed_provenance_mut(address), page, libc::MADV_POPULATE_READ) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps two pages in one mapping. Returns the address of the first page.
    fn two_pages() -> usize {
        let bytes = 2 * rustix::param::page_size();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses. It is never unmapped.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), bytes, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        start.expose_provenance()
    }

    #[test]
    fn a_guard_survives_a_change_of_protection_and_the_return_of_memory() {
        if !is_supported() {
            return;
        }
        let (address, page) = (two_pages(), rustix::param::page_size());
        assert!(install(address, page));
        // SAFETY: the pages are this test's own, without data.
        unsafe {
            assert!(protect(address, page, libc::PROT_NONE));
            assert!(protect(address, page, libc::PROT_READ | libc::PROT_WRITE));
            assert_eq!(libc::madvise(ptr::with_exposed_provenance_mut(address), 2 * page, libc::MADV_DONTNEED), 0);
        }
        assert!(!is_readable(address, page));
        assert!(is_readable(address + page, page));
    }

    #[test]
    fn what_is_not_mapped_is_not_readable() {
        assert!(!is_readable(0, rustix::param::page_size()));
    }
}
