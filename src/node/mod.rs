//! The node: its links and routes, and the loop that keeps the kernel at what the policies say.

mod agent;
mod links;
mod prepare;
mod scrape;
mod secure;

pub use agent::{Agent, Enforced, Wanted, Why};
pub use links::{Links, Located, Sought, Veth};
pub use scrape::Scrape;
pub use secure::{Secure, Server};
