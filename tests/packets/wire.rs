//! Protocols, headers, fragments and what is no packet at all (SEMANTICS 30 to 34).

use crate::frame::{self, ACK, Extension, GRE, Packet, SYN, VLAN};
use crate::kernel_support::root;
use crate::lab::{FRIEND, IN, LISTENS, Lab, OPEN, OUT, SHUT, STRANGER, WEB, address};
use crate::{FAMILIES, end, ip};

#[test]
fn s30_ports_count_by_protocol_and_protocols_without_ports_need_a_rule_without_ports() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let to = |port| end(v6, SHUT, port);
        let web = end(v6, WEB, 4000);
        for (name, packet, expected) in [
            ("TCP 80", Packet::tcp(web, to(80), SYN), "pass web"),
            ("TCP 79", Packet::tcp(web, to(79), SYN), "drop isolated-in"),
            ("TCP 81", Packet::tcp(web, to(81), SYN), "drop isolated-in"),
            ("UDP 53", Packet::udp(web, to(53)), "pass web"),
            ("UDP 80", Packet::udp(web, to(80)), "drop isolated-in"),
            ("SCTP 80", Packet::sctp(web, to(80)), "drop isolated-in"),
            ("SCTP 53", Packet::sctp(web, to(53)), "drop isolated-in"),
            (
                "GRE",
                Packet::new(web.ip(), to(0).ip(), GRE, vec![0; 20]),
                "drop isolated-in",
            ),
        ] {
            lab.case(name, SHUT, IN, &packet.frame(), expected);
        }
        let friend = end(v6, FRIEND, 4000);
        for (name, packet) in [
            ("SCTP", Packet::sctp(friend, to(9))),
            ("GRE", Packet::new(friend.ip(), to(0).ip(), GRE, vec![0; 20])),
        ] {
            lab.case(name, SHUT, IN, &packet.frame(), "pass friend");
        }
    }
}

#[test]
fn s31_neighbour_discovery_and_arp_pass_and_pods_are_no_routers() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    let arp = |sender, target| frame::arp(1, [10, 0, 0, sender], [10, 0, 0, target]);
    lab.case("ARP request", SHUT, OUT, &arp(SHUT, STRANGER), "pass neighbour");
    lab.case(
        "ARP answer",
        SHUT,
        IN,
        &frame::arp(2, [10, 0, 0, STRANGER], [10, 0, 0, SHUT]),
        "pass neighbour",
    );
    let (own, all) = (address(true, SHUT), ip("ff02::1"));
    let target = |n| {
        [
            &[0; 4][..],
            &match address(true, n) {
                std::net::IpAddr::V6(a) => a.octets(),
                std::net::IpAddr::V4(_) => unreachable!("IPv6"),
            },
        ]
        .concat()
    };
    for (name, kind, hops, rest, expected) in [
        ("solicitation", 135, 255, target(STRANGER), "pass neighbour"),
        ("own advertisement", 136, 255, target(SHUT), "pass neighbour"),
        (
            "another's advertisement",
            136,
            255,
            target(FRIEND),
            "drop spoofed",
        ),
        ("router solicitation", 133, 255, vec![0; 4], "pass neighbour"),
        ("MLD report", 143, 1, vec![0; 24], "pass neighbour"),
        (
            "forwarded solicitation",
            135,
            254,
            target(STRANGER),
            "drop isolated-out",
        ),
        ("router advertisement", 134, 255, vec![0; 12], "drop router"),
        ("redirect", 137, 255, vec![0; 36], "drop router"),
    ] {
        let packet = Packet::icmp(own, all, kind, 0, &rest).hop_limit(hops);
        lab.case(name, SHUT, OUT, &packet.frame(), expected);
    }
    let open = Packet::icmp(address(true, OPEN), all, 134, 0, &[0; 12]).hop_limit(255);
    lab.case(
        "router advertisement of an open pod",
        OPEN,
        OUT,
        &open.frame(),
        "drop router",
    );
    let redirect = Packet::icmp(address(false, OPEN), address(false, FRIEND), 5, 1, &[0; 32]);
    lab.case(
        "redirect of an open pod",
        OPEN,
        OUT,
        &redirect.frame(),
        "drop router",
    );
    let redirect = Packet::icmp(address(false, FRIEND), address(false, SHUT), 5, 1, &[0; 32]);
    lab.case("redirect to a pod", SHUT, IN, &redirect.frame(), "drop router");
}

