//! The kernel's state under one pin path, and its one writer.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::apply::ApplyError;
use super::config::{Config, Map};
use super::load::{self, Loaded};
use super::mirror::Mirror;
use super::mmap::MappedArray;
use super::notes::NoteKey;
use super::pins::Pins;
use super::placeholder::Placeholder;
use super::predecessor::Predecessor;
use super::steps::Written;
use super::tables::Maps;
use super::{abi, attach, capability, clean, sys, types};
use crate::compile::{Image, RuleInfo};
use crate::model::Direction;

/// The programs and maps under one pin path. Dropping it changes nothing in the kernel: what is pinned goes on enforcing.
#[derive(Debug)]
pub struct Kernel {
    pub(super) config: Config,
    pub(super) pins: Pins,
    pub(super) maps: Arc<Maps>,
    /// By direction.
    pub(super) programs: [OwnedFd; 2],
    pub(super) program_ids: [u32; 2],
    pub(super) pods: MappedArray<types::pod_state>,
    pub(super) control: MappedArray<types::control>,
    pub(super) mirror: Mirror,
    pub(super) tcx: bool,
    /// Whose programs may still be on interfaces, until [`Self::sweep`].
    pub(super) predecessors: Vec<Predecessor>,
    /// By interface.
    pub(super) placeholders: BTreeMap<u32, Placeholder>,
    pub(super) opened: Opened,
    /// How many changes there have been.
    pub(super) changes: u64,
}

/// What opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The maps were there, with what an earlier process wrote.
    pub adopted: bool,
    /// Programs were loaded anew; otherwise the pinned ones are in use.
    pub verified: bool,
    /// What an operator should know.
    pub notices: Vec<String>,
}

/// What [`Kernel::sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Entries of maps that were part of no whole.
    pub entries: u64,
    /// Folders of other ABI versions.
    pub versions: u64,
}

impl Kernel {
    /// Loads or adopts what `config` says, and moves what is attached already to these programs. Neither deletes nor
    /// loosens anything that is in force.
    ///
    /// # Errors
    /// What the machine lacks, with the remedy; or what the kernel refuses, with its words.
    pub fn open(config: &Config) -> Result<Self> {
        let mut notices = capability::check()?;
        let pins = Pins::create(&config.pin_path, config.abi_version)?;
        let Loaded {
            maps,
            programs,
            adopted,
            verified,
            notices: more,
        } = load::load(config, &pins)?;
        notices.extend(more);
        let pods = MappedArray::new(maps.get(Map::PodState), maps.capacity(Map::PodState))
            .context("cannot map pod_state into memory")?;
        let control: MappedArray<types::control> =
            MappedArray::new(maps.get(Map::Control), 1).context("cannot map control into memory")?;
        let version = control.get(0).abi_version;
        if version != 0 && version != config.abi_version {
            bail!(
                "the maps under {} say they are of ABI {version}, not {}; palisade clean removes them",
                config.pin_path.display(),
                config.abi_version
            );
        }
        let predecessors = Predecessor::all(&pins)?;
        let mirror = Mirror::read(&maps, &pods)?;
        let id = |program: &OwnedFd| sys::program_info(program.as_fd()).map(|info| info.id);
        let program_ids = [id(&programs[0])?, id(&programs[1])?];
        let tcx = attach::uses_tcx(config.attach, &programs[0])?;
        let mut kernel = Self {
            config: config.clone(),
            pins,
            maps: Arc::new(maps),
            programs,
            program_ids,
            pods,
            control,
            mirror,
            tcx,
            predecessors,
            placeholders: BTreeMap::new(),
            opened: Opened {
                adopted,
                verified,
                notices,
            },
            changes: 0,
        };
        kernel.set_control();
        kernel.adopt_attachments()?;
        Ok(kernel)
    }

    fn set_control(&self) {
        let now = self.control.get(0);
        for (offset, old, new) in [
            (
                std::mem::offset_of!(types::control, abi_version),
                now.abi_version,
                self.config.abi_version,
            ),
            (
                std::mem::offset_of!(types::control, flows_version),
                now.flows_version,
                abi::FLOWS_VERSION,
            ),
            (
                std::mem::offset_of!(types::control, log_allowed),
                now.log_allowed,
                self.config.log_allowed.into(),
            ),
        ] {
            if old != new {
                self.control.store_u32(0, offset, new);
            }
        }
    }

    /// What opening found and did.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Whether interfaces are attached by tcx links; otherwise by clsact filters.
    pub fn uses_tcx(&self) -> bool {
        self.tcx
    }

    /// What is in force: after opening, as read back from the maps. A pod that cannot be read whole is there as unknown.
    pub fn image(&self) -> &Image {
        &self.mirror.image
    }

    /// UID of the pod that an event's slot stands for.
    pub fn pod_of_slot(&self, slot: u32) -> Option<&Arc<str>> {
        self.mirror
            .slots
            .iter()
            .find(|(_, owner)| **owner == slot)
            .map(|(uid, _)| uid)
    }

    /// The rule or isolation that an event's counters index stands for.
    pub fn rule_of_counter(&self, counter: u32) -> Option<&RuleInfo> {
        let (key, _) = self.mirror.rules.iter().find(|(_, index)| **index == counter)?;
        self.mirror.image.rules.get(key)
    }

    /// Whether another version's maps are there too: until [`Self::sweep`], its programs may judge by those.
    ///
    /// # Errors
    /// The pin path cannot be listed.
    pub fn has_predecessor(&self) -> Result<bool> {
        Ok(!self.pins.other_versions()?.is_empty())
    }

    /// Removes what earlier processes left and no image refers to: halves of what a crash interrupted, maps of other ABI
    /// versions. To be called once what is wanted has been applied and every pod is attached; until then such leavings
    /// may be what is in force.
    ///
    /// # Errors
    /// The kernel refuses; what is removed by then is gone.
    pub fn sweep(&mut self) -> Result<Swept> {
        let Written { map_writes, .. } = self.sweep_maps()?;
        self.forget_gone()?;
        let mut swept = Swept {
            entries: map_writes,
            versions: 0,
        };
        self.predecessors.clear();
        for version in self.pins.other_versions()? {
            clean::remove_version(&version, &mut clean::Cleaned::default())?;
            swept.versions += 1;
        }
        Ok(swept)
    }

    fn sweep_maps(&mut self) -> Result<Written, ApplyError> {
        self.change(|stage| {
            for (map, key) in std::mem::take(&mut stage.mirror.strays) {
                stage.delete(map, &key);
            }
            let image = &stage.mirror.image;
            let unnamed: Vec<_> = stage
                .mirror
                .rules
                .keys()
                .filter(|key| !image.rules.contains_key(key))
                .copied()
                .collect();
            let ownerless: Vec<_> = stage
                .mirror
                .slots
                .iter()
                .filter(|(uid, slot)| {
                    !image.pods.contains_key(*uid)
                        && !stage.mirror.interfaces.values().any(|owner| owner == *slot)
                })
                .map(|(uid, _)| uid.clone())
                .collect();
            unnamed.into_iter().for_each(|key| stage.remove_rule(key));
            ownerless.iter().for_each(|uid| stage.remove_pod(uid));
            debug_assert!(stage.mirror.notes.contains_key(&NoteKey::Programs));
            Ok(())
        })
    }

    pub(super) fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        self.programs[direction as usize].as_fd()
    }
}

const _: fn() = || {
    // Whoever owns it may work on any thread.
    fn send<T: Send>() {}
    send::<Kernel>();
};
