//! Packets that are not what they seem: options, extension headers, fragments, tags, and what is cut short.

use palisade::bpf::Reason;
use palisade::model::Direction::{Egress, Ingress};

use crate::frame::{
    ACK, ETHERNET, Extension, Fragment, IPV4, IPV6, PROVIDER_VLAN, Packet, SYN, TCP, UDP, VLAN, ethernet,
};
use crate::site::{CLOSED, ELSEWHERE, OPEN, Site, WEB, at, families};

const DESTINATION: Extension = Extension::Destination { units: 0 };

#[test]
fn s33_options_and_extension_headers_hide_no_port() {
    let Some(site) = Site::new(WEB) else { return };
    let [f4, f6] = families();
    for words in 0..=10 {
        let packet = |port| Packet::tcp(at(f4.friend, 4000), at(f4.subject, port), SYN).options(words);
        assert!(site.inward(&packet(80)), "{words} words of options");
        assert!(!site.inward(&packet(81)), "{words} words of options");
    }
    let chains: [&[Extension]; 7] = [
        &[DESTINATION],
        &[Extension::HopByHop { units: 1 }, DESTINATION],
        &[Extension::Authentication { units: 1 }],
        &[
            Extension::Authentication { units: 4 },
            Extension::Destination { units: 3 },
        ],
        &[Extension::Routing {
            units: 2,
            segments_left: 0,
        }],
        &[Extension::Fragment(Fragment {
            id: 1,
            offset: 0,
            more: false,
        })],
        &[DESTINATION; 8],
    ];
    for chain in chains {
        let packet = |port| Packet::tcp(at(f6.friend, 4000), at(f6.subject, port), SYN).behind(chain);
        assert!(site.inward(&packet(80)), "{chain:?}");
        assert!(!site.inward(&packet(81)), "{chain:?}");
    }
    let refused: [&[Extension]; 3] = [
        &[DESTINATION; 9],
        &[Extension::Routing {
            units: 2,
            segments_left: 1,
        }],
        &[Extension::Fragment(Fragment {
            id: 1,
            offset: 0,
            more: false,
        }); 2],
    ];
    for chain in refused {
        let packet = Packet::tcp(at(f6.friend, 4000), at(f6.subject, 80), SYN).behind(chain);
        site.dropped_as(&format!("{chain:?}"), Reason::Extension, Ingress, &packet.frame());
    }
}

#[test]
fn s33_fragments_are_judged_by_the_ports_of_their_first() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let allowed = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN);
        let forbidden = Packet::tcp(at(f.friend, 4000), at(f.subject, 81), SYN);
        let later = |packet: &Packet, id| packet.part(id, 32, usize::MAX);
        site.dropped_as(
            "before its first",
            Reason::Fragment,
            Ingress,
            &later(&allowed, 1).frame(),
        );
        assert!(site.inward(&allowed.part(1, 0, 32)));
        assert!(site.inward(&later(&allowed, 1)));
        assert!(!site.inward(&later(&allowed, 2)), "of another datagram");
        assert!(!site.inward(&forbidden.part(3, 0, 32)));
        assert!(
            !site.inward(&later(&forbidden, 3)),
            "of a datagram whose first is denied"
        );
        // Towards the pod and from it are not the same datagram.
        let answer = Packet::udp(at(f.subject, 5000), at(f.friend, 53));
        assert!(!site.outward(&later(&answer, 1)));
        assert!(site.outward(&answer.part(4, 0, 32)));
        assert!(site.outward(&later(&answer, 4)));
    }
}

#[test]
fn s33_the_fragments_of_an_answer_pass_too() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        assert!(site.outward(&Packet::udp(at(f.subject, 5000), at(f.friend, 53))));
        let answer = Packet::udp(at(f.friend, 53), at(f.subject, 5000));
        assert!(site.inward(&answer.part(9, 0, 24)));
        assert!(site.inward(&answer.part(9, 24, usize::MAX)));
    }
}