#[test]
fn s31_icmp_errors_pass_by_the_flow_that_they_quote_and_open_nothing() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let errors: &[u8] = if v6 { &[1, 2, 3, 4] } else { &[3, 11, 12] };
        let (own, web) = (end(v6, SHUT, 5000), end(v6, WEB, 80));
        let router = ip(if v6 { "2001:db8::1" } else { "192.0.2.1" });
        let quoted = Packet::tcp(own, web, SYN).ip();
        let denied = Packet::tcp(own, end(v6, WEB, 81), SYN).ip();
        for kind in errors {
            let error = |bytes: &[u8]| Packet::error(router, own.ip(), *kind, bytes).frame();
            lab.case(
                "quotes what is allowed",
                SHUT,
                IN,
                &error(&quoted),
                "pass icmp_error",
            );
            lab.case(
                "quotes what is denied",
                SHUT,
                IN,
                &error(&denied),
                "drop unrelated",
            );
            lab.case("is cut short", SHUT, IN, &error(&quoted[..20]), "drop unrelated");
            let of_another = Packet::tcp(end(v6, STRANGER, 5000), web, SYN).ip();
            lab.case(
                "quotes another's",
                SHUT,
                IN,
                &error(&of_another),
                "drop unrelated",
            );
        }
        let coming = Packet::tcp(end(v6, FRIEND, 4000), end(v6, SHUT, 80), SYN).ip();
        let kind = errors[0];
        let back = Packet::error(own.ip(), address(v6, FRIEND), kind, &coming).frame();
        lab.case("pod's error to who sent it", SHUT, OUT, &back, "pass icmp_error");
        let elsewhere = Packet::error(own.ip(), address(v6, STRANGER), kind, &coming).frame();
        lab.case(
            "pod's error to somebody else",
            SHUT,
            OUT,
            &elsewhere,
            "drop unrelated",
        );
        let open = Packet::udp(end(v6, STRANGER, 5000), own).frame();
        lab.case("and nothing is opened by it", SHUT, IN, &open, "drop isolated-in");
    }
}

#[test]
fn s32_echo_and_other_icmp_obey_rules_without_ports() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let (own, friend, web) = (address(v6, LISTENS), address(v6, FRIEND), address(v6, WEB));
        lab.case(
            "request",
            LISTENS,
            IN,
            &Packet::echo_request(friend, own, 7).frame(),
            "pass friend",
        );
        lab.follows(
            "its reply",
            LISTENS,
            OUT,
            &Packet::echo_reply(own, friend, 7).frame(),
            "pass friend",
        );
        lab.case(
            "a reply to nothing",
            LISTENS,
            OUT,
            &Packet::echo_reply(own, friend, 8).frame(),
            "drop isolated-out",
        );
        lab.case(
            "own request",
            LISTENS,
            OUT,
            &Packet::echo_request(own, friend, 7).frame(),
            "drop isolated-out",
        );
        lab.case(
            "where rules have ports",
            LISTENS,
            IN,
            &Packet::echo_request(web, own, 7).frame(),
            "drop isolated-in",
        );
        let other = if v6 { 139 } else { 13 };
        let packet = |from| Packet::icmp(from, own, other, 0, &[0; 12]).frame();
        lab.case("other ICMP", LISTENS, IN, &packet(friend), "pass friend");
        lab.case(
            "other ICMP where rules have ports",
            LISTENS,
            IN,
            &packet(web),
            "drop isolated-in",
        );
    }
}

#[test]
fn s33_ports_are_found_behind_options_and_extension_headers() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for words in 1..=10 {
        for (port, expected) in [(80, "pass web"), (81, "drop isolated-in")] {
            let packet =
                Packet::tcp(end(false, WEB, 4000 + words), end(false, SHUT, port), SYN).options(words.into());
            lab.case("options", SHUT, IN, &packet.frame(), expected);
        }
    }
    let each = [
        Extension::HopByHop { units: 0 },
        Extension::Destination { units: 3 },
        Extension::Routing {
            units: 2,
            segments_left: 0,
        },
        Extension::Authentication { units: 4 },
        Extension::Fragment(frame::Fragment {
            id: 9,
            offset: 0,
            more: false,
        }),
    ];
    for (number, extension) in each.into_iter().enumerate() {
        for (port, expected) in [(80, "pass web"), (81, "drop isolated-in")] {
            let packet = Packet::tcp(end(true, WEB, 4100 + number as u16), end(true, SHUT, port), SYN);
            lab.case(
                &format!("{extension:?}"),
                SHUT,
                IN,
                &packet.behind(&[extension]).frame(),
                expected,
            );
        }
    }
    let many = |number| vec![Extension::Destination { units: 0 }; number];
    let packet = |port, n| {
        Packet::tcp(end(true, WEB, 4200 + n as u16), end(true, SHUT, port), SYN)
            .behind(&many(n))
            .frame()
    };
    lab.case("eight headers", SHUT, IN, &packet(80, 8), "pass web");
    lab.case(
        "eight headers to another port",
        SHUT,
        IN,
        &packet(81, 8),
        "drop isolated-in",
    );
    lab.case("nine headers", SHUT, IN, &packet(80, 9), "drop extension");
    let routed = Packet::tcp(end(true, WEB, 4300), end(true, SHUT, 80), SYN).behind(&[Extension::Routing {
        units: 2,
        segments_left: 1,
    }]);
    lab.case("segments left", SHUT, IN, &routed.frame(), "drop extension");
}

