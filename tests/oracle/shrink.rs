//! The least of a cluster that still shows a difference.

use palisade::model::{Peer, Policy, Rule, Snapshot};

type Edit = Box<dyn Fn(&mut Snapshot)>;

/// One direction's rules of a policy.
type RuleList = fn(&mut Policy) -> &mut Option<Vec<Rule>>;

/// Leaves out objects, rules, peers and ports, one after another, as long as `differs` stays true of what is left.
pub fn shrink(cluster: &Snapshot, differs: &mut dyn FnMut(&Snapshot) -> bool) -> Snapshot {
    let mut least = cluster.clone();
    loop {
        let smaller = smaller(&least).find(|candidate| differs(candidate));
        match smaller {
            Some(candidate) => least = candidate,
            None => return least,
        }
    }
}

fn smaller(cluster: &Snapshot) -> impl Iterator<Item = Snapshot> + '_ {
    let without = |edit: Edit| {
        let mut copy = cluster.clone();
        edit(&mut copy);
        copy
    };
    let mut edits: Vec<Edit> = Vec::new();
    for i in 0..cluster.policies.len() {
        edits.push(Box::new(move |c| drop(c.policies.remove(i))));
    }
    for i in 0..cluster.services.len() {
        edits.push(Box::new(move |c| drop(c.services.remove(i))));
    }
    for i in 0..cluster.endpoint_slices.len() {
        edits.push(Box::new(move |c| drop(c.endpoint_slices.remove(i))));
    }
    for i in 0..cluster.pods.len() {
        edits.push(Box::new(move |c| drop(c.pods.remove(i))));
    }
    for i in 0..cluster.namespaces.len() {
        edits.push(Box::new(move |c| drop(c.namespaces.remove(i))));
    }
    for (i, policy) in cluster.policies.iter().enumerate() {
        for leaner in leaner_policies(policy) {
            edits.push(Box::new(move |c| c.policies[i] = leaner.clone()));
        }
    }
    for (i, service) in cluster.services.iter().enumerate() {
        for p in 0..service.ports.len() {
            edits.push(Box::new(move |c| drop(c.services[i].ports.remove(p))));
        }
    }
    for (i, slice) in cluster.endpoint_slices.iter().enumerate() {
        for r in 0..slice.ready.len() {
            edits.push(Box::new(move |c| {
                c.endpoint_slices[i].ready.remove(r);
            }));
        }
        for p in 0..slice.ports.len() {
            edits.push(Box::new(move |c| drop(c.endpoint_slices[i].ports.remove(p))));
        }
    }
    for (i, pod) in cluster.pods.iter().enumerate() {
        for a in 0..pod.addresses.len() {
            edits.push(Box::new(move |c| {
                c.pods[i].addresses.remove(a);
            }));
        }
        for p in 0..pod.ports.len() {
            edits.push(Box::new(move |c| {
                let mut ports = c.pods[i].ports.to_vec();
                ports.remove(p);
                c.pods[i].ports = ports.into();
            }));
        }
    }
    edits.into_iter().map(without)
}

fn leaner_policies(policy: &Policy) -> Vec<Policy> {
    let mut leaner = Vec::new();
    if policy.enforcement.is_some() {
        leaner.push(Policy {
            enforcement: None,
            ..policy.clone()
        });
    }
    let lists: [RuleList; 2] = [|p| &mut p.ingress, |p| &mut p.egress];
    for list in lists {
        let mut copy = policy.clone();
        let Some(rules) = list(&mut copy).take() else {
            continue;
        };
        leaner.push(copy);
        let mut with = |r: usize, rule: Option<Rule>| {
            let mut copy = policy.clone();
            if let Some(rules) = list(&mut copy) {
                match rule {
                    None => drop(rules.remove(r)),
                    Some(rule) => rules[r] = rule,
                }
            }
            leaner.push(copy);
        };
        for (r, rule) in rules.iter().enumerate() {
            with(r, None);
            for changed in leaner_rules(rule) {
                with(r, Some(changed));
            }
        }
    }
    leaner
}

fn leaner_rules(rule: &Rule) -> Vec<Rule> {
    let mut leaner = Vec::new();
    for p in 0..rule.peers.as_ref().map_or(0, Vec::len) {
        let mut copy = rule.clone();
        copy.peers.iter_mut().for_each(|peers| drop(peers.remove(p)));
        leaner.push(copy);
        if let Some(Peer::Block { cidr, except }) = rule.peers.as_ref().map(|peers| &peers[p]) {
            for e in 0..except.len() {
                let mut except = except.clone();
                except.remove(e);
                let mut copy = rule.clone();
                copy.peers.iter_mut().for_each(|peers| {
                    peers[p] = Peer::Block {
                        cidr: *cidr,
                        except: except.clone(),
                    }
                });
                leaner.push(copy);
            }
        }
    }
    for p in 0..rule.ports.as_ref().map_or(0, Vec::len) {
        let mut copy = rule.clone();
        copy.ports.iter_mut().for_each(|ports| drop(ports.remove(p)));
        leaner.push(copy);
    }
    leaner
}
