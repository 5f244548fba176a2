//! Moves an interface from another version's programs to ours, without losing a flow that begins meanwhile.
//!
//! Each version's programs know flows by maps of their own, and a reply to a flow that is not known may be denied. So ours are put
//! beside the other's first: they judge and record, but drop nothing ([`abi::POD_IF_WATCHES`]). From then on a flow that begins is
//! known to both. Then the flows that only the other knows are copied, ours begin to drop, and the other's are taken off. At
//! each moment one of the two judges whole. If the process dies on the way, the other version's go on.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::abi;
use super::attach::{PLACE, detach_filter_at, filter, hook};
use super::config::Map;
use super::kernel::Kernel;
use super::pins::replace_pin;
use super::plain::Plain;
use super::sys::{self, FilterPlace, Hook};
use super::types::pod_if;
use crate::model::Direction;

/// Filters that stand beside those of another version for a while.
pub(super) const BESIDE: FilterPlace = FilterPlace {
    priority: PLACE.priority,
    handle: PLACE.handle + 1,
};

/// A program of ours beside another version's.
enum Beside {
    /// Pinned in its place, it drives the other's link out.
    Link(OwnedFd, PathBuf),
    Filter(Hook),
}

impl Kernel {
    /// Where another version's programs are attached to an interface that is a pod's, ours take it over. Whether they were.
    ///
    /// # Errors
    /// The kernel refuses; the other version's programs stay.
    pub(super) fn take_over(&mut self, ifindex: u32) -> Result<bool> {
        if self.predecessors.is_empty() {
            return Ok(false);
        }
        let mut theirs = Vec::new();
        for direction in Direction::ALL {
            theirs.extend(self.is_theirs(ifindex, direction)?.then_some(direction));
        }
        if theirs.is_empty() {
            return Ok(false);
        }
        self.watch(ifindex, true)?;
        let beside = self.stand_beside(ifindex, &theirs);
        // Whatever came of it: none of ours may stay and watch.
        self.watch(ifindex, false)?;
        for beside in beside? {
            match beside {
                Beside::Link(link, path) => replace_pin(&link, &path)?,
                Beside::Filter(hook) => {
                    let program = self.program(super::attach::direction(hook));
                    sys::filter_attach(ifindex, hook, PLACE, program)
                        .context("cannot replace the BPF filter of another version")?;
                    detach_filter_at(ifindex, hook, BESIDE)?;
                }
            }
        }
        Ok(true)
    }

    /// When it returns, no flow is known to the other version alone.
    fn stand_beside(&self, ifindex: u32, theirs: &[Direction]) -> Result<Vec<Beside>> {
        // Most are known before any packet asks.
        self.carry_flows(ifindex)?;
        let beside = (theirs.iter())
            .map(|direction| self.attach_beside(ifindex, *direction))
            .collect::<Result<_>>()?;
        self.carry_flows(ifindex)?;
        Ok(beside)
    }

    /// Ends what an interrupted hand-over left: from now on our programs drop, where they are attached.
    pub(super) fn end_watches(&self) -> Result<()> {
        let interfaces = self.maps.table::<u32, pod_if>(Map::PodIf).entries()?;
        for (ifindex, interface) in interfaces {
            if interface.flags & abi::POD_IF_WATCHES != 0 {
                self.set_flags(ifindex, interface.slot, 0)?;
            }
        }
        Ok(())
    }

    fn is_theirs(&self, ifindex: u32, direction: Direction) -> Result<bool> {
        let ours = self.program_ids[direction as usize];
        let program = if self.tcx {
            let link = sys::open_pin(&self.pins.link(ifindex, hook(direction))).ok();
            let info = link
                .map(|link| sys::tcx_info(link.as_fd()))
                .transpose()?
                .flatten();
            info.filter(|info| info.ifindex == ifindex && info.hook == Some(hook(direction)))
                .map(|info| info.program)
        } else {
            filter(ifindex, hook(direction))?
        };
        Ok(program.is_some_and(|program| program != ours))
    }

    fn attach_beside(&self, ifindex: u32, direction: Direction) -> Result<Beside> {
        let (hook, program) = (hook(direction), self.program(direction));
        if self.tcx {
            let link = sys::tcx_attach(program, ifindex, hook)
                .with_context(|| format!("cannot attach to interface {ifindex} beside another version"))?;
            return Ok(Beside::Link(link, self.pins.link(ifindex, hook)));
        }
        sys::filter_attach(ifindex, hook, BESIDE, program).with_context(|| {
            format!("cannot add a BPF filter to interface {ifindex} beside another version's")
        })?;
        Ok(Beside::Filter(hook))
    }

    /// Whether our programs only watch on an interface.
    fn watch(&self, ifindex: u32, watches: bool) -> Result<()> {
        let Some(&slot) = self.mirror.interfaces.get(&ifindex) else {
            return Ok(());
        };
        self.set_flags(ifindex, slot, if watches { abi::POD_IF_WATCHES } else { 0 })
    }

    fn set_flags(&self, ifindex: u32, slot: u32, flags: u32) -> Result<()> {
        self.maps
            .get(Map::PodIf)
            .put(ifindex.bytes(), pod_if { slot, flags }.bytes())
            .with_context(|| format!("cannot write map {}", Map::PodIf.name()))
    }
}
