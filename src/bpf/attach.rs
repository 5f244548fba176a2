//! Which interface is whose, and the programs on it.
//!
//! The pod's state and its interface are in the maps before the first program is attached: no packet is judged before it is
//! known by whose policy. `to_pod` goes on the host side's egress, `from_pod` on its ingress; the kernel does not care, so the
//! direction is settled in one place here.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketType, socket};

use super::config::{AttachKind, Map};
use super::kernel::Kernel;
use super::load::PROGRAMS;
use super::notes::{self, NoteKey, PodNote};
use super::pins::replace_pin;
use super::stage::Stage;
use super::steps::{PodWords, Step, Written};
use super::sys::{self, FilterPlace, Hook};
use super::types::pod_if;
use super::{abi, capability, handover};
use crate::model::Direction;

/// Filters of ours: ahead of all others, and told apart by this handle and the program's name.
pub(super) const PLACE: FilterPlace = FilterPlace {
    priority: 1,
    handle: 0x7061_6c69,
};

/// Where a pod's interface stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Host-side interface.
    pub ifindex: u32,
    /// UID of its pod.
    pub uid: Arc<str>,
}

pub(super) fn hook(direction: Direction) -> Hook {
    match direction {
        Direction::Ingress => Hook::Egress,
        Direction::Egress => Hook::Ingress,
    }
}

pub(super) fn direction(hook: Hook) -> Direction {
    match hook {
        Hook::Egress => Direction::Ingress,
        Hook::Ingress => Direction::Egress,
    }
}

/// How this kernel attaches.
///
/// # Errors
/// tcx is asked for and not there.
pub(super) fn uses_tcx(kind: AttachKind, program: impl AsFd) -> Result<bool> {
    // On an interface that cannot exist, a kernel with tcx misses the interface, one without misunderstands the call.
    let there = || match sys::tcx_attach(program.as_fd(), i32::MAX as u32, Hook::Ingress) {
        Err(error) => error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()),
        Ok(_) => false,
    };
    match kind {
        AttachKind::Clsact => Ok(false),
        AttachKind::Auto => Ok(capability::expects_tcx() && there()),
        AttachKind::Tcx if there() => Ok(true),
        AttachKind::Tcx => bail!(
            "this kernel has no tcx (6.6 and later have); attach by clsact, or leave the choice to palisade"
        ),
    }
}

impl Kernel {
    /// Puts an interface under a pod's policy: state, owner, then `to_pod` and `from_pod`. A pod that the image does not have
    /// yet is denied everything but what the node sends. What is in place already is not touched.
    ///
    /// # Errors
    /// No such interface in the caller's network namespace, or the kernel refuses; what is done by then stays.
    pub fn attach(&mut self, uid: &Arc<str>, ifindex: u32) -> Result<Written> {
        if interface_name(ifindex).is_none() {
            bail!("there is no interface {ifindex}");
        }
        let written = self.change(|stage| {
            let known = stage.mirror.slots.contains_key(uid);
            let slot = stage.slot(uid);
            if !known {
                let note = PodNote {
                    uid: uid.clone(),
                    namespace: "".into(),
                    name: "".into(),
                    addresses: Vec::new(),
                    sources: Vec::new(),
                    published: false,
                };
                stage.note(NoteKey::Pod(slot), &notes::text(&note));
                stage.steps.push(Step::Pod(slot, PodWords::unknown()));
            }
            let before = stage.mirror.interfaces.insert(ifindex, slot);
            if before != Some(slot) {
                stage
                    .mirror
                    .strays
                    .remove(&(Map::PodIf, ifindex.to_ne_bytes().to_vec()));
                stage.see(Map::PodIf);
                stage.steps.push(Step::Interface { slot, ifindex });
                stage.steps.put(Map::PodIf, &ifindex, &pod_if { slot, flags: 0 });
                before.into_iter().for_each(|slot| stage.lost_interface(slot));
            }
            Ok(())
        })?;
        let carried = self.take_over(ifindex)?;
        if !carried {
            // Before, so that none of them is missed; and again, for those that began meanwhile.
            self.carry_flows(ifindex)?;
        }
        for direction in Direction::ALL {
            self.attach_program(ifindex, direction)?;
        }
        if !carried {
            self.carry_flows(ifindex)?;
        }
        Ok(written)
    }

