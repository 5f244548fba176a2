//! What an operator may choose, and the maps by name.

use std::path::PathBuf;

use super::abi;
use super::skel::OpenPalisadeSkel;

/// How programs are attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachKind {
    /// tcx where the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx links, pinned (kernel 6.6 and later).
    Tcx,
    /// clsact filters of a fixed priority and handle.
    Clsact,
}

/// All that [`Kernel::open`](super::Kernel::open) needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Folder in a bpffs, of this instance alone.
    pub pin_path: PathBuf,
    pub sizes: MapSizes,
    /// Report first packets allowed too, not only denied ones.
    pub log_allowed: bool,
    /// Events a second and CPU; the others are counted as lost. 0: none.
    pub events_per_second: u32,
    pub attach: AttachKind,
    /// Under which version of the layout maps and programs are pinned; another than this build's in tests of upgrades only.
    pub abi_version: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pin_path: "/sys/fs/bpf/palisade".into(),
            sizes: MapSizes::default(),
            log_allowed: false,
            events_per_second: 100,
            attach: AttachKind::Auto,
            abi_version: abi::ABI_VERSION,
        }
    }
}

/// Capacities, in entries unless said otherwise. What is pinned and larger stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Local pods.
    pub pods: u32,
    /// Exact peer addresses of each family.
    pub addresses: u32,
    /// Peer prefixes of each family.
    pub networks: u32,
    /// Prefixes of each family that local pods may send from besides their first addresses.
    pub sources: u32,
    /// (rule set, class) pairs.
    pub rows: u32,
    /// Nodes of port tables, 32 intervals each.
    pub tables: u32,
    /// Rules and isolations that are counted, and 64 for the reasons.
    pub rules: u32,
    pub flows4: u32,
    pub flows6: u32,
    /// Fragmented datagrams under way.
    pub fragments: u32,
    /// Bytes of the event ring: a power of two and a multiple of the page size.
    pub event_ring: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            pods: 1024,
            addresses: 262_144,
            networks: 65_536,
            sources: 4096,
            rows: 262_144,
            tables: 16_384,
            rules: 16_384,
            flows4: 262_144,
            flows6: 131_072,
            fragments: 16_384,
            event_ring: 1 << 20,
        }
    }
}

macro_rules! maps {
    ($($(#[$doc:meta])* $variant:ident $name:ident $flag:literal,)+) => {
        /// A map of `bpf/maps.h`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Map {
            $($(#[$doc])* $variant,)+
        }

        impl Map {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As in `bpf/maps.h`, and the name of its pin.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($name),)+
                }
            }

            /// The command line flag that sets its capacity; empty where none does.
            pub fn flag(self) -> &'static str {
                match self {
                    $(Self::$variant => $flag,)+
                }
            }
        }

        // Each of them is in the object. (That each of the object's maps is here, load checks.)
        const _: fn(OpenPalisadeSkel<'_>) = |skel| {
            let _ = ($(&skel.maps.$name,)+);
        };
    };
}

maps! {
    PodIf pod_if "--max-pods",
    PodState pod_state "--max-pods",
    Control control "",
    Ip4 ip4 "--max-addresses",
    Ip6 ip6 "--max-addresses",
    Net4 net4 "--max-networks",
    Net6 net6 "--max-networks",
    Source4 source4 "--max-sources",
    Source6 source6 "--max-sources",
    Row row "--max-rows",
    L4 l4 "--max-tables",
    Counters counters "--max-rules",
    Ct4 ct4 "--max-flows4",
    Ct6 ct6 "--max-flows6",
    Frag frag "--max-fragments",
    Events events "--event-ring-bytes",
    EventBudget event_budget "",
    RuleIndex rule_index "--max-rules",
    Note note "--max-rules, --max-pods or --max-tables",
}

impl MapSizes {
    /// `max_entries` of a map.
    pub fn of(&self, map: Map) -> u32 {
        match map {
            Map::PodIf | Map::PodState => self.pods,
            Map::Control | Map::EventBudget => 1,
            Map::Ip4 | Map::Ip6 => self.addresses,
            Map::Net4 | Map::Net6 => self.networks,
            Map::Source4 | Map::Source6 => self.sources,
            Map::Row => self.rows,
            Map::L4 => self.tables,
            Map::Counters | Map::RuleIndex => self.rules,
            Map::Ct4 => self.flows4,
            Map::Ct6 => self.flows6,
            Map::Frag => self.fragments,
            Map::Events => self.event_ring,
            // Most pods and rules take one or two chunks of text, tables one; names may be long.
            Map::Note => self
                .pods
                .saturating_mul(6)
                .saturating_add(self.rules.saturating_mul(4))
                .saturating_add(self.tables),
        }
    }
}
