//! Services as kube-proxy makes them: the ClusterIP becomes a backend's address in `prerouting` and `output`, and a pod that
//! reaches itself so is masqueraded.

use std::net::IpAddr;

use crate::netns::Answer::{self, Dropped, Reached};
use crate::netns::{Layout, Pod, Service};
use crate::objects::{app, policy, service};
use crate::probes::{How, Probe, check, echo_services};
use crate::require_root;
use crate::site::{KINDS, Site};

const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd96::10"];

/// Whose rules translate.
#[derive(Clone, Copy, Debug)]
enum Proxy {
    Nftables,
    Iptables,
}

impl Proxy {
    /// Translates port 80 of the ClusterIPs to port 8080 of the pod.
    fn translate(self, site: &Site, pod: &Pod) {
        let (v4, v6) = (pod.addresses.v4.unwrap(), pod.addresses.v6.unwrap());
        let [ip4, ip6] = CLUSTER_IPS;
        let host = &site.host.namespace;
        match self {
            Self::Nftables => {
                let rules = format!(
                    "table inet proxy {{
                    chain services {{
                        ip saddr {v4} ip daddr {ip4} meta mark set meta mark | 0x4000
                        ip6 saddr {v6} ip6 daddr {ip6} meta mark set meta mark | 0x4000
                        ip daddr {ip4} meta l4proto {{ tcp, udp }} th dport 80 dnat ip to {v4}:8080
                        ip6 daddr {ip6} meta l4proto {{ tcp, udp }} th dport 80 dnat ip6 to [{v6}]:8080
                    }}
                    chain pods {{ type nat hook prerouting priority dstnat; jump services; }}
                    chain node {{ type nat hook output priority -100; jump services; }}
                    chain hairpin {{
                        type nat hook postrouting priority srcnat;
                        meta mark & 0x4000 == 0x4000 masquerade
                    }}
                }}"
                );
                host.exec("nft", &["-f", "-"], &rules);
            }
            Self::Iptables => {
                let families = [
                    ("iptables-restore", v4.to_string(), ip4, format!("{v4}:8080")),
                    ("ip6tables-restore", v6.to_string(), ip6, format!("[{v6}]:8080")),
                ];
                for (program, pod, cluster_ip, to) in families {
                    let rules = format!(
                        "*nat
                        :SERVICES - [0:0]
                        -A SERVICES -s {pod} -d {cluster_ip} -j MARK --set-xmark 0x4000/0x4000
                        -A SERVICES -d {cluster_ip} -p tcp --dport 80 -j DNAT --to-destination {to}
                        -A SERVICES -d {cluster_ip} -p udp --dport 80 -j DNAT --to-destination {to}
                        -A PREROUTING -j SERVICES
                        -A OUTPUT -j SERVICES
                        -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
                        COMMIT\n"
                    );
                    let lines: Vec<&str> = rules.lines().map(str::trim_start).collect();
                    host.exec(program, &[], &(lines.join("\n") + "\n"));
                }
            }
        }
    }
}

/// A site where `api`, on port 8080, is behind port 80 of a Service.
fn shop(kind: &'static str, proxy: Proxy) -> (Site, [Pod; 4], Vec<Service>) {
    let site = Site::new(Layout::Routed, kind);
    // The node's own address of each family, for masqueraded packets.
    let outside = site.host.outside();
    let pods = site.pods(["web", "api", "intruder"]);
    let services = echo_services(&[&pods[1].namespace], &[8080, 80]);
    let addresses = pods[1].addresses;
    proxy.translate(&site, &pods[1]);
    site.folder
        .put("services.yaml", &service("shop/api", CLUSTER_IPS, addresses));
    let [web, api, intruder] = pods;
    (site, [web, api, intruder, outside], services)
}

fn ask(from: &Pod, expected: Answer) {
    let probes: Vec<Probe<'_>> = CLUSTER_IPS
        .iter()
        .flat_map(|ip| [(ip, How::Tcp(80)), (ip, How::Udp(80))])
        .map(|(ip, how)| Probe {
            from: &from.namespace,
            to: (&from.namespace, ip.parse::<IpAddr>().unwrap()),
            how,
            expected,
        })
        .collect();
    check(&probes);
}

