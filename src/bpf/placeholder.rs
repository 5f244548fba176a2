//! Links that are made before it is known whose an interface is.
//!
//! Each tcx attachment makes the kernel wait for a grace period (5 to 20 ms), an exchange of its program does not. So what has
//! just appeared gets links whose program lets everything pass, as if nothing were attached, and [`Kernel::attach`] puts
//! the real programs in their place. They are not pinned: with the process, they go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};

use super::attach::hook;
use super::kernel::Kernel;
use super::sys::{self, Hook};
use crate::model::Direction;

/// Makes [`Placeholder`]s, on any thread of the agent's network namespace.
#[derive(Clone, Debug)]
pub struct PlaceholderSource {
    program: Arc<OwnedFd>,
}

/// The links of one interface. Dropped, they are taken off, which makes the kernel wait as well.
#[derive(Debug)]
pub struct Placeholder {
    ifindex: u32,
    /// By direction; `None`: taken.
    links: [Option<OwnedFd>; 2],
}

impl PlaceholderSource {
    /// Waits for the kernel.
    ///
    /// # Errors
    /// The interface is gone, or the kernel refuses.
    pub fn attach(&self, ifindex: u32) -> Result<Placeholder> {
        let link = |direction| {
            sys::tcx_attach(self.program.as_fd(), ifindex, hook(direction))
                .with_context(|| format!("cannot attach ahead of time to interface {ifindex}"))
        };
        let links = [link(Direction::Ingress)?, link(Direction::Egress)?];
        Ok(Placeholder {
            ifindex,
            links: links.map(Some),
        })
    }
}

impl Placeholder {
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

impl Kernel {
    /// `None` where interfaces are attached by clsact filters, for which the kernel waits for nothing.
    ///
    /// # Errors
    /// The kernel refuses a program of two instructions.
    pub fn placeholders(&self) -> Result<Option<PlaceholderSource>> {
        if !self.tcx {
            return Ok(None);
        }
        let program = sys::passing_program().context("cannot load the program of placeholders")?;
        Ok(Some(PlaceholderSource {
            program: Arc::new(program),
        }))
    }

    /// [`Self::attach`] will use it.
    pub fn hold(&mut self, placeholder: Placeholder) {
        self.placeholders.insert(placeholder.ifindex, placeholder);
    }

    /// Takes the interface's placeholder off, if there is one.
    pub fn release(&mut self, ifindex: u32) {
        self.placeholders.remove(&ifindex);
    }

    /// A link that was held for this, with its real program; `None`: there is none, or it was another interface's, of which the
    /// index is used again.
    pub(super) fn redeem(&mut self, ifindex: u32, of: Hook) -> io::Result<Option<OwnedFd>> {
        let direction = super::attach::direction(of);
        let Some(held) = self.placeholders.get_mut(&ifindex) else {
            return Ok(None);
        };
        let link = held.links[direction as usize].take();
        if held.links.iter().all(Option::is_none) {
            self.placeholders.remove(&ifindex);
        }
        let Some(link) = link else { return Ok(None) };
        match sys::link_update(link.as_fd(), self.program(direction)) {
            Ok(()) => Ok(Some(link)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOLINK.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
