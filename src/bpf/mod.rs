//! The kernel side: skeletons, typed maps, attachment, ring reader. The only `unsafe` of the crate.
