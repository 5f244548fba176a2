//! The chained CNI plugin: a pod's interface is secured before its first process runs.
//!
//! The container runtime calls the node's CNI plugins in the order of a file, the conflist, and Palisade's own last
//! ([`plugin`]): it asks the agent over a unix socket ([`protocol`]) to attach to the pod's interface, and passes the result of
//! the plugins before it through. [`install`] puts the plugin and its entry in the conflist there, and keeps them there.

pub mod install;
pub mod plugin;
pub mod protocol;

/// The plugin's type in the conflist, which is the name of its binary.
pub const TYPE: &str = "palisade";

/// What becomes of a pod whose interface cannot be secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does not start; kubelet tries again.
    Strict,
    /// It starts, and is open until the agent finds it by its address.
    Standard,
}

impl Mode {
    /// As in the conflist.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Standard => "standard",
        }
    }
}
