//! Following packets through the programs, for a while.
//!
//! [`TraceSource::load`] makes the tracing programs: the plain ones' sources, which also tell how they judged, on the same maps.
//! [`Kernel::begin_trace`] puts them in the others' place on the interfaces that are traced, [`Kernel::end_trace`] takes them
//! back; each is an exchange in place, so that every packet is judged by one of the two. Nothing of a trace is pinned but what
//! stands at interfaces, and that the next start exchanges too. They fall silent by themselves after the trace's time.

mod filter;
mod record;

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::attach::interface_name;
use super::config::Config;
use super::inspect::hertz;
use super::kernel::Kernel;
use super::load::{self, KernelLog, Switches};
use super::plain::Plain;
use super::ring::EventReader;
use super::sys;
use super::tables::Maps;
use super::trace_skel::TraceSkelBuilder;
use super::types::trace_counts;
use crate::compile::{RuleInfo, RuleKey};
use crate::model::{Direction, ObjectId};

pub use filter::TraceFilter;
pub use record::{
    Answer, ClassSource, Entry, Exemption, Fragment, Headers, Kind, Lookup, Outcome, PodState, Row, RuleSet,
    Standing, Traced,
};

/// What is to be followed, where, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    pub scope: TraceScope,
    pub filter: TraceFilter,
    /// Records, give or take one a CPU; the programs tell no more.
    pub packets: u32,
    /// From the beginning on; the programs tell nothing later, whoever ends the trace.
    pub time: Duration,
}

/// Whose packets are traced. Interfaces that come to such a pod during the trace are traced as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceScope {
    EveryPod,
    /// By UID.
    Pods(BTreeSet<Arc<str>>),
}

/// Loads tracing programs beside the [`Kernel`] that it is of, on any thread.
#[derive(Clone, Debug)]
pub struct TraceSource {
    config: Config,
    maps: Arc<Maps>,
}

/// The programs of one trace. Clones are of the same; the kernel forgets them with the last, and once they stand nowhere.
#[derive(Clone, Debug)]
pub struct TracePrograms(Arc<Programs>);

#[derive(Debug)]
struct Programs {
    /// By direction.
    programs: [OwnedFd; 2],
    ids: [u32; 2],
    ring: MapHandle,
    filter: MapHandle,
    counts: MapHandle,
}

/// What the programs of a trace saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Packets that they judged, those included that were not asked for.
    pub seen: u64,
    /// Records that found the ring full.
    pub lost: u64,
}

/// The trace that is under way.
#[derive(Debug)]
pub(super) struct Tracing {
    programs: TracePrograms,
    scope: TraceScope,
}

impl TraceSource {
    /// Some 100 ms, most of it in the verifier.
    ///
    /// # Errors
    /// The kernel does not accept the programs: its last words are in the error.
    pub fn load(&self) -> Result<TracePrograms> {
        let log = KernelLog::start();
        let mut place = MaybeUninit::uninit();
        let mut skel = TraceSkelBuilder::default()
            .open(&mut place)
            .map_err(|error| log.explain(error, "the built-in BPF object of traces cannot be opened"))?;
        let constants = skel.maps.rodata_data.as_deref_mut();
        let constants = constants.context("the BPF object of traces has no switches")?;
        let switches = Switches::new(&self.config);
        constants.hz = switches.hz;
        constants.events_per_second = switches.events_per_second;
        constants.frag_timeout = switches.frag_timeout;
        constants.timeouts = switches.timeouts;
        for mut map in skel.open_object_mut().maps_mut() {
            if let Some(known) = load::by_name(&map.name().to_string_lossy()) {
                map.reuse_fd(self.maps.get(known).as_fd())
                    .with_context(|| format!("cannot share map {}", known.name()))?;
            }
        }
        let skel = skel
            .load()
            .map_err(|error| log.explain(error, "the kernel does not accept the tracing programs"))?;
        let programs = [
            skel.progs.to_pod.as_fd().try_clone_to_owned()?,
            skel.progs.from_pod.as_fd().try_clone_to_owned()?,
        ];
        let id = |program: &OwnedFd| sys::program_info(program.as_fd()).map(|info| info.id);
        Ok(TracePrograms(Arc::new(Programs {
            ids: [id(&programs[0])?, id(&programs[1])?],
            programs,
            ring: MapHandle::try_from(&skel.maps.trace_ring)?,
            filter: MapHandle::try_from(&skel.maps.trace_filter)?,
            counts: MapHandle::try_from(&skel.maps.trace_counts)?,
        })))
    }
}

impl TracePrograms {
    /// Reads records on a thread of its own, until it is dropped. `deliver` says whether it took one; it must not block.
    ///
    /// # Errors
    /// No thread.
    pub fn records(&self, mut deliver: impl FnMut(Traced) -> bool + Send + 'static) -> Result<EventReader> {
        let ring = MapHandle::try_from(&self.0.ring).context("cannot open the ring of a trace")?;
        let hertz = hertz();
        EventReader::start("trace", ring, move |bytes| {
            Traced::decode(bytes, hertz).is_some_and(&mut deliver)
        })
    }

    /// So far.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counts(&self) -> Result<TraceCounts> {
        let cpus = self.0.counts.lookup_percpu(0_u32.bytes(), MapFlags::ANY);
        let cpus = cpus
            .context("cannot read what a trace has counted")?
            .unwrap_or_default();
        let cpus = cpus.iter().filter_map(|cpu| trace_counts::read(cpu));
        Ok(cpus.fold(TraceCounts::default(), |sum, cpu| TraceCounts {
            seen: sum.seen + cpu.seen,
            lost: sum.lost + cpu.lost,
        }))
    }
}