#[test]
fn s35_fragments_that_could_rewrite_ports_or_flags_are_dropped_whoever_is_open() {
    let Some(mut site) = Site::new(OPEN) else { return };
    for policies in [OPEN, WEB] {
        site.enforce(policies);
        for (id, f) in (20..).zip(families()) {
            let packet = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN);
            site.dropped_as(
                "flags left to the next (RFC 1858)",
                Reason::Overlap,
                Ingress,
                &packet.part(id, 0, 8).frame(),
            );
            let out = Packet::tcp(at(f.subject, 5000), at(f.friend, 443), SYN);
            site.dropped_as(
                "the same from a pod",
                Reason::Overlap,
                Egress,
                &out.part(id, 0, 8).frame(),
            );
            assert!(site.inward(&packet.part(id, 0, 32)));
            site.dropped_as(
                "over the flags (RFC 3128)",
                Reason::Overlap,
                Ingress,
                &packet.part(id, 8, 48).frame(),
            );
            assert!(site.inward(&packet.part(id, 32, usize::MAX)));
        }
        // Behind an extension header that is fragmented too, the ports are further back.
        let [_, f] = families();
        let folded = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN)
            .behind(&[DESTINATION; 2])
            .folded();
        assert!(site.inward(&folded.part(30, 0, 48)));
        site.dropped_as(
            "over the ports",
            Reason::Overlap,
            Ingress,
            &folded.part(30, 16, 48).frame(),
        );
        site.dropped_as(
            "over the flags",
            Reason::Overlap,
            Ingress,
            &folded.part(30, 24, 48).frame(),
        );
        assert!(site.inward(&folded.part(30, 48, usize::MAX)));
    }
}

#[test]
fn s34_what_cannot_be_read_falls_where_a_direction_is_isolated_and_passes_where_it_is_open() {
    let Some(mut site) = Site::new(CLOSED) else { return };
    let mut table = vec![
        (
            "an unknown ethertype",
            Reason::Ethertype,
            Ingress,
            ethernet(&[], 0x88cc, &[0; 46]),
        ),
        ("RARP", Reason::Ethertype, Egress, ethernet(&[], 0x8035, &[0; 46])),
    ];
    for f in families() {
        let (into, out) = (
            Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN),
            Packet::tcp(at(f.subject, 5000), at(f.friend, 443), SYN),
        );
        table.push((
            "a tag",
            Reason::Vlan,
            Ingress,
            into.clone().tagged(VLAN, 7).frame(),
        ));
        table.push(("a tag", Reason::Vlan, Egress, out.clone().tagged(VLAN, 7).frame()));
        table.push((
            "two tags",
            Reason::Vlan,
            Ingress,
            into.clone().tagged(PROVIDER_VLAN, 7).tagged(VLAN, 8).frame(),
        ));
        let mut short = into.frame();
        short.truncate(ETHERNET + if f.subject.is_ipv4() { 28 } else { 48 });
        table.push(("a header cut short", Reason::Malformed, Ingress, short));
        let mut wrong = into.frame();
        wrong[ETHERNET] = 0x15;
        table.push(("a version that is none", Reason::Malformed, Ingress, wrong));
    }
    let [f4, _] = families();
    let mut tiny = Packet::tcp(at(f4.friend, 4000), at(f4.subject, 80), SYN).frame();
    tiny[ETHERNET] = 0x44;
    table.push(("a header of 16 bytes", Reason::Malformed, Ingress, tiny));
    for (what, reason, direction, bytes) in &table {
        site.dropped_as(what, *reason, *direction, bytes);
    }
    site.enforce(OPEN);
    for (what, _, direction, bytes) in &table {
        assert!(
            site.frame(*direction, ELSEWHERE, bytes),
            "{what} passes an open direction"
        );
    }
}

#[test]
fn s34_no_beginning_of_an_allowed_frame_passes_without_its_ports_and_flags() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let header = ETHERNET + if f.subject.is_ipv4() { 20 } else { 40 };
        let frames = [
            (Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN), TCP),
            (Packet::tcp(at(f.friend, 4000), at(f.subject, 80), ACK), TCP),
            (Packet::udp(at(f.friend, 53), at(f.subject, 5000)), UDP),
        ];
        assert!(site.outward(&Packet::udp(at(f.subject, 5000), at(f.friend, 53))));
        for (packet, protocol) in frames {
            let whole = packet.frame();
            assert!(site.frame(Ingress, ELSEWHERE, &whole));
            let needed = header + if protocol == TCP { 20 } else { 8 };
            for length in ETHERNET + 1..needed {
                // Newer kernels do not run a frame that is shorter than its IP header.
                match site.try_frame(Ingress, &whole[..length]) {
                    Some(passes) => assert!(!passes, "{length} bytes of {packet:?}"),
                    None => assert!(length < header, "{length} bytes are not run"),
                }
            }
        }
    }
    // Lengths that the header itself gives, in frames that are long enough.
    for (f, ethertype) in families().into_iter().zip([IPV4, IPV6]) {
        let packet = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN).ip();
        for length in 0..40u16 {
            let mut bytes = packet.clone();
            let (place, value) = if ethertype == IPV4 {
                (2, length)
            } else {
                (4, length.saturating_sub(20))
            };
            bytes[place..place + 2].copy_from_slice(&value.to_be_bytes());
            assert!(
                !site.frame(Ingress, ELSEWHERE, &ethernet(&[], ethertype, &bytes)),
                "{length}"
            );
        }
    }
}
