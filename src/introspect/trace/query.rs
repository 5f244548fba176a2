//! What a reader of a trace asks for: the query of `GET /v1/trace`, read and written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use form_urlencoded::Serializer;
use jiff::SignedDuration;

use crate::bpf::{Outcome, Reason, TraceFilter};
use crate::introspect::answer::Refusal;
use crate::introspect::filter::{Name, number, one_of, parsed, reasons};
use crate::introspect::flow::{ISOLATION, RULE, Verdict};
use crate::introspect::spelling;
use crate::model::Cidr;

/// Packets that an answer tells of where nothing is said of how many.
pub const PACKETS: u32 = 1000;
const MOST_PACKETS: u32 = 100_000;
const TIME: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
const KEYS: [&str; 9] = [
    "pod",
    "source",
    "destination",
    "port",
    "protocol",
    "reason",
    "verdict",
    "for",
    "packets",
];

/// What is to be traced, and how much of it. Each part of the filter that is `None` lets all pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceQuery {
    /// The pod that is judged.
    pub pod: Option<Name>,
    /// A flow's, as its first packet has them: its packets count both ways, and so do ICMP errors that quote it.
    pub source: Option<Cidr>,
    pub destination: Option<Cidr>,
    pub port: Option<u16>,
    /// IANA number.
    pub protocol: Option<u8>,
    /// One of [`reasons`].
    pub reason: Option<Arc<str>>,
    pub verdict: Option<Verdict>,
    /// 10 minutes at most.
    pub time: Duration,
    /// 100,000 at most.
    pub packets: u32,
}

impl Default for TraceQuery {
    fn default() -> Self {
        Self {
            pod: None,
            source: None,
            destination: None,
            port: None,
            protocol: None,
            reason: None,
            verdict: None,
            time: TIME,
            packets: PACKETS,
        }
    }
}

impl TraceQuery {
    /// What the programs are to look for.
    ///
    /// # Errors
    /// No packet can have both this reason and this verdict.
    pub fn filter(&self) -> Result<TraceFilter, Refusal> {
        let wanted = self.verdict.map(|verdict| match verdict {
            Verdict::Allowed => Outcome::Allowed,
            Verdict::Denied => Outcome::Dropped,
            Verdict::Audit => Outcome::Audited,
        });
        let named = |name: &str| Reason::ALL.iter().copied().find(|reason| reason.name() == name);
        const FALLEN: &[Outcome] = &[Outcome::Dropped, Outcome::Audited];
        let (reason, possible) = match self.reason.as_deref() {
            None => (None, &Outcome::ALL[..]),
            Some(RULE) => (Some(Reason::Policy), &[Outcome::Allowed][..]),
            Some(ISOLATION) => (Some(Reason::Policy), FALLEN),
            Some(name) => match named(name) {
                Some(reason) if reason.drops() => (Some(reason), FALLEN),
                reason => (reason, &[Outcome::Allowed][..]),
            },
        };
        let contradicts = wanted.is_some_and(|wanted| !possible.contains(&wanted));
        if contradicts {
            let reason = self.reason.as_deref().unwrap_or_default();
            let verdict = self.verdict.map_or("", Verdict::as_str);
            return Err(Refusal::wrong(
                format!("no packet is {verdict} with reason {reason}"),
                "leave one of them out",
            ));
        }
        Ok(TraceFilter {
            source: self.source,
            destination: self.destination,
            port: self.port,
            protocol: self.protocol,
            reason,
            verdicts: match wanted {
                Some(Outcome::Allowed) => &[Outcome::Allowed],
                Some(Outcome::Dropped) => &[Outcome::Dropped],
                Some(Outcome::Audited) => &[Outcome::Audited],
                None => possible,
            },
        })
    }

