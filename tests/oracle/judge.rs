//! Whoever answers the questions that the oracle answers.

use std::net::IpAddr;

use palisade::compile::{self, Decision, Image};
use palisade::model::Direction;

use super::Verdict;

/// Judges first packets by an image: `eval` in Rust, or the kernel's programs with the image in their maps.
pub trait Judge {
    fn name(&self) -> &'static str;

    /// What is asked from here on is asked of this image.
    fn load(&mut self, image: &Image);

    /// Whether there are questions that it cannot put, and so leaves unanswered.
    fn may_decline(&self) -> bool {
        false
    }

    /// `None`: the pod is unknown, or the question is one that it declines.
    fn verdict(
        &mut self,
        pod_uid: &str,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict>;
}

/// [`compile::eval`].
#[derive(Default)]
pub struct Eval(Image);

impl Judge for Eval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn load(&mut self, image: &Image) {
        self.0 = image.clone();
    }

    fn verdict(
        &mut self,
        pod_uid: &str,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        compile::eval(&self.0, pod_uid, direction, peer, protocol, port).map(verdict_of)
    }
}

/// # Panics
/// On a decision that contradicts itself.
pub fn verdict_of(decision: Decision) -> Verdict {
    match (decision.allowed, decision.audited) {
        (true, false) => Verdict::Allowed,
        (true, true) => Verdict::Audited,
        (false, false) => Verdict::Denied,
        (false, true) => panic!("denied, and passed by an audit: {decision:?}"),
    }
}
