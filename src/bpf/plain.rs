//! Structs that cross into the kernel byte by byte.

use super::types;

/// # Safety
///
/// Implementors are `repr(C)` or primitive, without padding, and valid for every bit pattern.
pub(super) unsafe trait Plain: Copy + Default {
    fn bytes(&self) -> &[u8] {
        // SAFETY: no padding, so every byte of the value is initialised; the slice borrows self.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// `None` where the length is another.
    fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == size_of::<Self>()).then(|| {
            // SAFETY: the length fits, every bit pattern is valid, and the read does not ask for alignment.
            unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() }
        })
    }
}

macro_rules! plain {
    ($($type:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: fixed-width integers and arrays only, and the fields' sizes add up to $size (abi.h has no implicit padding).
        unsafe impl Plain for $type {}
    )+};
}

plain! {
    u32 = 4,
    u64 = 8,
    types::pod_if = 8,
    types::pod_state = 64,
    types::control = 64,
    types::ip6_key = 16,
    types::net4_key = 8,
    types::net6_key = 20,
    types::source4_key = 12,
    types::source6_key = 24,
    types::row_key = 8,
    types::row = 8,
    types::l4_node = 264,
    types::counter = 16,
    types::ct4_key = 20,
    types::ct6_key = 44,
    types::ct = 20,
    types::event = 72,
    types::event_budget = 16,
    types::note_key = 16,
    types::note = 128,
    types::trace = 264,
    types::trace_filter = 96,
    types::trace_counts = 16,
}