    /// Takes the programs off an interface and forgets whose it was. The pod keeps its state until it is removed from the
    /// image; one that the image never had is forgotten. Nothing happens where nothing is attached.
    ///
    /// # Errors
    /// The kernel refuses; calling again goes on where it stopped.
    pub fn detach(&mut self, ifindex: u32) -> Result<Written> {
        for direction in Direction::ALL {
            detach_link(&self.pins.link(ifindex, hook(direction)))?;
            detach_filter(ifindex, hook(direction))?;
        }
        let written = self.change(|stage| {
            let Some(slot) = stage.mirror.interfaces.remove(&ifindex) else {
                return Ok(());
            };
            stage.steps.delete(Map::PodIf, &ifindex.to_ne_bytes());
            stage.lost_interface(slot);
            Ok(())
        })?;
        Ok(written)
    }

    /// Every interface that has an owner, in order.
    pub fn attachments(&self) -> Vec<Attachment> {
        let owners: std::collections::HashMap<u32, &Arc<str>> =
            self.mirror.slots.iter().map(|(uid, slot)| (*slot, uid)).collect();
        self.mirror
            .interfaces
            .iter()
            .filter_map(|(&ifindex, slot)| {
                let uid = Arc::clone(owners.get(slot)?);
                Some(Attachment { ifindex, uid })
            })
            .collect()
    }

    pub(super) fn attach_program(&mut self, ifindex: u32, direction: Direction) -> Result<()> {
        let attached = if self.tcx {
            self.attach_tcx(ifindex, hook(direction))
        } else {
            self.attach_clsact(ifindex, hook(direction))
        };
        attached.with_context(|| {
            format!(
                "cannot attach {} to interface {} ({ifindex})",
                PROGRAMS[direction as usize],
                interface_name(ifindex).unwrap_or_default()
            )
        })
    }

