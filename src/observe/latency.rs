//! Histograms of durations that are counted without a lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

/// Upper bounds of buckets, in microseconds; ascending.
pub(super) type Bounds = &'static [u64];

/// One histogram. A scrape during an observation may miss its last one, no more.
#[derive(Debug)]
pub(super) struct Latency {
    bounds: Bounds,
    /// One more than bounds: the last is for what is slower than all.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Latency {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        let us = duration.as_nanos().div_ceil(1000);
        let bucket = self.bounds.partition_point(|bound| u128::from(*bound) < us);
        self.nanoseconds.fetch_add(
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// Observations so far.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// By upper bound in seconds, and the sum of all durations in seconds.
    fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = self
            .bounds
            .iter()
            .map(|us| Duration::from_micros(*us).as_secs_f64())
            .chain([f64::INFINITY]);
        let buckets = bounds
            .zip(&*self.buckets)
            .map(|(bound, n)| (bound, n.load(Ordering::Relaxed)));
        let sum = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        (buckets.collect(), sum.as_secs_f64())
    }
}

/// Writes a family of histograms in seconds: one for each value of the label, or one without.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    label: Option<&str>,
    of: &[(&str, &Latency)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for (value, latency) in of {
        let (buckets, sum) = latency.read();
        let count = buckets.iter().map(|(_, n)| n).sum();
        match label {
            Some(label) => one(
                &mut family.encode_family(&[(label, *value)])?,
                sum,
                count,
                &buckets,
            )?,
            None => one(&mut family, sum, count, &buckets)?,
        }
    }
    Ok(())
}

fn one(encoder: &mut MetricEncoder<'_>, sum: f64, count: u64, buckets: &[(f64, u64)]) -> fmt::Result {
    encoder.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_counts_in_the_first_bucket_that_holds_it() {
        let latency = Latency::new(&[100, 250, 500]);
        for us in [0, 100, 101, 20_000_000] {
            latency.observe(Duration::from_micros(us));
        }
        latency.observe(Duration::from_nanos(100_001));
        let (buckets, sum) = latency.read();
        let counts: Vec<u64> = buckets.iter().map(|(_, n)| *n).collect();
        assert_eq!(counts, [2, 2, 0, 1]);
        assert_eq!(
            (latency.count(), buckets[0].0, buckets[3].0),
            (5, 0.0001, f64::INFINITY)
        );
        assert!((sum - 20.000_301_001).abs() < 1e-9, "{sum}");
    }
}