#[test]
fn s45_cluster_ips_replies_and_hairpin_work_with_kube_proxy_in_nftables_mode() {
    require_root!();
    cluster_ips_replies_and_hairpin(Proxy::Nftables);
}

#[test]
fn s45_cluster_ips_replies_and_hairpin_work_with_kube_proxy_in_iptables_mode() {
    require_root!();
    cluster_ips_replies_and_hairpin(Proxy::Iptables);
}

fn cluster_ips_replies_and_hairpin(proxy: Proxy) {
    for kind in KINDS {
        let (mut site, [web, api, intruder, _outside], _services) = shop(kind, proxy);
        let by_8080 = "ports: [{port: 8080}, {port: 8080, protocol: UDP}]";
        site.folder.put(
            "policies.yaml",
            &[
                policy("shop/none", "podSelector: {}, policyTypes: [Ingress, Egress]"),
                policy(
                    "shop/web",
                    &format!(
                        "{}, egress: [{{to: [{{{}}}], {by_8080}}}]",
                        app("web"),
                        app("api")
                    ),
                ),
                policy(
                    "shop/intruder",
                    &format!(
                        "{}, egress: [{{to: [{{{}}}], {by_8080}}}]",
                        app("intruder"),
                        app("api")
                    ),
                ),
                policy(
                    "shop/api",
                    &format!(
                        "{}, ingress: [{{from: [{{{}}}], {by_8080}}}]",
                        app("api"),
                        app("web")
                    ),
                ),
            ]
            .concat(),
        );
        site.start(&["vethweb", "vethapi", "vethintruder"]);
        ask(&web, Reached);
        ask(&intruder, Dropped);
        // Itself, though no policy says so.
        ask(&api, Reached);
    }
}

#[test]
fn s43_a_pod_reaches_itself_through_its_own_service() {
    require_root!();
    for kind in KINDS {
        let (mut site, [web, api, _intruder, _outside], _services) = shop(kind, Proxy::Nftables);
        let none = policy("shop/none", "podSelector: {}, policyTypes: [Ingress, Egress]");
        site.folder.put("policies.yaml", &none);
        site.start(&["vethweb", "vethapi"]);
        ask(&api, Reached);
        ask(&web, Dropped);
        let itself: Vec<Probe<'_>> = api
            .addresses
            .list()
            .into_iter()
            .map(|address| Probe {
                from: &api.namespace,
                to: (&api.namespace, address),
                how: How::Tcp(8080),
                expected: Reached,
            })
            .collect();
        check(&itself);
    }
}

#[test]
fn s24_a_numeric_port_is_the_pods_port_after_translation() {
    require_root!();
    let (mut site, [web, _api, _intruder, _outside], _services) = shop("tcx", Proxy::Nftables);
    let by = |port| {
        let ports = format!("ports: [{{port: {port}}}, {{port: {port}, protocol: UDP}}]");
        policy(
            "shop/web",
            &format!("{}, egress: [{{to: [{{{}}}], {ports}}}]", app("web"), app("api")),
        )
    };
    site.folder.put("policies.yaml", &by(8080));
    site.start(&["vethweb", "vethapi"]);
    ask(&web, Reached);
    site.put("policies.yaml", &by(80));
    ask(&web, Dropped);
}

#[test]
fn s22_egress_to_an_allowed_address_through_its_service_works() {
    require_root!();
    let (mut site, [web, api, _intruder, _outside], _services) = shop("tcx", Proxy::Nftables);
    let to = |addresses: &Pod| {
        let blocks: Vec<String> = addresses
            .addresses
            .list()
            .iter()
            .map(|ip| {
                format!(
                    "{{ipBlock: {{cidr: \"{ip}/{}\"}}}}",
                    if ip.is_ipv4() { 32 } else { 128 }
                )
            })
            .collect();
        policy(
            "shop/web",
            &format!("{}, egress: [{{to: [{}]}}]", app("web"), blocks.join(", ")),
        )
    };
    site.folder.put("policies.yaml", &to(&api));
    site.start(&["vethweb", "vethapi"]);
    ask(&web, Reached);
    site.put("policies.yaml", &to(&web));
    ask(&web, Dropped);
}
