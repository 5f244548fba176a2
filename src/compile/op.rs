//! One write to what a node enforces.

use std::net::IpAddr;
use std::sync::Arc;

use super::image::{Class, Image, L4, L4Key, PodImage, Psid, Row, RuleInfo, RuleKey};
use crate::model::Cidr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    AddRule(RuleKey, RuleInfo),
    AddL4(L4Key, L4),
    AddRow(Psid, Class, Row),
    /// New, or of another class.
    SetAddress(IpAddr, Class),
    SetNetwork(Cidr, Class),
    /// New (by UID), or changed. Flows of a pod that changes are judged anew, as if the epoch were raised for it alone.
    SetPod(Arc<str>, PodImage),
    /// Flows are judged anew: some address may no longer do what it did.
    BumpEpoch,
    RemoveAddress(IpAddr),
    RemoveNetwork(Cidr),
    RemoveRow(Psid, Class),
    RemoveL4(L4Key),
    RemoveRule(RuleKey),
    RemovePod(Arc<str>),
}

impl Image {
    /// What the maps hold after one write.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::AddRule(key, info) => {
                self.rules.insert(*key, info.clone());
            }
            Op::AddL4(key, table) => {
                self.l4.insert(*key, table.clone());
            }
            Op::AddRow(psid, class, row) => {
                self.rows.insert((*psid, *class), *row);
            }
            Op::SetAddress(address, class) => {
                self.addresses.insert(*address, *class);
            }
            Op::SetNetwork(cidr, class) => {
                self.networks.insert(*cidr, *class);
            }
            Op::SetPod(uid, pod) => {
                self.pods.insert(uid.clone(), pod.clone());
            }
            Op::BumpEpoch => {}
            Op::RemoveAddress(address) => {
                self.addresses.remove(address);
            }
            Op::RemoveNetwork(cidr) => {
                self.networks.remove(cidr);
            }
            Op::RemoveRow(psid, class) => {
                self.rows.remove(&(*psid, *class));
            }
            Op::RemoveL4(key) => {
                self.l4.remove(key);
            }
            Op::RemoveRule(key) => {
                self.rules.remove(key);
            }
            Op::RemovePod(uid) => {
                self.pods.remove(uid);
            }
        }
    }
}
