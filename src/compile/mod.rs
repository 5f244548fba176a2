//! PolicyEndpoints × local pods → [`Image`]: what the maps must hold; the difference of two images; and the same
//! verdict in Rust.

mod image;

pub use image::*;
