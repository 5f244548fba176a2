//! The kernel side: skeleton, typed maps, pins, attachment and the event ring. The only `unsafe` of the crate.

#[allow(clippy::all, dead_code, unsafe_op_in_unsafe_fn, missing_debug_implementations)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/palisade.skel.rs"));
}

pub use skel::*;
