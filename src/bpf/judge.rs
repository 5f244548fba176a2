//! What the maps say of a packet at this moment, read entry by entry as the programs read them (`bpf/policy.h`): not what they
//! were meant to hold.

use std::net::IpAddr;

use anyhow::Result;

use super::config::Map;
use super::inspect::Inspector;
use super::{abi, keys, types};
use crate::compile::{Class, Psid};
use crate::model::Direction;

/// A verdict by policy, and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The rule set of the pod's direction.
    pub psid: Psid,
    /// Of the peer's address; not looked up where the rule set does not ask for it.
    pub class: Class,
    pub verdict: Judgement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No policy selects the pod in this direction.
    Open,
    /// By the rule that this counters index stands for, see [`CounterReader::infos`](super::CounterReader::infos).
    Allowed(u32),
    Denied,
    /// It passes, only because the policies that would deny it are in audit.
    Audited,
}

/// ICMP and ICMPv6 are looked up without their port, which is none.
const PORTLESS: [u8; 2] = [1, 58];

impl Inspector {
    /// Of a first packet between the pod of `slot` and `peer`, which is none of its own addresses; `port` is the
    /// destination's, 0 for protocols without ports.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn judge(
        &self,
        slot: u32,
        direction: Direction,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Result<Judged> {
        let maps = self.open_maps();
        let states = maps.table::<u32, types::pod_state>(Map::PodState);
        let state = states.get(&slot)?.unwrap_or_default();
        // The rule set is the upper half, the generation the lower one.
        let word = (state.direction[direction as usize] >> 32) as u32;
        let psid = Psid(word & !abi::AUDITED);
        let in_audit = word & abi::AUDITED != 0;
        let judged = |class, verdict| Judged {
            psid,
            class: Class(class),
            verdict: match verdict {
                Judgement::Denied if in_audit => Judgement::Audited,
                other => other,
            },
        };
        if psid == Psid::OPEN {
            return Ok(judged(0, Judgement::Open));
        }
        if psid.0 < Psid::FIRST {
            return Ok(judged(0, Judgement::Denied));
        }
        let class_id = self.class_of(peer)?;
        if class_id == 0 {
            return Ok(judged(0, Judgement::Denied));
        }
        let key = types::row_key {
            psid: psid.0,
            class_id,
        };
        let verdict = match maps.table::<types::row_key, types::row>(Map::Row).get(&key)? {
            None => Judgement::Denied,
            Some(row) if row.l4 == abi::L4_DENY => Judgement::Denied,
            Some(row) if row.l4 == abi::L4_ALLOW => Judgement::Allowed(row.rule),
            Some(row) => {
                let port = if PORTLESS.contains(&protocol) { 0 } else { port };
                self.search(row.l4, u32::from(protocol) << 16 | u32::from(port))?
            }
        };
        Ok(judged(class_id, verdict))
    }

    fn class_of(&self, address: IpAddr) -> Result<u32> {
        let maps = self.open_maps();
        let class = match address {
            IpAddr::V4(v4) => {
                let addr_be = keys::v4_be(v4);
                match maps.table::<u32, u32>(Map::Ip4).get(&addr_be)? {
                    Some(class) => Some(class),
                    None => {
                        let key = types::net4_key { prefix: 32, addr_be };
                        maps.table::<types::net4_key, u32>(Map::Net4).get(&key)?
                    }
                }
            }
            IpAddr::V6(v6) => {
                let addr_be = keys::v6_be(v6);
                let key = types::ip6_key { addr_be };
                match maps.table::<types::ip6_key, u32>(Map::Ip6).get(&key)? {
                    Some(class) => Some(class),
                    None => {
                        let key = types::net6_key { prefix: 128, addr_be };
                        maps.table::<types::net6_key, u32>(Map::Net6).get(&key)?
                    }
                }
            }
        };
        Ok(class.unwrap_or_default())
    }

    /// The interval of a table that holds `value`.
    fn search(&self, root: u32, value: u32) -> Result<Judgement> {
        let nodes = self.open_maps().table::<u32, types::l4_node>(Map::L4);
        let mut id = root;
        for _ in 0..abi::L4_LEVELS {
            let Some(node) = nodes.get(&id)? else {
                return Ok(Judgement::Denied);
            };
            let after = node.first.partition_point(|first| *first <= value);
            // As in the programs: what lies before all is in the first.
            id = node.target[after.saturating_sub(1)];
            if node.level == 0 {
                return Ok(match id {
                    0 => Judgement::Denied,
                    counter => Judgement::Allowed(counter),
                });
            }
        }
        Ok(Judgement::Denied)
    }
}
