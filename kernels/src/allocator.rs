//! How long the allocator keeps memory that was freed.

use std::ffi::{c_int, c_long};

/// `mi_option_purge_delay` of mimalloc's `mi_option_e`.
const PURGE_DELAY: c_int = 15;
const _: () = assert!(PURGE_DELAY < libmimalloc_sys::_mi_option_last);

/// Makes mimalloc keep freed memory for a minute before it goes back to the system, unless
/// `MIMALLOC_PURGE_DELAY` says otherwise. In a program that has another allocator this changes nothing.
///
/// Every training step frees what it allocated and allocates it anew. At the usual delay of one second, less than a
/// step of a larger model takes, much of it has gone back to the system by then and must be cleared page by page again.
pub fn keep_freed_memory() {
    const MILLISECONDS: c_long = 60_000;
    // SAFETY: sets one number in mimalloc's table of options, and the index lies inside it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, MILLISECONDS) };
}
