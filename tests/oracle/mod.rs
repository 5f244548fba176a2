//! A second opinion on what policies mean, for tests.
//!
//! [`Oracle`] answers from the objects alone, in the most direct words that `docs/semantics.md` can be put into:
//! no index, no compilation, nothing shared with `resolve` or `compile` but the object types of `model`. The rest
//! makes input for it: [`Rng`], [`random_cluster`], [`random_changes`] and [`Prober`], all from one seed; [`Judge`]
//! is whoever is compared with it.

// Each test crate that includes this module uses its own share of it.
#![allow(dead_code, unused_imports)]

mod changes;
mod clusters;
mod judge;
mod objects;
mod probes;
mod rng;
mod show;
mod shrink;
mod verdict;

pub use changes::{apply, random_change};
pub use clusters::random_cluster;
pub use judge::{Eval, Judge, verdict_of};
pub use objects::objects;
pub use probes::{Prober, Question};
pub use rng::Rng;
pub use show::show;
pub use shrink::shrink;
pub use verdict::{Oracle, Probe, Source, Verdict, Verdicts};
