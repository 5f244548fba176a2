//! The kernel side: from an [`Image`](crate::compile::Image)'s difference to what the maps hold, and back after a restart.
//! The only `unsafe` of the crate.
//!
//! In: operations on the image, interfaces to attach to. Out: the image that the pinned maps hold, counters, events.
//! [`Kernel`] is the one writer of everything under its pin path; the kernel goes on enforcing when it is dropped.

mod accounts;
mod adopt;
mod apply;
mod attach;
mod capability;
mod clean;
mod config;
mod counters;
mod handover;
mod ids;
mod inspect;
mod judge;
mod kernel;
mod keys;
mod l4;
mod load;
mod mirror;
mod mmap;
mod notes;
mod open_map;
mod pins;
mod placeholder;
mod plain;
mod predecessor;
mod ring;
mod stage;
mod steps;
mod sys;
mod tables;
mod test_run;
mod trace;

pub use accounts::{Account, Verdict};
pub use apply::{Applied, ApplyError, Settled, Settling};
pub use attach::{Attachment, has_interface, interface_name};
pub use clean::{Cleaned, clean};
pub use config::{AttachKind, Config, Map, MapSizes};
pub use counters::{Count, CounterReader, Counters, FlowCounts, MapFill, Reason};
pub use inspect::{FlowState, Hooked, Inspector, MapInfo, ProgramInfo, Tracked};
pub use judge::{Judged, Judgement};
pub use kernel::{Kernel, Opened, Swept};
pub use placeholder::{Placeholder, PlaceholderSource};
pub use ring::{Event, EventReader};
pub use steps::Written;
pub use test_run::{Frame, PinnedPrograms, Ran};
pub use trace::{
    Answer, ClassSource, Entry, Exemption, Fragment, Headers, Kind, Lookup, Named, Outcome, PodState, Row,
    RuleSet, Standing, Trace, TraceCounts, TraceFilter, TracePrograms, TraceScope, TraceSource, Traced,
};

#[allow(clippy::all, dead_code, unsafe_op_in_unsafe_fn, missing_debug_implementations)]
mod skel {
    include!(concat!(env!("OUT_DIR"), "/palisade.skel.rs"));
}

/// The programs that a trace puts in their place.
#[allow(clippy::all, dead_code, unsafe_op_in_unsafe_fn, missing_debug_implementations)]
mod trace_skel {
    include!(concat!(env!("OUT_DIR"), "/trace.skel.rs"));
}

/// The constants of `bpf/abi.h`.
#[allow(dead_code)]
mod abi {
    include!(concat!(env!("OUT_DIR"), "/abi.rs"));
}

/// The structs of `bpf/abi.h`, as the object's BTF gives them.
mod types {
    pub use super::skel::types::*;
    pub use super::trace_skel::types::{trace, trace_answer, trace_counts, trace_filter, trace_headers};
}
