//! PolicyEndpoints × local pods → [`Image`]: what the maps must hold; the difference of two images; and the same
//! verdict in Rust.
//!
//! In: the endpoints by policy UID, and the live pods of this node. Out: an image whose ids are content hashes, so
//! that equal inputs give equal images in every process; and what of the inputs cannot be enforced as written. An
//! endpoint that no local pod is selected by leaves no trace in the image, and neither do its faults.
//!
//! A direction of a pod that only policies in audit isolate has the rule set that it would have if they were enforced, marked
//! as audited: so a policy leaves audit by one store, since rules and addresses are there already. Where an enforced policy
//! isolates too, those in audit could only allow more, which they must not, and leave no trace.

mod classes;
#[cfg(test)]
mod collisions;
mod diff;
mod eval;
mod ids;
mod image;
mod matchers;
mod names;
mod op;
mod ports;
mod problems;
mod rows;
mod rule_sets;
mod subject;
mod transition;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use diff::diff;
pub use eval::{Decision, eval};
pub use image::*;
use names::{Names, Spaces};
pub use op::Op;
use rule_sets::Applied;

use crate::api::PolicyEndpoint;
use crate::model::{Pod, Problem};

/// By policy UID; the objects of one policy in any order.
pub type Endpoints = BTreeMap<Arc<str>, Vec<Arc<PolicyEndpoint>>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    pub image: Image,
    /// Sorted, without duplicates. What they concern is denied.
    pub problems: Vec<Problem>,
}

/// What this node enforces. `pods`: the live pods of this node, in any order; others are passed over.
pub fn compile(endpoints: &Endpoints, pods: &[&Pod]) -> Compiled {
    compile_within(endpoints, pods, &Spaces::default())
}

fn compile_within(endpoints: &Endpoints, pods: &[&Pod], spaces: &Spaces) -> Compiled {
    let mut pods: Vec<&Pod> = pods.iter().copied().filter(|p| p.is_live()).collect();
    pods.sort_by(|a, b| (&a.uid, &a.id).cmp(&(&b.uid, &b.id)));
    pods.dedup_by(|a, b| a.uid == b.uid);
    let parts = matchers::parts(endpoints);
    let mut report = problems::Report::default();
    let rule_sets = rule_sets::rule_sets(&parts, &pods, &mut report);

    let names = Names::assign(&rule_sets, spaces);
    let classes = classes::classify(names.relevant.iter().map(|&m| &*rule_sets.matchers[m].peers));
    let class_ids = names.classes(&classes, spaces);
    let (rows, l4) = rows::rows(&rule_sets, &names, &classes, &class_ids, spaces);
    let mut image = Image {
        pods: BTreeMap::new(),
        addresses: classes
            .addresses
            .iter()
            .map(|&(ip, class)| (ip, class_ids[class]))
            .collect(),
        networks: classes
            .networks
            .iter()
            .map(|&(cidr, class)| (cidr, class_ids[class]))
            .collect(),
        rows,
        l4,
        rules: names.infos,
    };
    for (pod, sets) in pods.iter().zip(&rule_sets.of_pods) {
        let [ingress, egress] = sets.map(|applied| match applied {
            None => PodDirection::OPEN,
            Some(Applied { set, audited }) => PodDirection {
                psid: names.psids[set],
                denied_by: (!audited).then(|| names.isolations[set]),
                audited_by: audited.then(|| names.audits[set]),
            },
        });
        image.pods.insert(
            pod.uid.clone(),
            PodImage {
                id: pod.id.clone(),
                addresses: pod.addresses.clone(),
                source_prefixes: pod.source_prefixes.clone(),
                log_allowed: pod.log_allowed,
                ingress,
                egress,
            },
        );
    }
    Compiled {
        image,
        problems: report.into_problems(),
    }
}
