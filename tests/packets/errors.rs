//! ICMP: echo, other questions, and errors.

use std::net::IpAddr;

use palisade::bpf::Reason;
use palisade::model::Direction::{Egress, Ingress};

use crate::frame::{Packet, SYN};
use crate::site::{CLOSED, FRIEND, OPEN, Site, WEB, at, families};

/// Types of errors that may pass: unreachable, time exceeded, parameter problem, and of IPv6 packet too big.
fn errors(address: IpAddr) -> &'static [u8] {
    if address.is_ipv4() {
        &[3, 11, 12]
    } else {
        &[1, 2, 3, 4]
    }
}

#[test]
fn s31_errors_about_allowed_flows_pass_and_others_do_not() {
    let Some(site) = Site::new(WEB) else { return };
    for f in families() {
        let dns = Packet::udp(at(f.subject, 5000), at(f.friend, 53));
        let forbidden = Packet::udp(at(f.subject, 5000), at(f.friend, 54));
        assert!(site.outward(&dns));
        for &kind in errors(f.subject) {
            // From a router on the way, which no policy names.
            let about = |quoted: &Packet| {
                Packet::error(
                    f.outside,
                    f.subject,
                    kind,
                    &quoted.ip()[..quoted.ip().len().min(60)],
                )
            };
            assert!(site.inward(&about(&dns)), "type {kind}");
            site.dropped_as(
                "about a flow that is not",
                Reason::Unrelated,
                Ingress,
                &about(&forbidden).frame(),
            );
            let elsewhere = Packet::error(f.outside, f.stranger, kind, &dns.ip());
            assert!(!site.inward(&elsewhere), "not to the one who sent it");
            let cut = Packet::error(
                f.outside,
                f.subject,
                kind,
                &dns.ip()[..if f.subject.is_ipv4() { 22 } else { 42 }],
            );
            assert!(!site.inward(&cut), "too little is quoted");
        }
        // The pod answers what came to it, and only to the one who sent it.
        let request = Packet::tcp(at(f.friend, 4000), at(f.subject, 80), SYN);
        assert!(site.inward(&request));
        let error = errors(f.subject)[0];
        assert!(site.outward(&Packet::error(f.subject, f.friend, error, &request.ip())));
        site.dropped_as(
            "an error to somebody else",
            Reason::Unrelated,
            Egress,
            &Packet::error(f.subject, f.stranger, error, &request.ip()).frame(),
        );
        // An error opens nothing in return.
        assert!(!site.outward(&Packet::udp(at(f.subject, 9), at(f.outside, 9))));
    }
}

#[test]
fn s31_redirects_and_router_advertisements_are_no_pods_business() {
    let Some(mut site) = Site::new(OPEN) else { return };
    for policies in [OPEN, CLOSED] {
        site.enforce(policies);
        for f in families() {
            let redirect = if f.subject.is_ipv4() { 5 } else { 137 };
            let from_pod = Packet::icmp(f.subject, f.friend, redirect, 0, &[0; 44]);
            site.dropped_as("a pod's redirect", Reason::Router, Egress, &from_pod.frame());
            if policies == CLOSED {
                let to_pod = Packet::icmp(f.outside, f.subject, redirect, 0, &[0; 44]);
                site.dropped_as("a redirect to a pod", Reason::Router, Ingress, &to_pod.frame());
            }
        }
        let [_, f] = families();
        let advertisement =
            Packet::icmp(f.subject, "ff02::1".parse().unwrap(), 134, 0, &[0; 12]).hop_limit(255);
        site.dropped_as(
            "a pod's router advertisement",
            Reason::Router,
            Egress,
            &advertisement.frame(),
        );
    }
}

#[test]
fn s32_echo_and_other_icmp_obey_rules_without_ports() {
    let Some(mut site) = Site::new(WEB) else { return };
    for f in families() {
        let other = if f.subject.is_ipv4() { 13 } else { 139 };
        assert!(!site.inward(&Packet::echo_request(f.friend, f.subject, 1)));
        assert!(!site.outward(&Packet::echo_request(f.subject, f.friend, 1)));
        assert!(!site.outward(&Packet::echo_reply(f.subject, f.friend, 1)));
        assert!(!site.inward(&Packet::icmp(f.friend, f.subject, other, 0, &[0; 16])));
    }
    site.enforce(FRIEND);
    for f in families() {
        let other = if f.subject.is_ipv4() { 13 } else { 139 };
        assert!(site.inward(&Packet::echo_request(f.friend, f.subject, 2)));
        assert!(site.inward(&Packet::icmp(f.friend, f.subject, other, 0, &[0; 16])));
        assert!(!site.inward(&Packet::echo_request(f.stranger, f.subject, 2)));
        assert!(!site.inward(&Packet::icmp(f.stranger, f.subject, other, 0, &[0; 16])));
        assert!(!site.outward(&Packet::echo_request(f.subject, f.stranger, 2)));
    }
    // Answers pass by the request's identifier, and only they.
    let ingress_only = FRIEND.replace(
        "  egress: [{to: [{podSelector: {matchLabels: {app: friend}}}]}]\n",
        "",
    );
    site.enforce(&ingress_only);
    for f in families() {
        assert!(!site.outward(&Packet::echo_reply(f.subject, f.friend, 3)));
        assert!(site.inward(&Packet::echo_request(f.friend, f.subject, 3)));
        assert!(site.outward(&Packet::echo_reply(f.subject, f.friend, 3)));
        assert!(!site.outward(&Packet::echo_reply(f.subject, f.friend, 4)));
        assert!(
            !site.outward(&Packet::echo_request(f.subject, f.friend, 3)),
            "a question with an answer's identifier"
        );
    }
}