    /// As the part of a URL behind `?`.
    pub fn encode(&self) -> String {
        let Self {
            pod,
            source,
            destination,
            port,
            protocol,
            reason,
            verdict,
            time,
            packets,
        } = self;
        let mut query = Serializer::new(String::new());
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                query.append_pair(key, &value);
            }
        };
        put("pod", pod.as_ref().map(ToString::to_string));
        put("source", source.map(|block| block.to_string()));
        put("destination", destination.map(|block| block.to_string()));
        put("port", port.map(|port| port.to_string()));
        put("protocol", protocol.map(|protocol| protocol.to_string()));
        put("reason", reason.as_ref().map(ToString::to_string));
        put("verdict", verdict.map(|verdict| verdict.to_string()));
        put("for", Some(format!("{}ms", time.as_millis())));
        put("packets", Some(packets.to_string()));
        query.finish()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// What is wrong with it, and what there is instead.
    pub fn decode(query: &str) -> Result<Self, Refusal> {
        let mut read = Self::default();
        let mut seen = BTreeSet::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            if !seen.insert(key.clone()) {
                return Err(Refusal::wrong(format!("{key:?} is there twice"), "write it once"));
            }
            let wrong = |remedy: &'static str| {
                let key = &key;
                move |error: String| Refusal::wrong(format!("{key}: {error}"), remedy)
            };
            match &*key {
                "pod" => read.pod = Some(parsed(&key, &value)?),
                "source" => read.source = Some(block(&key, &value)?),
                "destination" => read.destination = Some(block(&key, &value)?),
                "port" => read.port = Some(number::<std::num::NonZeroU16>(&key, &value)?.get()),
                "protocol" => {
                    let protocol = Self::protocol(&value);
                    read.protocol = Some(protocol.map_err(wrong("write its name or number"))?);
                }
                "reason" => read.reason = Some(one_of(&key, &value, reasons())?.into()),
                "verdict" => {
                    let name = one_of(&key, &value, Verdict::ALL.map(Verdict::as_str))?;
                    read.verdict = Verdict::ALL.into_iter().find(|known| known.as_str() == name);
                }
                "for" => {
                    let time = Self::time(&value);
                    read.time = time.map_err(wrong("write a time as in 10s, 500ms or 2m"))?;
                }
                "packets" => {
                    let packets = Self::packets(&value);
                    read.packets = packets.map_err(wrong("write a number"))?;
                }
                _ => {
                    let remedy = format!("there are {}", KEYS.join(", "));
                    return Err(Refusal::wrong(format!("there is no filter {key:?}"), remedy));
                }
            }
        }
        Ok(read)
    }

    /// How long, as in `10s`, `500ms` or `2m`.
    ///
    /// # Errors
    /// It is no time, or not one that a trace may take.
    pub fn time(text: &str) -> Result<Duration, String> {
        let time: SignedDuration = text
            .parse()
            .map_err(|_| format!("{text:?} is no time such as 10s, 500ms or 2m"))?;
        let time = Duration::try_from(time).unwrap_or_default();
        match time {
            Duration::ZERO => Err(format!("{text:?} is no time at all")),
            time if time > LONGEST => Err(format!(
                "{text:?} is more than {} minutes",
                LONGEST.as_secs() / 60
            )),
            time => Ok(time),
        }
    }

    /// How many.
    ///
    /// # Errors
    /// It is no number, or more than a trace may tell of.
    pub fn packets(text: &str) -> Result<u32, String> {
        match text.parse() {
            Ok(packets @ 1..=MOST_PACKETS) => Ok(packets),
            Ok(_) => Err(format!("{text:?} is not from 1 to {MOST_PACKETS}")),
            Err(_) => Err(format!("{text:?} is no number")),
        }
    }

    /// An IP protocol's number, by its number or its name.
    ///
    /// # Errors
    /// It is neither.
    pub fn protocol(text: &str) -> Result<u8, String> {
        let named =
            || (0..=u8::MAX).find(|number| spelling::protocol_number(*number).eq_ignore_ascii_case(text));
        text.parse().ok().or_else(named).ok_or_else(|| {
            format!("{text:?} is none of TCP, UDP, SCTP, ICMP, ICMPv6, nor a number from 0 to 255")
        })
    }
}

fn block(key: &str, value: &str) -> Result<Cidr, Refusal> {
    value.parse().map_err(|error| {
        Refusal::wrong(
            format!("{key}: {error}"),
            "write an address, or a block as in 10.0.0.0/8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_back_as_it_was_written() {
        let query = TraceQuery {
            pod: Some("shop/web&0".parse().unwrap()),
            source: Some("10.0.0.0/8".parse().unwrap()),
            destination: Some("fd00::7".parse().unwrap()),
            port: Some(80),
            protocol: Some(6),
            reason: Some("isolation".into()),
            verdict: Some(Verdict::Denied),
            time: Duration::from_millis(1500),
            packets: 7,
        };
        assert_eq!(TraceQuery::decode(&query.encode()), Ok(query));
        let default = TraceQuery::default();
        assert_eq!(TraceQuery::decode(""), Ok(default.clone()));
        assert_eq!(TraceQuery::decode(&default.encode()), Ok(default));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_can() {
        for (query, expected) in [
            ("port=0", "port"),
            ("source=10.0.0", "address"),
            ("protocol=tdp", "ICMPv6"),
            ("for=0s", "10s"),
            ("for=11m", "10 minutes"),
            ("for=-1s", "10s"),
            ("packets=0", "100000"),
            ("packets=1e3", "number"),
            ("reason=why", "isolation"),
            ("verdict=maybe", "denied"),
            ("colour=red", "destination"),
            ("pod=a&pod=b", "once"),
        ] {
            let refusal = TraceQuery::decode(query).expect_err(query);
            assert_eq!(refusal.status, 400, "{query}");
            assert!(refusal.to_string().contains(expected), "{query}: {refusal}");
        }
    }

    #[test]
    fn protocols_are_known_by_name_and_number() {
        for (text, number) in [
            ("TCP", 6),
            ("udp", 17),
            ("icmpv6", 58),
            ("47", 47),
            ("132", 132),
            ("SCTP", 132),
        ] {
            assert_eq!(TraceQuery::protocol(text), Ok(number), "{text}");
        }
    }

    #[test]
    fn reasons_of_policies_say_the_verdict_and_none_may_say_another() {
        let ask = |reason: &str, verdict| TraceQuery {
            reason: Some(reason.into()),
            verdict,
            ..TraceQuery::default()
        };
        let filter = ask("isolation", None).filter().unwrap();
        assert_eq!(filter.reason, Some(Reason::Policy));
        assert_eq!(filter.verdicts, [Outcome::Dropped, Outcome::Audited]);
        let filter = ask("open", None).filter().unwrap();
        assert_eq!(
            (filter.reason, filter.verdicts),
            (Some(Reason::Open), &[Outcome::Allowed][..])
        );
        assert_eq!(TraceQuery::default().filter().unwrap().verdicts, Outcome::ALL);
        for (reason, verdict, possible) in [
            ("isolation", Verdict::Allowed, false),
            ("isolation", Verdict::Denied, true),
            ("spoofed", Verdict::Allowed, false),
            ("spoofed", Verdict::Denied, true),
            // What would be dropped for this reason passes in audit.
            ("fragment", Verdict::Audit, true),
            ("open", Verdict::Denied, false),
            ("open", Verdict::Allowed, true),
            ("rule", Verdict::Audit, false),
        ] {
            let filter = ask(reason, Some(verdict)).filter();
            assert_eq!(filter.is_ok(), possible, "{reason} {verdict}");
        }
    }
}
