//! Peers of the relevant matchers → the set of matchers that each address satisfies.
//!
//! One walk over all blocks in address order, outer before inner, keeps for each matcher the number of its peers that
//! cover the place where the walk is. An exception subtracts inside its block, so unions with exceptions come out right
//! without a special case. Single addresses come last at their place and take what covers them along.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::model::Cidr;

/// Index into [`Classes::sets`].
pub(super) type ClassIndex = usize;

#[derive(Default)]
pub(super) struct Classes {
    /// Sorted matchers of each class; the first is the empty set.
    pub sets: Vec<Rc<[u32]>>,
    /// In order.
    pub addresses: Vec<(IpAddr, ClassIndex)>,
    /// In order; a block whose class is that of the block around it is left out.
    pub networks: Vec<(Cidr, ClassIndex)>,
    known: HashMap<Rc<[u32]>, ClassIndex>,
    /// By class around and what an address adds to it.
    joined: Vec<HashMap<Box<[u32]>, ClassIndex>>,
}

/// `peers`: for each matcher, its blocks and what is carved out of each (inside it, nothing twice).
pub(super) fn classify<'p>(peers: impl Iterator<Item = &'p [(Cidr, Vec<Cidr>)]>) -> Classes {
    let mut families = [Boundaries::default(), Boundaries::default()];
    let mut matchers = 0;
    for (matcher, peers) in (0..).zip(peers) {
        matchers += 1;
        for (cidr, except) in peers {
            let family = &mut families[usize::from(cidr.net().addr().is_ipv6())];
            family.add(*cidr, matcher, 1);
            for carved in except {
                family.add(*carved, matcher, -1);
            }
        }
    }
    let mut classes = Classes::default();
    classes.intern(Vec::new());
    for (mut family, bits) in families.into_iter().zip([32, 128]) {
        family.blocks.sort_unstable();
        family.singles.sort_unstable();
        Walk::new(&mut classes, bits, matchers).run(&family);
    }
    classes
}

/// Where something begins to match, or ends to: (network address, prefix or address, matcher, 1 or -1).
#[derive(Default)]
struct Boundaries {
    blocks: Vec<(u128, u8, u32, i32)>,
    singles: Vec<(u128, u32, i32)>,
}

impl Boundaries {
    fn add(&mut self, cidr: Cidr, matcher: u32, change: i32) {
        let address = bits_of(cidr.net().addr());
        if cidr.is_single() {
            self.singles.push((address, matcher, change));
        } else {
            self.blocks
                .push((address, cidr.net().prefix_len(), matcher, change));
        }
    }
}

fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Classes {
    fn intern(&mut self, set: Vec<u32>) -> ClassIndex {
        if let Some(index) = self.known.get(&*set) {
            return *index;
        }
        let set: Rc<[u32]> = set.into();
        self.sets.push(set.clone());
        self.joined.push(HashMap::new());
        self.known.insert(set, self.sets.len() - 1);
        self.sets.len() - 1
    }

    /// `more` is sorted.
    fn join(&mut self, around: ClassIndex, more: &[u32]) -> ClassIndex {
        if let Some(index) = self.joined[around].get(more) {
            return *index;
        }
        let mut set = [&self.sets[around], more].concat();
        set.sort_unstable();
        set.dedup();
        let index = self.intern(set);
        self.joined[around].insert(more.into(), index);
        index
    }
}

/// A block that the walk is in.
struct Frame {
    /// Last address.
    end: u128,
    class: ClassIndex,
    /// What to take back on leaving it.
    changes: Vec<(u32, i32)>,
}

struct Walk<'c> {
    classes: &'c mut Classes,
    bits: u8,
    counts: Vec<i32>,
    inside: Vec<Frame>,
}

impl<'c> Walk<'c> {
    fn new(classes: &'c mut Classes, bits: u8, matchers: usize) -> Self {
        Self {
            classes,
            bits,
            counts: vec![0; matchers],
            inside: Vec::new(),
        }
    }

    fn run(mut self, boundaries: &Boundaries) {
        let mut blocks = boundaries
            .blocks
            .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
            .peekable();
        for single in boundaries.singles.chunk_by(|a, b| a.0 == b.0) {
            while let Some(block) = blocks.next_if(|b| b[0].0 <= single[0].0) {
                self.enter(block);
            }
            self.address(single);
        }
        blocks.for_each(|b| self.enter(b));
    }

    /// The class that surrounds `address`, after leaving all blocks that end before it.
    fn around(&mut self, address: u128) -> ClassIndex {
        while self.inside.last().is_some_and(|f| f.end < address) {
            for (matcher, change) in self.inside.pop().into_iter().flat_map(|f| f.changes) {
                self.counts[matcher as usize] -= change;
            }
        }
        self.inside.last().map_or(0, |f| f.class)
    }

    fn enter(&mut self, block: &[(u128, u8, u32, i32)]) {
        let (address, prefix, ..) = block[0];
        let around = self.around(address);
        let changes: Vec<(u32, i32)> = block
            .iter()
            .map(|&(_, _, matcher, change)| (matcher, change))
            .collect();
        let class = self.changed(around, &changes);
        for &(matcher, change) in &changes {
            self.counts[matcher as usize] += change;
        }
        let hosts = u128::MAX >> (128 - self.bits) >> prefix;
        self.inside.push(Frame {
            end: address | hosts,
            class,
            changes,
        });
        if class != around
            && let Some(cidr) = Cidr::new(self.ip(address), prefix)
        {
            self.classes.networks.push((cidr, class));
        }
    }

    fn address(&mut self, single: &[(u128, u32, i32)]) {
        let address = single[0].0;
        let around = self.around(address);
        let carved = single.iter().any(|s| s.2 < 0);
        let class = if carved {
            let changes: Vec<(u32, i32)> = single
                .iter()
                .map(|&(_, matcher, change)| (matcher, change))
                .collect();
            self.changed(around, &changes)
        } else {
            let mut more: Vec<u32> = single.iter().map(|s| s.1).collect();
            more.dedup();
            self.classes.join(around, &more)
        };
        // An exception that another peer makes up for changes nothing here.
        if class != around || !carved {
            let ip = self.ip(address);
            self.classes.addresses.push((ip, class));
        }
    }

    /// The class around with `changes` applied, which are sorted by matcher.
    fn changed(&mut self, around: ClassIndex, changes: &[(u32, i32)]) -> ClassIndex {
        let mut set = self.classes.sets[around].to_vec();
        for one in changes.chunk_by(|a, b| a.0 == b.0) {
            let matcher = one[0].0;
            let matches = self.counts[matcher as usize] + one.iter().map(|c| c.1).sum::<i32>() > 0;
            match (set.binary_search(&matcher), matches) {
                (Err(place), true) => set.insert(place, matcher),
                (Ok(place), false) => {
                    set.remove(place);
                }
                _ => {}
            }
        }
        self.classes.intern(set)
    }

    fn ip(&self, address: u128) -> IpAddr {
        match u32::try_from(address) {
            Ok(v4) if self.bits == 32 => Ipv4Addr::from(v4).into(),
            _ => Ipv6Addr::from(address).into(),
        }
    }
}
