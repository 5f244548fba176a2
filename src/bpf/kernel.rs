//! The kernel's state under one pin path, and its one writer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};

use super::config::{Config, Map};
use super::load::{self, Loaded};
use super::mmap::MappedArray;
use super::pins::Pins;
use super::tables::Maps;
use super::types;
use super::{abi, capability};
use crate::model::Direction;

/// The programs and maps under one pin path. Dropping it changes nothing in the kernel: what is pinned goes on enforcing.
#[derive(Debug)]
pub struct Kernel {
    pub(super) config: Config,
    pub(super) pins: Pins,
    pub(super) maps: Maps,
    pub(super) programs: [OwnedFd; 2],
    pub(super) pods: MappedArray<types::pod_state>,
    pub(super) control: MappedArray<types::control>,
    opened: Opened,
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

impl Kernel {
    /// Loads or adopts what `config` says.
    ///
    /// # Errors
    /// What the machine lacks, with the remedy; or what the kernel refuses, with its words.
    pub fn open(config: &Config) -> Result<Self> {
        let mut notices = capability::check()?;
        let pins = Pins::create(&config.pin_path)?;
        let Loaded {
            maps,
            programs,
            adopted,
            verified,
            notices: more,
        } = load::load(config, &pins)?;
        notices.extend(more);
        let pods = MappedArray::new(maps.fd(Map::PodState), maps.capacity(Map::PodState))
            .context("cannot map pod_state into memory")?;
        let control: MappedArray<types::control> =
            MappedArray::new(maps.fd(Map::Control), 1).context("cannot map control into memory")?;
        let _ = abi::ABI_VERSION;
        Ok(Self {
            config: config.clone(),
            pins,
            maps,
            programs,
            pods,
            control,
            opened: Opened {
                adopted,
                verified,
                notices,
            },
        })
    }

    /// What opening found and did.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    pub(super) fn program(&self, direction: Direction) -> BorrowedFd<'_> {
        self.programs[direction as usize].as_fd()
    }
}
