//! Who can be at an end of a packet, gathered so that of all in a group the same verdicts hold, before and after.
//!
//! Pods agree where their rule sets and the classes of their addresses do. Of all other addresses, those that policies name, those
//! of Services, and the rest of each block are told apart; between them they are all addresses that there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::End;
use super::table::{Classes, Sets, Tables};
use crate::cli::Family;
use crate::cli::cluster::Cluster;
use crate::cli::example::example;
use crate::model::{Cidr, Direction, Pod};

pub(super) struct Ends<'a> {
    pub pods: Vec<Vec<Member<'a>>>,
    pub elsewhere: Vec<Elsewhere>,
}

/// A pod at some of its addresses: at most one of each family.
pub(super) struct Member<'a> {
    pub pod: &'a Pod,
    pub addresses: Vec<IpAddr>,
}

/// Addresses that no pod has.
pub(super) struct Elsewhere {
    /// One of them.
    pub address: IpAddr,
    pub members: Vec<End>,
}

impl Elsewhere {
    /// A ClusterIP sends nothing.
    pub fn sends(&self) -> bool {
        !matches!(self.members.first(), Some(End::Service { .. }))
    }
}

impl<'a> Member<'a> {
    fn all(pod: &'a Pod) -> Vec<Self> {
        let several = Family::ALL
            .into_iter()
            .any(|family| pod.addresses.iter().filter(|&&a| Family::of(a) == family).count() > 1);
        match several {
            false => vec![Self {
                pod,
                addresses: pod.addresses.clone(),
            }],
            // Only a file can say that of a pod.
            true => (pod.addresses.iter())
                .map(|&address| Self {
                    pod,
                    addresses: vec![address],
                })
                .collect(),
        }
    }

    pub fn end(&self) -> End {
        End::Pod {
            pod: self.pod.id.to_string(),
            address: (self.addresses.len() < self.pod.addresses.len())
                .then(|| self.addresses.first().copied())
                .flatten(),
        }
    }
}

/// All that a pod's verdicts can depend on.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Alike {
    sets: [Sets; 2],
    addresses: BTreeSet<(Family, Classes)>,
    /// Itself, where another pod claims one of its addresses, or it has several of a family: as those' peer it is something
    /// else.
    alone: Option<(Arc<str>, Vec<IpAddr>)>,
}

impl<'a> Ends<'a> {
    /// `before` and `after` have the same pods and Services.
    pub fn of(before: &'a Cluster, after: &'a Cluster, tables: &Tables<'_>) -> Self {
        let pods: Vec<&Pod> = (before.snapshot.pods.iter())
            .filter(|pod| pod.is_live() && !pod.addresses.is_empty())
            .collect();
        let mut claims: HashMap<IpAddr, usize> = HashMap::new();
        for address in pods.iter().flat_map(|pod| &pod.addresses) {
            *claims.entry(*address).or_default() += 1;
        }
        let mut groups: BTreeMap<Alike, Vec<Member<'_>>> = BTreeMap::new();
        for member in pods.into_iter().flat_map(Member::all) {
            let Member { pod, addresses } = &member;
            let odd =
                addresses.len() < pod.addresses.len() || addresses.iter().any(|address| claims[address] > 1);
            let alike = Alike {
                sets: Direction::ALL.map(|direction| tables.sets(pod, direction)),
                addresses: (addresses.iter())
                    .map(|&address| (Family::of(address), tables.classes(address)))
                    .collect(),
                alone: odd.then(|| (pod.uid.clone(), addresses.clone())),
            };
            groups.entry(alike).or_default().push(member);
        }
        let mut elsewhere: BTreeMap<(Family, bool, Classes), Vec<(IpAddr, End)>> = BTreeMap::new();
        let mut add = |address: IpAddr, end: End| {
            let is_service = matches!(end, End::Service { .. });
            let alike = (Family::of(address), is_service, tables.classes(address));
            elsewhere.entry(alike).or_default().push((address, end));
        };
        let mut taken: BTreeSet<IpAddr> = claims.into_keys().collect();
        for service in &before.snapshot.services {
            for &address in &service.cluster_ips {
                if taken.insert(address) {
                    let service = service.id.to_string();
                    add(address, End::Service { service, address });
                }
            }
        }
        for (address, end) in blocks([before, after], &taken, tables) {
            add(address, end);
        }
        Self {
            pods: groups.into_values().collect(),
            elsewhere: (elsewhere.into_values())
                .filter_map(|members| {
                    Some(Elsewhere {
                        address: members.first()?.0,
                        members: members.into_iter().map(|(_, end)| end).collect(),
                    })
                })
                .collect(),
        }
    }
}

