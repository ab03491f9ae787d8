//! The allocator: jemalloc on Linux, elsewhere the system's.
//!
//! Half the instructions of glibc's, and less memory for an open stream. It keeps little of what is free: blocks of a MiB and more, such
//! as a reload of a million users leaves, go back to the system at once, all else after a fifth of a second, also while nothing happens.

#[cfg(target_os = "linux")]
use std::ptr::null_mut;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Settings, as jemalloc's manual describes them under `TUNING`. A free extent may serve blocks of a fraction of its size: the pieces of
/// a large body use what is left of the last one. As many arenas as cores, and small caches of threads, keep an idle process small.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "jemalloc reads its settings from the symbol of this name before `main`; nobody else has one"
)]
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: &[u8; 148] =
    b"oversize_threshold:1048576,lg_extent_max_active_fit:16,dirty_decay_ms:200,muzzy_decay_ms:0,\
      narenas_ratio:1,tcache_max:8192,max_background_threads:1\0";

/// Has the allocator give back what is free. To be called first of all.
///
/// The arena of large blocks gives back at once if it is made while there is no thread that does so later, and stays that way. Where
/// there can be no such thread, the rest is given back by and by.
#[cfg(target_os = "linux")]
pub(crate) fn settle() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    let mut on = true;
    #[expect(unsafe_code, reason = "mallctl reads the bool that it is given, of that size, and keeps no pointer to it")]
    // SAFETY: the name ends with a zero, and this value is a bool, as jemalloc's manual says.
    let _ = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"background_thread".as_ptr(),
            null_mut(),
            null_mut(),
            (&raw mut on).cast(),
            size_of_val(&on),
        )
    };
}

/// Other allocators need no word.
#[cfg(not(target_os = "linux"))]
pub(crate) fn settle() {}
