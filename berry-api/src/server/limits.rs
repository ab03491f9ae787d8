//! The process's limit on open files.

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

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one_and_stays_there() {
        let raised = raise_descriptor_limit().unwrap();
        assert_eq!(raise_descriptor_limit(), Some(raised));
    }
}
