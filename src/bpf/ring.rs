//! Events from the programs, on a thread of their own.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::{MapHandle, RingBufferBuilder};

use super::config::Map;
use super::counters::Reason;
use super::kernel::Kernel;
use super::plain::Plain;
use super::{abi, keys, types};
use crate::model::Direction;

/// How long a stop may take to be seen.
const POLL: Duration = Duration::from_millis(100);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A first packet that was denied, or audited, or allowed where that is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// CLOCK_MONOTONIC.
    pub time: Duration,
    /// The pod's host-side interface.
    pub ifindex: u32,
    /// See [`Kernel::pod_of_slot`].
    pub slot: u32,
    /// `None` where the frame is not IP.
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    /// 0 where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    pub ethertype: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// As the pod sees it.
    pub direction: Direction,
    pub allowed: bool,
    /// Allowed only because the policies that would deny it are in audit.
    pub audited: bool,
    /// Of an audited one: why it would be dropped.
    pub reason: Reason,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    /// See [`Kernel::rule_of_counter`].
    pub counter: u32,
    /// Bytes of the frame.
    pub length: u32,
}

impl Event {
    /// `None` for what no version of the programs sends.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let raw = types::event::read(bytes.get(..size_of::<types::event>())?)?;
        let ethertype = u16::from_be(raw.ethertype_be);
        let address = |be: [u32; 4]| match ethertype {
            ETHERTYPE_IPV4 => Some(IpAddr::V4(keys::v4_from(be[0]))),
            ETHERTYPE_IPV6 => Some(IpAddr::V6(keys::v6_from(be))),
            _ => None,
        };
        Some(Self {
            time: Duration::from_nanos(raw.time),
            ifindex: raw.ifindex,
            slot: raw.slot,
            source: address(raw.source_be),
            destination: address(raw.destination_be),
            source_port: u16::from_be(raw.source_port_be),
            destination_port: u16::from_be(raw.destination_port_be),
            ethertype,
            protocol: raw.protocol,
            direction: *Direction::ALL.get(usize::from(raw.direction))?,
            allowed: [abi::OUTCOME_ALLOWED, abi::OUTCOME_AUDITED].contains(&raw.outcome.into()),
            audited: u32::from(raw.outcome) == abi::OUTCOME_AUDITED,
            reason: Reason::from_number(raw.reason.into())?,
            tcp_flags: raw.tcp_flags,
            icmp_type: raw.icmp_type,
            counter: raw.counter,
            length: raw.length,
        })
    }
}

/// The thread that reads the ring. Dropping it stops it; that takes a tenth of a second at most.
#[derive(Debug)]
#[must_use = "dropping it ends the events"]
pub struct EventReader {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Kernel {
    /// Reads events on a thread of its own. `deliver` says whether it took the event; it must not block, so give it the
    /// sending end of a bounded channel (`|event| sender.try_send(event).is_ok()`).
    ///
    /// # Errors
    /// No thread, or no ring.
    pub fn events(&self, deliver: impl FnMut(Event) -> bool + Send + 'static) -> Result<EventReader> {
        let path = self.pins.map(Map::Events);
        let ring =
            MapHandle::from_pinned_path(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicU64::new(0));
        let thread = std::thread::Builder::new()
            .name("events".into())
            .spawn({
                let (stop, refused) = (stop.clone(), refused.clone());
                move || read(&ring, &stop, &refused, deliver)
            })
            .context("cannot start a thread for events")?;
        Ok(EventReader {
            stop,
            refused,
            thread: Some(thread),
        })
    }
}

fn read(
    ring: &MapHandle,
    stop: &AtomicBool,
    refused: &AtomicU64,
    mut deliver: impl FnMut(Event) -> bool,
) -> Result<()> {
    let mut builder = RingBufferBuilder::new();
    builder.add(ring, |bytes| {
        let taken = Event::decode(bytes).is_some_and(&mut deliver);
        if !taken {
            refused.fetch_add(1, Ordering::Relaxed);
        }
        0
    })?;
    let ring = builder.build().context("cannot read the event ring")?;
    while !stop.load(Ordering::Relaxed) {
        match ring.poll(POLL) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => {
                return Err(error).context("the event ring failed");
            }
            _ => {}
        }
    }
    Ok(())
}

impl EventReader {
    /// Events that were read but not taken.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether it still reads; if not, [`Self::stop`] says why.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread.
    ///
    /// # Errors
    /// What had ended it before.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => anyhow::bail!("the event thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        // Whoever wants to know calls stop.
        let _ = self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_decoded_by_family_and_unknown_ones_refused() {
        let mut raw = types::event {
            time: 5,
            ifindex: 3,
            ethertype_be: ETHERTYPE_IPV4.to_be(),
            source_port_be: 80_u16.to_be(),
            direction: 1,
            reason: 9,
            ..Default::default()
        };
        raw.source_be[0] = keys::v4_be([10, 0, 0, 1].into());
        let event = Event::decode(raw.bytes()).unwrap();
        assert_eq!(event.source, Some("10.0.0.1".parse().unwrap()));
        assert_eq!(
            (event.source_port, event.direction, event.reason),
            (80, Direction::Egress, Reason::Spoofed)
        );
        raw.ethertype_be = 0x0806_u16.to_be();
        assert_eq!(Event::decode(raw.bytes()).unwrap().source, None);
        raw.reason = 200;
        assert!(Event::decode(raw.bytes()).is_none());
        assert!(Event::decode(&raw.bytes()[..71]).is_none());
    }
}