/// A block of which the same is to be said as of the one around it is part of that one.
pub(super) fn folded(ends: Vec<End>) -> Vec<End> {
    let mut blocks: BTreeMap<Cidr, (Vec<Cidr>, IpAddr)> = BTreeMap::new();
    let mut folded = Vec::with_capacity(ends.len());
    for end in ends {
        match end {
            End::Block {
                block,
                except,
                address,
            } => drop(blocks.insert(block, (except, address))),
            End::Address { address } => drop(blocks.insert(Cidr::single(address), (Vec::new(), address))),
            other => folded.push(other),
        }
    }
    // Inner ones first: a block sorts before those that it covers.
    let order: Vec<Cidr> = blocks.keys().rev().copied().collect();
    let mut gone: BTreeSet<Cidr> = BTreeSet::new();
    for outer in order {
        let Some((except, address)) = blocks.remove(&outer) else {
            continue;
        };
        let mut left = Vec::new();
        for inner in except {
            match blocks.get(&inner) {
                Some((except, _)) => {
                    left.extend_from_slice(except);
                    gone.insert(inner);
                }
                None => left.push(inner),
            }
        }
        left.sort();
        blocks.insert(outer, (left, address));
    }
    for (block, (except, address)) in blocks {
        if !gone.contains(&block) {
            folded.push(match block.is_single() {
                true => End::Address { address },
                false => End::Block {
                    block,
                    except,
                    address,
                },
            });
        }
    }
    folded
}

/// All addresses but those that are `taken`, each block and address that the images tell apart for itself, with an address as
/// example.
fn blocks(clusters: [&Cluster; 2], taken: &BTreeSet<IpAddr>, tables: &Tables<'_>) -> Vec<(IpAddr, End)> {
    let mut nodes: BTreeSet<Cidr> = Cidr::everything().into();
    for cluster in clusters {
        nodes.extend(cluster.image.networks.keys());
        let free = cluster
            .image
            .addresses
            .keys()
            .filter(|address| !taken.contains(address));
        nodes.extend(free.map(|&address| Cidr::single(address)));
    }
    // A block sorts before those that it covers.
    let nodes: Vec<Cidr> = nodes.into_iter().collect();
    let mut inside: Vec<Vec<Cidr>> = vec![Vec::new(); nodes.len()];
    let mut around: Vec<usize> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        while around.last().is_some_and(|&outer| !nodes[outer].covers(*node)) {
            around.pop();
        }
        if let Some(&outer) = around.last() {
            inside[outer].push(*node);
        }
        around.push(index);
    }
    let mut ends = Vec::new();
    for (&block, except) in nodes.iter().zip(inside) {
        if block.is_single() {
            let address = block.net().addr();
            ends.push((address, End::Address { address }));
        } else if let Some(address) = example(block, &except, taken) {
            let classes = tables.classes(address);
            // A single address of the same class is none to speak of.
            let differs = |inner: &Cidr| !inner.is_single() || tables.classes(inner.net().addr()) != classes;
            let except = except.into_iter().filter(differs).collect();
            ends.push((
                address,
                End::Block {
                    block,
                    except,
                    address,
                },
            ));
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|text| text.parse().expect("a block")).collect()
    }

    #[test]
    fn a_block_is_part_of_the_one_around_it_where_the_same_holds() {
        let end = |block: &str, except: &[&str]| End::Block {
            block: blocks(&[block])[0],
            except: blocks(except),
            address: blocks(&[block])[0].net().addr(),
        };
        let address = |text: &str| End::Address {
            address: text.parse().expect("an address"),
        };
        let all = vec![
            end("0.0.0.0/0", &["10.0.0.0/8", "11.0.0.0/8"]),
            end("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]),
            end("10.1.0.0/16", &["10.1.0.1"]),
            address("10.1.0.1"),
            end("12.1.0.0/16", &[]),
        ];
        let expected = vec![
            end("0.0.0.0/0", &["10.2.0.0/16", "11.0.0.0/8"]),
            end("12.1.0.0/16", &[]),
        ];
        assert_eq!(folded(all), expected);
    }
}
