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
