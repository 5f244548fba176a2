//! The kernel's side as metrics: read anew at each scrape.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::counters::{Counters, Flows, MapFill};
use super::traffic::{Count, Detail, Traffic};

/// A collector over [`Counters`]. What locks it has are between scrapes only.
pub(super) struct KernelSide {
    counters: Arc<dyn Counters>,
    traffic: Traffic,
    /// Events that the kernel has sent and nobody has taken.
    untaken: Counter,
}

impl KernelSide {
    pub fn new(counters: Arc<dyn Counters>, detail: Detail, untaken: Counter) -> Self {
        Self {
            counters,
            traffic: Traffic::new(detail),
            untaken,
        }
    }
}

impl fmt::Debug for KernelSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelSide")
            .field("traffic", &self.traffic)
            .finish_non_exhaustive()
    }
}

impl Collector for KernelSide {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Self {
            counters,
            traffic,
            untaken,
        } = self;
        let series = traffic.series(counters.read());
        let packets = Unit::Other("packets".into());
        let mut write = Families(&mut encoder);
        write.counters(
            "traffic",
            "Packets judged at pods' interfaces, by what became of them and why",
            Some(&packets),
            &series,
            |c: &Count| c.packets,
        )?;
        write.counters(
            "traffic",
            "Bytes of those packets, Ethernet headers included",
            Some(&Unit::Bytes),
            &series,
            |c| c.bytes,
        )?;

        let maps: Vec<([(&str, &str); 1], MapFill)> = counters
            .maps()
            .into_iter()
            .map(|m| ([("map", m.name)], m))
            .collect();
        let maps = || maps.iter().map(|(labels, map)| (labels, map));
        write.gauges(
            "map_entries",
            "Entries that a map holds, as of the last change",
            maps(),
            |m| Some(m.entries),
        )?;
        write.gauges(
            "map_capacity_entries",
            "Entries that it can hold; a change that needs more is refused",
            maps(),
            |m| Some(m.capacity),
        )?;

        let flows: Vec<([(&str, &str); 1], Flows)> = counters
            .flows()
            .into_iter()
            .map(|f| ([("family", f.family)], f))
            .collect();
        let flows = || flows.iter().map(|(labels, flows)| (labels, flows));
        write.gauges(
            "conntrack_entries",
            "Flows that conntrack holds, as last counted; old ones stay until their place is needed",
            flows(),
            |f| f.entries,
        )?;
        write.gauges(
            "conntrack_capacity_entries",
            "Flows that it can hold; for one more the least recently used is forgotten",
            flows(),
            |f| Some(f.capacity),
        )?;
        write.counters(
            "conntrack_recorded_flows",
            "Flows that were recorded",
            None,
            flows(),
            |f| f.recorded,
        )?;
        write.counters(
            "conntrack_refused_flows",
            "Flows that could not be recorded; their packets passed",
            None,
            flows(),
            |f| f.refused,
        )?;
        write.counters(
            "conntrack_evicted_flows",
            "Flows that were forgotten to make room, as last counted",
            None,
            flows(),
            |f| f.evicted,
        )?;

        let lost = [
            ([("stage", "kernel")], counters.events_lost()),
            ([("stage", "agent")], Some(untaken.get())),
        ];
        let lost = lost
            .iter()
            .filter_map(|(labels, lost)| Some((labels, lost.as_ref()?)));
        write.counters(
            "events_lost",
            "Reports of packets that were not logged: over the kernel's budget, or more than the agent took",
            None,
            lost,
            |n| *n,
        )
    }
}

/// Families of which each member has labels and one number.
struct Families<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl Families<'_, '_> {
    fn counters<'m, L: EncodeLabelSet + 'm, T: 'm>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        members: impl IntoIterator<Item = (&'m L, &'m T)>,
        value: impl Fn(&T) -> u64,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, member) in members {
            ConstCounter::new(value(member)).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    /// Without those whose number is not known.
    fn gauges<'m, L: EncodeLabelSet + 'm, T: 'm>(
        &mut self,
        name: &str,
        help: &str,
        members: impl IntoIterator<Item = (&'m L, &'m T)>,
        value: impl Fn(&T) -> Option<u64>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, member) in members {
            if let Some(value) = value(member) {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
