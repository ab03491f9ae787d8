//! The bytes of a file as memory that is shared with the operating system: what is copied there is in the file at once, without a
//! system call, and survives the death of the process as what was written with `write` does.
//!
//! A page of such memory that the disk has no room for ends the process (SIGBUS). So all of it is allotted beforehand, and only on
//! file systems where what is allotted stays so: ext4, XFS and tmpfs write in place; those that copy on write may need room again.
//! Anywhere else there is no map, and the journal writes. Nobody else may shorten the file; the journal's folder belongs to one process.

use std::fs::File;

/// The first bytes of a file.
pub(crate) struct Map {
    #[cfg(target_os = "linux")]
    base: std::ptr::NonNull<u8>,
    size: usize,
}

impl Map {
    /// Allots and maps `size` bytes of a file, which is then that long. `None` where the file system gives no such promise, or has no
    /// room; the file may be longer than it was then.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(file: &File, size: usize) -> Option<Self> {
        if !linux::keeps_what_it_allots(file) || !linux::allot(file, size) {
            return None;
        }
        linux::map(file, size).map(|base| Self { base, size })
    }

    /// There is none here.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(_file: &File, _size: usize) -> Option<Self> {
        None
    }

    /// Puts bytes at a place.
    ///
    /// # Panics
    /// Where they reach beyond its end.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.size), "nothing is put beyond the end");
        #[cfg(target_os = "linux")]
        linux::put(self.base, at, bytes);
    }

    /// Sets so many bytes at a place to zero.
    ///
    /// # Panics
    /// Where they reach beyond its end.
    pub(crate) fn clear(&mut self, at: usize, length: usize) {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.size), "nothing is cleared beyond the end");
        #[cfg(target_os = "linux")]
        linux::clear(self.base, at, length);
    }

    /// Sets the number at a place that is a multiple of eight, little-endian; after everything that was put or set before.
    ///
    /// # Panics
    /// Where it would reach beyond the end.
    pub(crate) fn set(&mut self, at: usize, number: u64) {
        assert!(at.is_multiple_of(8) && at < self.size && self.size - at >= 8, "nothing is set beyond the end");
        #[cfg(target_os = "linux")]
        linux::set(self.base, at, number.to_le());
        #[cfg(not(target_os = "linux"))]
        let _ = number;
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        #[cfg(target_os = "linux")]
        return linux::bytes(self.base, self.size);
        #[cfg(not(target_os = "linux"))]
        &[]
    }
}

#[cfg(target_os = "linux")]
impl Drop for Map {
    fn drop(&mut self) {
        linux::unmap(self.base, self.size);
    }
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the memory is mapped once, written only through `&mut Map` and within its size, and unmapped by its drop"
)]
mod linux {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Map;

    // SAFETY: it is the only one who has the address.
    unsafe impl Send for Map {}

    pub(super) fn keeps_what_it_allots(file: &File) -> bool {
        let mut about = std::mem::MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: fstatfs fills the structure where it answers 0, and keeps no pointer to it.
        let about = unsafe {
            if libc::fstatfs(file.as_raw_fd(), about.as_mut_ptr()) != 0 {
                return false;
            }
            about.assume_init()
        };
        matches!(about.f_type, libc::EXT4_SUPER_MAGIC | libc::XFS_SUPER_MAGIC | libc::TMPFS_MAGIC)
    }

    pub(super) fn allot(file: &File, size: usize) -> bool {
        let Ok(length) = libc::off_t::try_from(size) else { return false };
        // SAFETY: fallocate takes numbers only.
        unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) == 0 }
    }

    pub(super) fn map(file: &File, size: usize) -> Option<NonNull<u8>> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a place for it is left to the system, so nothing that is there is touched; the map outlives the descriptor.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED { None } else { NonNull::new(base.cast()) }
    }

    pub(super) fn put(base: NonNull<u8>, at: usize, bytes: &[u8]) {
        // SAFETY: the caller has checked that the bytes end within the map, which nothing else refers to.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.as_ptr().add(at), bytes.len()) }
    }

    pub(super) fn clear(base: NonNull<u8>, at: usize, length: usize) {
        // SAFETY: the caller has checked that the bytes end within the map, which nothing else refers to.
        unsafe { std::ptr::write_bytes(base.as_ptr().add(at), 0, length) }
    }

    pub(super) fn set(base: NonNull<u8>, at: usize, number: u64) {
        // SAFETY: the caller has checked that the number ends within the map and that its place is a multiple of eight; a map begins
        // with a page.
        unsafe { AtomicU64::from_ptr(base.as_ptr().add(at).cast()) }.store(number, Ordering::Release);
    }

    pub(super) fn bytes<'m>(base: NonNull<u8>, size: usize) -> &'m [u8] {
        // SAFETY: the caller binds them to a borrow of the map, which is as long and is written through `&mut Map` only.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), size) }
    }

    pub(super) fn unmap(base: NonNull<u8>, size: usize) {
        // SAFETY: it is what mmap gave, and it is used no more.
        let _ = unsafe { libc::munmap(base.as_ptr().cast(), size) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_is_put_is_in_the_file_while_it_is_mapped_and_after() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"head").unwrap();
        let Some(mut map) = Map::of(&file, 5000) else { return };
        assert_eq!((map.bytes().len(), file.metadata().unwrap().len()), (5000, 5000));
        map.put(4, b"first");
        map.put(4991, b"and last.");
        let read = |at: u64, length: usize| {
            let mut bytes = vec![0; length];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, at).unwrap();
            bytes
        };
        assert_eq!((read(0, 10), read(4991, 9)), (b"headfirst\0".to_vec(), b"and last.".to_vec()));
        map.set(16, 0x0102);
        assert_eq!((map.bytes()[16], read(16, 8)), (2, vec![2, 1, 0, 0, 0, 0, 0, 0]));
        map.clear(5, 4);
        drop(map);
        assert_eq!((read(0, 10), read(4991, 9)), (b"headf\0\0\0\0\0".to_vec(), b"and last.".to_vec()));
    }

    #[test]
    #[should_panic = "beyond the end"]
    fn nothing_is_put_beyond_the_end() {
        let file = tempfile::tempfile().unwrap();
        let mut map = Map::of(&file, 100).unwrap_or_else(|| panic!("beyond the end"));
        map.put(99, b"xx");
    }
}
