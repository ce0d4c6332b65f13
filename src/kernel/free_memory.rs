//! Free memory of the heap.

#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "rustix has no wrapper for the allocator of the C library")
)]

/// Returns the free memory of the heap to the kernel. It takes about 1 ms, and 25 ms for 300 MB.
///
/// glibc keeps everything below the highest block in use: 300 MB after 5,000 requests with bodies. Other C libraries
/// return memory by themselves.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the allocator's own locks, and changes no block in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