    fn attach_tcx(&mut self, ifindex: u32, hook: Hook) -> Result<()> {
        let path = self.pins.link(ifindex, hook);
        match sys::open_pin(&path) {
            Ok(link) => {
                let info = sys::tcx_info(link.as_fd())?;
                match info {
                    Some(info) if info.ifindex == ifindex && info.hook == Some(hook) => {
                        let (program, wanted) = self.wanted(ifindex, direction(hook));
                        if info.program != wanted {
                            sys::link_update(link.as_fd(), program)?;
                        }
                        return Ok(());
                    }
                    // Of an interface that is gone; the index is another's now.
                    _ => std::fs::remove_file(&path)?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let link = match self.redeem(ifindex, hook)? {
            Some(link) => link,
            None => sys::tcx_attach(self.wanted(ifindex, direction(hook)).0, ifindex, hook)?,
        };
        replace_pin(&link, &path)?;
        // One that an earlier run left with the other kind would judge, and count, everything twice.
        detach_filter(ifindex, hook)?;
        Ok(())
    }

    fn attach_clsact(&self, ifindex: u32, hook: Hook) -> Result<()> {
        let (program, wanted) = self.wanted(ifindex, direction(hook));
        if filter(ifindex, hook)?.is_none_or(|id| id != wanted) {
            sys::clsact_create(ifindex)
                .context("cannot add a clsact qdisc (is sch_ingress there? modprobe sch_ingress)")?;
            sys::filter_attach(ifindex, hook, PLACE, program)
                .context("cannot add a BPF filter (is cls_bpf there? modprobe cls_bpf)")?;
        }
        detach_link(&self.pins.link(ifindex, hook))
    }

    /// Forgets interfaces that are gone, with their links. Whoever watches interfaces calls this when one goes.
    ///
    /// # Errors
    /// The kernel refuses; calling again goes on where it stopped.
    pub fn forget_gone(&mut self) -> Result<Vec<u32>> {
        let mut gone: Vec<u32> = self.mirror.interfaces.keys().copied().collect();
        gone.retain(|ifindex| interface_name(*ifindex).is_none());
        for ifindex in &gone {
            self.detach(*ifindex)?;
        }
        for (_, _, path) in self.pins.pinned_links()? {
            let link = sys::open_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
            if sys::tcx_info(link.as_fd())?.is_none_or(|info| info.ifindex == 0) {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(gone)
    }

    /// Moves what an earlier process attached to this one's programs.
    pub(super) fn adopt_attachments(&mut self) -> Result<()> {
        self.forget_gone()?;
        self.end_watches()?;
        if !self.opened.adopted || self.has_predecessor()? {
            // Those programs judge by other maps, that are full while these are empty: attach moves one after the other.
            return Ok(());
        }
        for (_, hook, path) in self.pins.pinned_links()? {
            let link = sys::open_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
            let program = sys::tcx_info(link.as_fd())?.map(|info| info.program);
            if program != Some(self.program_ids[direction(hook) as usize]) {
                sys::link_update(link.as_fd(), self.program(direction(hook)))
                    .with_context(|| format!("cannot renew the program of {}", path.display()))?;
            }
        }
        for &ifindex in self.mirror.interfaces.keys() {
            for hook in [Hook::Ingress, Hook::Egress] {
                let wanted = self.program_ids[direction(hook) as usize];
                if filter(ifindex, hook)?.is_some_and(|id| id != wanted) {
                    sys::filter_attach(ifindex, hook, PLACE, self.program(direction(hook)))
                        .with_context(|| format!("cannot renew the filter of interface {ifindex}"))?;
                }
            }
        }
        Ok(())
    }
}

impl Stage<'_> {
    /// After an interface of this slot is gone: another one of the pod takes its place; a pod that has none and that the image
    /// never had is forgotten.
    fn lost_interface(&mut self, slot: u32) {
        let other = self.mirror.interfaces.iter().find(|(_, owner)| **owner == slot);
        let ifindex = other.map_or(0, |(ifindex, _)| *ifindex);
        self.steps.push(Step::Interface { slot, ifindex });
        let uid = self.mirror.slots.iter().find(|(_, owner)| **owner == slot);
        let uid = uid.map(|(uid, _)| uid.clone());
        if let Some(uid) = uid.filter(|uid| ifindex == 0 && !self.mirror.image.pods.contains_key(uid)) {
            self.remove_pod(&uid);
        }
    }
}

/// Detaches a pinned link, whoever holds it, and removes the pin.
pub(super) fn detach_link(path: &std::path::Path) -> Result<()> {
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    match sys::link_detach(link.as_fd()) {
        // ENOLINK: its interface is gone already.
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::NOLINK.raw_os_error()) => {
            Err(error).with_context(|| format!("cannot detach {}", path.display()))
        }
        _ => std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Id of our program in a filter of ours; `None` where there is none, or somebody else's has the place.
pub(super) fn filter(ifindex: u32, hook: Hook) -> Result<Option<u32>> {
    filter_at(ifindex, hook, PLACE)
}

pub(super) fn filter_at(ifindex: u32, hook: Hook, place: FilterPlace) -> Result<Option<u32>> {
    // No such filter, no clsact qdisc, no interface: no filter of ours in any case.
    let Ok(id) = sys::filter_program(ifindex, hook, place) else {
        return Ok(None);
    };
    let Ok(program) = sys::program_by_id(id) else {
        return Ok(None);
    };
    let info = sys::program_info(program.as_fd())?;
    Ok(info.is_named(PROGRAMS[direction(hook) as usize]).then_some(id))
}

/// Removes a filter if it is ours. The clsact qdisc stays: others may use it, and empty it costs nothing.
pub(super) fn detach_filter(ifindex: u32, hook: Hook) -> Result<bool> {
    // One beside it is left where a hand-over was interrupted.
    let beside = detach_filter_at(ifindex, hook, handover::BESIDE)?;
    Ok(detach_filter_at(ifindex, hook, PLACE)? || beside)
}

pub(super) fn detach_filter_at(ifindex: u32, hook: Hook, place: FilterPlace) -> Result<bool> {
    if filter_at(ifindex, hook, place)?.is_none() {
        return Ok(false);
    }
    match sys::filter_detach(ifindex, hook, place) {
        // It went with its interface meanwhile.
        Err(_) if interface_name(ifindex).is_none() => Ok(false),
        removed => removed
            .map(|_| true)
            .with_context(|| format!("cannot remove the filter of interface {ifindex}")),
    }
}

/// Whether the caller's network namespace has this interface.
pub fn has_interface(ifindex: u32) -> bool {
    interface_name(ifindex).is_some()
}

/// Name of an interface of the caller's network namespace.
pub fn interface_name(ifindex: u32) -> Option<String> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    index_to_name(socket, ifindex).ok()
}

/// Indices of all interfaces of the caller's network namespace.
pub(super) fn all_interfaces() -> Result<Vec<u32>> {
    // Of the thread, since namespaces are a thread's.
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").context("cannot list interfaces")?;
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(table
        .lines()
        .filter_map(|line| name_to_index(&socket, line.split_once(':')?.0.trim()).ok())
        .collect())
}

const _: () = assert!(abi::INGRESS == Direction::Ingress as u32 && abi::EGRESS == Direction::Egress as u32);
