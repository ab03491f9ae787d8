//! The process's limit on open files, and what it keeps of memory.

/// Raises the soft limit on descriptors to the hard one; gives the limit that holds now, where there is one.
///
/// Every connection needs one and every upstream connection another, and the usual soft limit of 1024 is reached early.
#[cfg(unix)]
pub fn raise_descriptor_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "getrlimit fills the structure that it is given and keeps no pointer to it")]
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if read != 0 {
        return None;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "setrlimit reads the structure that it is given and keeps no pointer to it")]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    Some(if set == 0 { limit.rlim_cur } else { before })
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub fn raise_descriptor_limit() -> Option<u64> {
    None
}

/// Has glibc give large blocks back to the system as soon as they are free.
///
/// Left alone it raises the size from which it does so to 32 MiB, and a reload with a million users, which works with blocks of
/// 10 to 30 MiB, would leave 150 MB behind. Other allocators need no such word.
pub fn give_large_blocks_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGE_BYTES: libc::c_int = 1 << 20;
        #[expect(unsafe_code, reason = "mallopt takes two numbers; it is called before there are other threads")]
        // Where it fails, memory is kept as by any other program.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one_and_stays_there() {
        let raised = raise_descriptor_limit().unwrap();
        assert_eq!(raise_descriptor_limit(), Some(raised));
    }
}
