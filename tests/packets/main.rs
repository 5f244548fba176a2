//! Packet tables: frames through the real programs by BPF_PROG_TEST_RUN, each with the verdict and the counter that the
//! contract asks for. The pod is `shop/subject`; its policies are written as users write them.

mod errors;
mod flows;
mod frame;
#[path = "../kernel_support/mod.rs"]
mod kernel_support;
mod neighbours;
mod node;
mod shape;
mod site;