impl Kernel {
    /// What makes the programs of a trace.
    pub fn trace_source(&self) -> TraceSource {
        TraceSource {
            config: self.config.clone(),
            maps: self.maps.clone(),
        }
    }

    /// Whether a trace is under way.
    pub fn is_tracing(&self) -> bool {
        self.tracing.is_some()
    }

    /// Begins a trace: from here on, `programs` stand at the interfaces of its scope, and at no other.
    ///
    /// # Errors
    /// Another trace is under way, or another version's programs have still to be replaced, or the kernel refuses; then no
    /// interface is traced.
    pub fn begin_trace(&mut self, programs: &TracePrograms, trace: &Trace) -> Result<()> {
        if self.tracing.is_some() {
            bail!("another trace is under way; there can be one at a time");
        }
        if self.has_predecessor()? {
            bail!("programs of another version are still being replaced; try again in a moment");
        }
        let filter = trace.filter.entry(trace.packets, trace.time);
        programs
            .0
            .filter
            .update(0_u32.bytes(), filter.bytes(), MapFlags::ANY)
            .context("cannot tell the programs what to trace")?;
        self.tracing = Some(Tracing {
            programs: programs.clone(),
            scope: trace.scope.clone(),
        });
        if let Err(error) = self.exchange_programs(|kernel, ifindex| kernel.is_traced(ifindex)) {
            self.end_trace()?;
            return Err(error);
        }
        Ok(())
    }

    /// Puts the plain programs back wherever others stand. Also where no trace is under way, after an error of this: then what
    /// is left is done.
    ///
    /// # Errors
    /// The kernel refuses for an interface that is still there; the others are done.
    pub fn end_trace(&mut self) -> Result<()> {
        self.tracing = None;
        self.exchange_programs(|_, _| true)
    }

    /// Has those programs stand at some interfaces that should.
    fn exchange_programs(&mut self, which: impl Fn(&Self, u32) -> bool) -> Result<()> {
        let mut interfaces: Vec<u32> = self.mirror.interfaces.keys().copied().collect();
        interfaces.retain(|ifindex| which(self, *ifindex));
        let mut result = Ok(());
        for ifindex in interfaces {
            for direction in Direction::ALL {
                match self.attach_program(ifindex, direction) {
                    Err(error) if interface_name(ifindex).is_some() => result = result.and(Err(error)),
                    _ => {}
                }
            }
        }
        result
    }

    fn is_traced(&self, ifindex: u32) -> bool {
        let Some(Tracing { scope, .. }) = &self.tracing else {
            return false;
        };
        let slot = self.mirror.interfaces.get(&ifindex);
        match scope {
            TraceScope::EveryPod => slot.is_some(),
            TraceScope::Pods(uids) => slot.is_some_and(|slot| {
                let slot_of = |uid| self.mirror.slots.get(uid);
                uids.iter().filter_map(slot_of).any(|own| own == slot)
            }),
        }
    }

    /// The program that is to stand at an interface, and its id.
    pub(super) fn wanted(&self, ifindex: u32, direction: Direction) -> (BorrowedFd<'_>, u32) {
        match &self.tracing {
            Some(Tracing { programs, .. }) if self.is_traced(ifindex) => {
                let TracePrograms(programs) = programs;
                let place = direction as usize;
                (programs.programs[place].as_fd(), programs.ids[place])
            }
            _ => (self.program(direction), self.program_ids[direction as usize]),
        }
    }
}

/// What the numbers in a record stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The pod that was judged.
    pub pod: Option<ObjectId>,
    /// What took the packet.
    pub rule: Option<RuleInfo>,
    /// What took the flow's packets before.
    pub flow: Option<RuleInfo>,
    /// By direction: what lets a flow begin.
    pub answers: [Option<RuleInfo>; 2],
    /// By direction: what takes what no rule allows, which names the policies that isolate the pod.
    pub isolation: [Option<RuleInfo>; 2],
}

impl Kernel {
    /// Names what a record has by number. What has changed since the packet was judged may have no name any more.
    pub fn name_trace(&self, traced: &Traced) -> Named {
        let rule = |counter: u32| self.rule_of_counter(counter).cloned();
        let uid = traced.pod.as_ref().and_then(|pod| self.pod_of_slot(pod.slot));
        let pod = uid.and_then(|uid| self.mirror.image.pods.get(uid));
        let isolation = |key: Option<RuleKey>| self.mirror.image.rules.get(&key?).cloned();
        Named {
            pod: pod.map(|pod| pod.id.clone()),
            rule: rule(traced.counter),
            flow: match &traced.lookup {
                Lookup::Found(entry) => rule(entry.counter),
                _ => None,
            },
            answers: [0, 1].map(|place| rule(traced.answers[place].as_ref()?.counter?)),
            isolation: match pod {
                Some(pod) => {
                    [pod.ingress, pod.egress].map(|side| isolation(side.denied_by.or(side.audited_by)))
                }
                None => [None, None],
            },
        }
    }
}

const _: fn() = || {
    fn send<T: Send + Sync>() {}
    send::<TraceSource>();
    send::<TracePrograms>();
};
