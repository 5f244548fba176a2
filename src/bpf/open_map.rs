//! One open map of any type, by bytes. The kernel reads and writes as many bytes as the map's sizes say, so every slice is
//! measured against them first.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libbpf_rs::libbpf_sys as raw;

use super::sys::{MapShape, check, map_shape};

#[derive(Debug)]
pub(super) struct OpenMap {
    fd: OwnedFd,
    shape: MapShape,
    key: usize,
    /// Of all CPUs for a per-CPU map.
    value: usize,
}

/// # Panics
/// All methods do if a slice has not the length that the map asks for.
impl OpenMap {
    /// # Errors
    /// It is no map.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let shape = map_shape(fd.as_fd())?;
        let one = shape.value_size as usize;
        let per_cpu = [
            raw::BPF_MAP_TYPE_PERCPU_ARRAY,
            raw::BPF_MAP_TYPE_PERCPU_HASH,
            raw::BPF_MAP_TYPE_LRU_PERCPU_HASH,
        ];
        let value = if per_cpu.contains(&shape.kind) {
            one.next_multiple_of(8) * libbpf_rs::num_possible_cpus().map_err(io::Error::other)?
        } else {
            one
        };
        Ok(Self {
            fd,
            shape,
            key: shape.key_size as usize,
            value,
        })
    }

    pub fn shape(&self) -> MapShape {
        self.shape
    }

    /// Bytes that a value takes here.
    pub fn value_bytes(&self) -> usize {
        self.value
    }

    fn raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// Adds or replaces one element.
    pub fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.update(key, value, raw::BPF_ANY)
    }

    /// Adds one element; `false`: there is one of this key.
    pub fn put_new(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        match self.update(key, value, raw::BPF_NOEXIST) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u32) -> io::Result<()> {
        assert!(key.len() == self.key && value.len() == self.value);
        // SAFETY: both slices have the map's sizes.
        check(unsafe {
            raw::bpf_map_update_elem(
                self.raw(),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                flags.into(),
            )
        })
        .map(drop)
    }

    pub fn delete(&self, key: &[u8]) -> io::Result<()> {
        assert!(key.len() == self.key);
        // SAFETY: the slice has the map's key size.
        check(unsafe { raw::bpf_map_delete_elem(self.raw(), key.as_ptr().cast()) }).map(drop)
    }

    /// `false`: no such key.
    pub fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        assert!(key.len() == self.key && value.len() == self.value);
        // SAFETY: both slices have the map's sizes.
        found(check(unsafe {
            raw::bpf_map_lookup_elem(self.raw(), key.as_ptr().cast(), value.as_mut_ptr().cast())
        }))
    }

    /// The key after `previous`, into `next`; `false` at the end.
    pub fn next_key(&self, previous: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        assert!(previous.is_none_or(|key| key.len() == self.key) && next.len() == self.key);
        let previous = previous.map_or(std::ptr::null(), <[u8]>::as_ptr);
        // SAFETY: previous is null, which is the beginning, or has the map's key size, as next has.
        found(check(unsafe {
            raw::bpf_map_get_next_key(self.raw(), previous.cast(), next.as_mut_ptr().cast())
        }))
    }

    /// Puts elements in one call. On an error some may have been put.
    pub fn put_batch(&self, keys: &[u8], values: &[u8]) -> io::Result<()> {
        let mut count = self.count(keys);
        assert!(values.len() == count as usize * self.value);
        // SAFETY: count keys and values of the map's sizes, and count is not 0.
        check(unsafe {
            raw::bpf_map_update_batch(
                self.raw(),
                keys.as_ptr().cast(),
                values.as_ptr().cast(),
                &mut count,
                &options(),
            )
        })
        .map(drop)
    }

    /// Deletes elements in one call. On an error (also: one was not there) some may have been deleted.
    pub fn delete_batch(&self, keys: &[u8]) -> io::Result<()> {
        let mut count = self.count(keys);
        // SAFETY: count keys of the map's size, and count is not 0.
        check(unsafe { raw::bpf_map_delete_batch(self.raw(), keys.as_ptr().cast(), &mut count, &options()) })
            .map(drop)
    }

    /// Elements that are there, as many as the slices have room for. `position` is where to go on (`None`: the beginning) and
    /// is moved on. Returns how many were read, and whether they were the last.
    pub fn get_batch(
        &self,
        position: &mut Option<Vec<u8>>,
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<(usize, bool)> {
        // What the kernel keeps there is a key or a bucket's number.
        let size = self.key.max(4);
        let mut count = self.count(keys);
        let room = values.len() == count as usize * self.value;
        assert!(room && position.as_ref().is_none_or(|position| position.len() == size));
        let mut next = vec![0_u8; size];
        let start = position.as_mut().map_or(std::ptr::null_mut(), Vec::as_mut_ptr);
        // SAFETY: keys and values have room for count elements of the map's sizes; both positions are as long as the kernel
        // may read and write there.
        let read = found(check(unsafe {
            raw::bpf_map_lookup_batch(
                self.raw(),
                start.cast(),
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                values.as_mut_ptr().cast(),
                &mut count,
                &options(),
            )
        }))?;
        *position = Some(next);
        Ok((count as usize, !read))
    }

    fn count(&self, keys: &[u8]) -> u32 {
        assert!(!keys.is_empty() && keys.len().is_multiple_of(self.key));
        (keys.len() / self.key) as u32
    }
}

impl AsFd for OpenMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// ENOENT is an answer.
fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn options() -> raw::bpf_map_batch_opts {
    raw::bpf_map_batch_opts {
        sz: size_of::<raw::bpf_map_batch_opts>() as _,
        ..Default::default()
    }
}
