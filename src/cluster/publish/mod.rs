//! Wanted PolicyEndpoints → the API server.
//!
//! Writes are server-side apply under one field manager, and name the version that they replace: whoever acts on an old view of
//! an object is refused, so that two leaders do no harm. What another leader wrote, and is what is wanted, is left as it is.

mod endpoint;
mod plan;
mod problems;
mod write;

pub use endpoint::Endpoint;
pub use plan::Plan;
pub use problems::{Herald, Told};
pub use write::Writer;
