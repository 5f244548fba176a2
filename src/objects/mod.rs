//! A Kubernetes object as a tree of JSON → the [model](crate::model)'s object, and what is wrong with it.
//!
//! One set of rules for whatever holds the objects, a folder or an API server: what cannot be read is reported by field and
//! value, and never makes a policy wider than it was written.

pub mod enforcement;
mod fields;
pub mod names;
mod object;
pub mod pod;
pub mod policy;
pub mod schema;
pub mod selector;
pub mod service;
pub mod text;

pub use fields::{Bad, Fields, Path, Reader};
pub use object::{Identity, Key, Kind, Object, created, read};
