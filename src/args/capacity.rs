//! Flags of how much the kernel's maps hold.

use clap::Args;

use crate::bpf::MapSizes;

/// A map's capacity: zero would hold nothing, and above 2³⁰ the kernel's arithmetic ends.
fn entries() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 30)
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Capacity of the kernel maps, in entries")]
pub(super) struct RawCapacity {
    /// Local pods
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_PODS", default_value_t = MapSizes::default().pods, value_parser = entries())]
    max_pods: u32,
    /// Single peer addresses, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_ADDRESSES", default_value_t = MapSizes::default().addresses, value_parser = entries())]
    max_addresses: u32,
    /// Peer blocks, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_NETWORKS", default_value_t = MapSizes::default().networks, value_parser = entries())]
    max_networks: u32,
    /// Prefixes that local pods may send from besides their first addresses, for each family
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_SOURCES", default_value_t = MapSizes::default().sources, value_parser = entries())]
    max_sources: u32,
    /// Pairs of a rule set and a class of peers
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_ROWS", default_value_t = MapSizes::default().rows, value_parser = entries())]
    max_rows: u32,
    /// Port tables, in pieces of 32 intervals
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_TABLES", default_value_t = MapSizes::default().tables, value_parser = entries())]
    max_tables: u32,
    /// Rules and isolations that are counted, and 64 for the reasons
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_RULES", default_value_t = MapSizes::default().rules, value_parser = entries())]
    max_rules: u32,
    /// Tracked IPv4 flows; the least recently used is forgotten when there is no room
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FLOWS4", default_value_t = MapSizes::default().flows4, value_parser = entries())]
    max_flows4: u32,
    /// Tracked IPv6 flows, likewise
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FLOWS6", default_value_t = MapSizes::default().flows6, value_parser = entries())]
    max_flows6: u32,
    /// Fragmented datagrams under way
    #[arg(long, value_name = "COUNT", env = "PALISADE_MAX_FRAGMENTS", default_value_t = MapSizes::default().fragments, value_parser = entries())]
    max_fragments: u32,
    /// Ring of reported packets, in bytes: a power of two, 4096 or more
    #[arg(long, value_name = "BYTES", env = "PALISADE_EVENT_RING_BYTES", default_value_t = MapSizes::default().event_ring, value_parser = entries())]
    event_ring_bytes: u32,
}

impl RawCapacity {
    pub(super) fn checked(self) -> Result<MapSizes, String> {
        let Self {
            max_pods,
            max_addresses,
            max_networks,
            max_sources,
            max_rows,
            max_tables,
            max_rules,
            max_flows4,
            max_flows6,
            max_fragments,
            event_ring_bytes,
        } = self;
        if !event_ring_bytes.is_power_of_two() || event_ring_bytes < 4096 {
            return Err(format!(
                "--event-ring-bytes {event_ring_bytes} is not a power of two of at least 4096; the default is 1048576"
            ));
        }
        Ok(MapSizes {
            pods: max_pods,
            addresses: max_addresses,
            networks: max_networks,
            sources: max_sources,
            rows: max_rows,
            tables: max_tables,
            rules: max_rules,
            flows4: max_flows4,
            flows6: max_flows6,
            fragments: max_fragments,
            event_ring: event_ring_bytes,
        })
    }
}
