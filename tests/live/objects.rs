//! Objects as YAML.

use crate::netns::Addresses;

/// `id` is `namespace/name`; `labels` and `more` are the insides of flow mappings, as in `app: web, tier: front`.
pub fn pod_with(id: &str, labels: &str, addresses: Addresses, metadata: &str, status: &str) -> String {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    let ips: Vec<String> = addresses
        .list()
        .iter()
        .map(|ip| format!("{{ip: \"{ip}\"}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}, {metadata}}}\n\
         spec: {{containers: [{{name: main, image: example.com/main}}]}}\n\
         status: {{podIPs: [{}], {status}}}\n",
        ips.join(", ")
    )
}

/// A pod that runs.
pub fn pod(id: &str, labels: &str, addresses: Addresses) -> String {
    pod_with(id, labels, addresses, "", "phase: Running")
}

/// `spec` is the inside of a flow mapping.
pub fn policy(id: &str, spec: &str) -> String {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{{spec}}}\n"
    )
}

/// Selects pods labelled `app: NAME`.
pub fn app(name: &str) -> String {
    format!("podSelector: {{matchLabels: {{app: {name}}}}}")
}

/// A Service of port 80, TCP and UDP, with one ready backend on port 8080, and the slices that say so.
pub fn service(id: &str, cluster_ips: [&str; 2], backend: Addresses) -> String {
    let (namespace, name) = id.split_once('/').expect("namespace/name");
    let [v4, v6] = cluster_ips;
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  selector: {{app: {name}}}\n  clusterIP: \"{v4}\"\n  clusterIPs: [\"{v4}\", \"{v6}\"]\n\
         \x20 ports: [{{name: t, port: 80, targetPort: 8080}}, {{name: u, port: 80, targetPort: 8080, protocol: UDP}}]\n"
    );
    for ip in backend.list() {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let label = format!("kubernetes.io/service-name: {name}");
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: {family}\n\
             metadata: {{name: {name}-{}, namespace: {namespace}, labels: {{{label}}}}}\n\
             endpoints: [{{addresses: [\"{ip}\"], conditions: {{ready: true}}}}]\n\
             ports: [{{name: t, port: 8080, protocol: TCP}}, {{name: u, port: 8080, protocol: UDP}}]\n",
            family.to_lowercase()
        );
    }
    text
}