#[test]
fn s33_fragments_are_judged_by_the_first() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let to = |port| Packet::udp(end(v6, WEB, 4000), end(v6, SHUT, port));
        let (allowed, denied) = (to(53), to(54));
        lab.case(
            "later before first",
            SHUT,
            IN,
            &allowed.part(1, 16, 99).frame(),
            "drop fragment",
        );
        lab.case("first", SHUT, IN, &allowed.part(1, 0, 16).frame(), "pass web");
        lab.case("middle", SHUT, IN, &allowed.part(1, 16, 32).frame(), "pass web");
        lab.case("last", SHUT, IN, &allowed.part(1, 32, 99).frame(), "pass web");
        lab.case(
            "of another datagram",
            SHUT,
            IN,
            &allowed.part(2, 16, 99).frame(),
            "drop fragment",
        );
        lab.case(
            "denied first",
            SHUT,
            IN,
            &denied.part(3, 0, 16).frame(),
            "drop isolated-in",
        );
        lab.case(
            "its end",
            SHUT,
            IN,
            &denied.part(3, 16, 99).frame(),
            "drop fragment",
        );
        lab.case(
            "over the ports",
            SHUT,
            IN,
            &allowed.part(1, 0, 99).frame(),
            "pass web",
        );
    }
}

#[test]
fn s34_what_cannot_be_parsed_falls_in_an_isolated_direction_only() {
    if !root() {
        return;
    }
    let mut lab = Lab::new();
    for v6 in FAMILIES {
        let own = |n| Packet::udp(end(v6, n, 4000), end(v6, FRIEND, 9));
        let vlan = |n| own(n).tagged(VLAN, 5).frame();
        let zero = |n| own(n).tagged(VLAN, 0).frame();
        let qinq = |n| own(n).tagged(frame::PROVIDER_VLAN, 5).tagged(VLAN, 6).frame();
        let odd = |_| frame::ethernet(&[], 0x88b5, &[0; 46]);
        let lie = |n| {
            let mut bytes = own(n).frame();
            let length = bytes.len();
            bytes.truncate(length - 1);
            bytes
        };
        type Build<'a> = &'a dyn Fn(u8) -> Vec<u8>;
        let cases: [(&str, Build<'_>, &str); 5] = [
            ("VLAN", &vlan, "drop vlan"),
            ("VLAN 0", &zero, "drop vlan"),
            ("QinQ", &qinq, "drop vlan"),
            ("ethertype", &odd, "drop ethertype"),
            ("shorter than it says", &lie, "drop malformed"),
        ];
        for (name, build, expected) in cases {
            lab.case(name, SHUT, OUT, &build(SHUT), expected);
            lab.case(name, OPEN, OUT, &build(OPEN), "pass open");
        }
    }
}

#[test]
fn s34_no_prefix_of_an_allowed_packet_passes_as_one() {
    if !root() {
        return;
    }
    let lab = Lab::new();
    for v6 in FAMILIES {
        let own = end(v6, SHUT, 4000);
        let mut frames = vec![
            Packet::tcp(own, end(v6, WEB, 80), SYN).frame(),
            Packet::tcp(own, end(v6, WEB, 80), ACK).frame(),
            Packet::udp(own, end(v6, WEB, 53)).frame(),
            Packet::sctp(own, end(v6, FRIEND, 9)).frame(),
            Packet::echo_request(own.ip(), address(v6, FRIEND), 1).frame(),
            Packet::udp(own, end(v6, WEB, 53)).tagged(VLAN, 1).frame(),
        ];
        if v6 {
            let headers = [
                Extension::HopByHop { units: 1 },
                Extension::Authentication { units: 2 },
            ];
            frames.push(Packet::udp(own, end(v6, WEB, 53)).behind(&headers).frame());
        } else {
            frames.push(Packet::udp(own, end(v6, WEB, 53)).options(10).frame());
        }
        for frame in frames {
            for length in frame::ETHERNET..frame.len() {
                // 5.10 to 6.x refuse the shortest.
                let Some(seen) = lab.seen(SHUT, OUT, 0, &frame[..length]) else {
                    continue;
                };
                assert!(
                    seen.starts_with("drop"),
                    "{length} of {} bytes, IPv6 {v6}: {seen}",
                    frame.len()
                );
            }
        }
    }
}
