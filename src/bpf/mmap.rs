//! Array maps in our address space: a store there is what a program's next packet reads.

use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::plain::Plain;

/// All elements of a `BPF_F_MMAPABLE` array map whose value is `T`.
#[derive(Debug)]
pub(super) struct MappedArray<T> {
    start: NonNull<u8>,
    bytes: usize,
    length: u32,
    element: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only reached by atomic loads and stores.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Plain> MappedArray<T> {
    /// `length` is the map's `max_entries`.
    pub fn new(map: impl AsFd, length: u32) -> io::Result<Self> {
        // The kernel lays elements out at multiples of 8; ours are such sizes, so indexing is plain.
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = size_of::<T>() * length as usize;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map.as_fd(),
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            start,
            bytes,
            length,
            element: PhantomData,
        })
    }

    /// # Panics
    /// If the index or the offset (a multiple of `width`) is outside.
    fn at(&self, index: u32, offset: usize, width: usize) -> *mut u8 {
        assert!(index < self.length && offset + width <= size_of::<T>() && offset.is_multiple_of(width));
        // SAFETY: within the mapping, by the assertion.
        unsafe { self.start.as_ptr().add(index as usize * size_of::<T>() + offset) }
    }

    fn word(&self, index: u32, offset: usize) -> &AtomicU32 {
        // SAFETY: in the mapping, aligned to 4 (its start is page-aligned, elements are multiples of 8), lives as long as self.
        unsafe { AtomicU32::from_ptr(self.at(index, offset, 4).cast()) }
    }

    fn double(&self, index: u32, offset: usize) -> &AtomicU64 {
        // SAFETY: as for word, aligned to 8.
        unsafe { AtomicU64::from_ptr(self.at(index, offset, 8).cast()) }
    }

    /// One aligned 4-byte store, after everything stored before.
    pub fn store_u32(&self, index: u32, offset: usize, value: u32) {
        self.word(index, offset).store(value, Ordering::Release);
    }

    /// One aligned 8-byte store, after everything stored before.
    pub fn store_u64(&self, index: u32, offset: usize, value: u64) {
        self.double(index, offset).store(value, Ordering::Release);
    }

    /// The element as it is, word by word.
    pub fn get(&self, index: u32) -> T {
        let words: Vec<u8> = (0..size_of::<T>())
            .step_by(8)
            .flat_map(|offset| self.double(index, offset).load(Ordering::Acquire).to_ne_bytes())
            .collect();
        T::read(&words).unwrap_or_default()
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in new, which nothing refers to any more: all references borrow self. It cannot fail
        // for such a range.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
