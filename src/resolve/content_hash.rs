//! The hash that says which slice an item is in.

use std::net::IpAddr;

use crate::api::Port;
use crate::model::Cidr;

/// FNV-1a over 64 bits, and MurmurHash3's 64-bit finaliser, because FNV's upper bits, which the trie reads
/// first, mix poorly. Part of the published format: a change of it rewrites every slice in every cluster.
#[derive(Clone, Copy)]
pub(super) struct ContentHash(u64);

impl ContentHash {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub fn count(&mut self, count: usize) {
        self.bytes(&(count as u32).to_le_bytes());
    }

    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes(text.as_bytes());
    }

    pub fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// Prefixes of the two families never have one encoding: the family's bits come first.
    pub fn cidr(&mut self, cidr: Cidr) {
        let net = cidr.net();
        self.bytes(&[net.max_prefix_len(), net.prefix_len()]);
        self.address(net.addr());
    }

    pub fn port(&mut self, port: &Port) {
        self.bytes(&[port.protocol.map_or(0, |p| p.number())]);
        self.bytes(&port.port.unwrap_or(0).to_le_bytes());
        self.bytes(&port.end_port.unwrap_or(0).to_le_bytes());
        self.text(port.name.as_deref().unwrap_or(""));
    }

    pub fn finish(self) -> u64 {
        let mut h = self.0;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        h ^ (h >> 33)
    }
}
