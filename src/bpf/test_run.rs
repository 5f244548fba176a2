//! One frame through one program without a wire: BPF_PROG_TEST_RUN, for tests and measurements.
//!
//! What the kernel takes from the context of a tc program (5.10 to 6.18): `mark`, `priority`, `ifindex` (a device of the caller's
//! network namespace; 0 or 1: loopback), `ingress_ifindex` (any number, need not exist; refused by 5.10), `cb`, `tstamp` and the GSO
//! fields. All else must be zero. The frame starts with its Ethernet header, has 14 bytes at least and about 3,500 at most.
//! Maps are the real ones: flows are recorded, packets are counted, events are sent.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::load::PROGRAMS;
use super::{abi, sys};
use crate::model::Direction;

const CONTEXT_SIZE: usize = 192;
// Offsets in struct __sk_buff (UAPI: they never change).
const MARK: usize = 8;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// A frame as it stands at a pod's host-side interface.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// As the pod sees it: egress runs `from_pod`.
    pub direction: Direction,
    /// The pod's host-side interface, in the caller's network namespace.
    pub ifindex: u32,
    /// Where the host received it; 0: the node itself sent it.
    pub ingress_ifindex: u32,
    pub bytes: &'a [u8],
}

/// What a program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ran {
    /// TC_ACT_UNSPEC (-1) lets it pass, TC_ACT_SHOT (2) drops it.
    pub action: i32,
    /// Mean of the repetitions, overhead of the measurement included.
    pub duration: Duration,
}

impl Ran {
    /// Whether it was dropped.
    pub fn dropped(&self) -> bool {
        self.action == 2
    }
}

impl Kernel {
    /// Runs a frame once through the program of its direction that stands at its interface, or would.
    ///
    /// # Errors
    /// The kernel refuses the frame or the interface (see the module), in its words.
    pub fn test_run(&self, frame: Frame<'_>) -> Result<Ran> {
        self.test_run_repeated(frame, 1)
    }

    /// The same frame `repeat` times in a row on one CPU, without leaving the kernel.
    pub fn test_run_repeated(&self, frame: Frame<'_>, repeat: u32) -> Result<Ran> {
        run(self.wanted(frame.ifindex, frame.direction).0, frame, repeat)
    }
}

/// The programs of an instance that another process runs, by their pins: for measurements from outside.
#[derive(Debug)]
pub struct PinnedPrograms([OwnedFd; 2]);

impl PinnedPrograms {
    /// # Errors
    /// No instance of this version has been at `pin_path`.
    pub fn open(pin_path: &Path) -> Result<Self> {
        let folder = pin_path.join(format!("v{}", abi::ABI_VERSION)).join("programs");
        let open = |name: &str| {
            let path = folder.join(name);
            sys::open_pin(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        Ok(Self([open(PROGRAMS[0])?, open(PROGRAMS[1])?]))
    }

    /// As [`Kernel::test_run`].
    ///
    /// # Errors
    /// As there.
    pub fn test_run(&self, frame: Frame<'_>) -> Result<Ran> {
        run(&self.0[frame.direction as usize], frame, 1)
    }
}

/// [`Kernel::test_run_repeated`] for any tc program, such as an empty one to subtract.
pub(super) fn run(program: impl AsFd, frame: Frame<'_>, repeat: u32) -> Result<Ran> {
    let mut context = [0_u8; CONTEXT_SIZE];
    let mut put = |offset: usize, value: u32| {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    };
    put(MARK, 0);
    put(INGRESS_IFINDEX, frame.ingress_ifindex);
    put(IFINDEX, frame.ifindex);
    let ran = sys::test_run(program.as_fd(), frame.bytes, &context, repeat).with_context(|| {
        format!(
            "BPF_PROG_TEST_RUN refused a frame of {} bytes at interface {}",
            frame.bytes.len(),
            frame.ifindex
        )
    })?;
    Ok(Ran {
        action: ran.action,
        duration: Duration::from_nanos(ran.nanoseconds.into()),
    })
}
