//! The node: its links and routes, and the loop that keeps the kernel at what the policies say.

mod links;

pub use links::{Links, Located, Sought, Veth};
