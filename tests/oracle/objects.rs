//! A cluster written as Kubernetes objects, in one of the many ways in which it can be written.

use palisade::model::{
    EndpointSlice, Enforcement, Labels, Operator, Peer, Pod, Policy, PortMatch, Protocol, Rule, Selector,
    Service, Snapshot,
};
use serde_json::{Map, Value, json};

use super::Rng;

const ENFORCEMENT: &str = "palisade.dev/enforcement";

/// What reads back as the cluster, in any order. Defaults are sometimes spelled out, sometimes left out. Peers and ports
/// that could not be read (a list that is there and empty) are written so that they cannot be.
pub fn objects(rng: &mut Rng, cluster: &Snapshot) -> Vec<Value> {
    let mut objects = Vec::new();
    for namespace in &cluster.namespaces {
        let mut labels = (*namespace.labels).clone();
        // A file need not have it.
        if rng.one_in(2) {
            labels.remove("kubernetes.io/metadata.name");
        }
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": &*namespace.name, "labels": label_map(&labels),
                "annotations": annotations(rng, match namespace.enforcement {
                    Enforcement::Enforce => None,
                    audit => Some(audit),
                }),
            },
        }));
    }
    objects.extend(cluster.pods.iter().map(|p| pod(rng, p)));
    objects.extend(cluster.services.iter().map(|s| service(rng, s)));
    objects.extend(cluster.endpoint_slices.iter().map(|s| endpoint_slice(rng, s)));
    objects.extend(cluster.policies.iter().map(|p| policy(rng, p)));
    for i in (1..objects.len()).rev() {
        objects.swap(i, rng.below(i + 1));
    }
    objects
}

/// What has none of them may have others.
fn annotations(rng: &mut Rng, enforcement: Option<Enforcement>) -> Value {
    let mut all = Map::new();
    match enforcement {
        Some(Enforcement::Audit) => drop(all.insert(ENFORCEMENT.into(), json!("audit"))),
        Some(Enforcement::Enforce) => drop(all.insert(ENFORCEMENT.into(), json!("enforce"))),
        None if rng.one_in(8) => drop(all.insert("example.com/enforcement".into(), json!("audit"))),
        None => {}
    }
    Value::Object(all)
}

fn label_map(labels: &Labels) -> Value {
    let pairs = labels.iter().map(|(k, v)| (k.to_string(), json!(&**v)));
    Value::Object(pairs.collect())
}

/// Sets a field, or leaves it out or null where it says what is the default anyway.
fn default(rng: &mut Rng, object: &mut Map<String, Value>, field: &str, value: Value) {
    match rng.below(3) {
        0 => drop(object.insert(field.into(), value)),
        1 => drop(object.insert(field.into(), Value::Null)),
        _ => {}
    }
}

fn protocol(rng: &mut Rng, object: &mut Map<String, Value>, protocol: Protocol) {
    let value = json!(protocol.to_string());
    if protocol == Protocol::Tcp {
        default(rng, object, "protocol", value);
    } else {
        object.insert("protocol".into(), value);
    }
}

fn pod(rng: &mut Rng, pod: &Pod) -> Value {
    let mut containers = vec![json!({"name": "main"})];
    let mut init = vec![json!({"name": "setup", "ports": [{"name": "http", "containerPort": 7}]})];
    // In order: sidecars last, as they are read.
    let sidecars = rng.below(pod.ports.len() + 1);
    for (i, port) in pod.ports.iter().enumerate() {
        let mut entry = Map::from_iter([("containerPort".to_string(), json!(port.number))]);
        protocol(rng, &mut entry, port.protocol);
        if let Some(name) = &port.name {
            entry.insert("name".into(), json!(&**name));
        }
        let name = format!("c{i}");
        if i + sidecars >= pod.ports.len() {
            init.push(json!({"name": name, "restartPolicy": "Always", "ports": [entry]}));
        } else {
            containers.push(json!({"name": name, "ports": [entry]}));
        }
    }
    let mut spec = Map::from_iter([("containers".to_string(), json!(containers))]);
    spec.insert("initContainers".into(), json!(init));
    if pod.host_network {
        spec.insert("hostNetwork".into(), json!(true));
    } else {
        default(rng, &mut spec, "hostNetwork", json!(false));
    }
    let mut metadata = json!({
        "name": &*pod.id.name, "namespace": &*pod.id.namespace, "uid": &*pod.uid, "labels": label_map(&pod.labels),
    });
    if let Some(created) = pod.created {
        metadata["creationTimestamp"] = json!(format!("1970-01-01T00:00:0{created}Z"));
    }
    if let Some(node) = &pod.node {
        spec.insert("nodeName".into(), json!(&**node));
    }
    let phase = match pod.finished {
        true => *rng.pick(&["Succeeded", "Failed"]),
        false => *rng.pick(&["Running", "Pending", "Unknown"]),
    };
    let mut status = json!({"phase": phase});
    if let Some(host) = pod.host_ip {
        status["hostIP"] = json!(host);
    }
    if let Some(first) = pod.addresses.first() {
        if pod.addresses.len() > 1 || rng.one_in(2) {
            let all = pod.addresses.iter().map(|a| json!({"ip": a}));
            status["podIPs"] = all.collect();
        }
        if status.get("podIPs").is_none() || rng.one_in(2) {
            status["podIP"] = json!(first);
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})
}

fn service(rng: &mut Rng, service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let mut entry = Map::from_iter([("port".to_string(), json!(port.port))]);
            protocol(rng, &mut entry, port.protocol);
            if port.name.is_empty() {
                default(rng, &mut entry, "name", json!(""));
            } else {
                entry.insert("name".into(), json!(&*port.name));
            }
            Value::Object(entry)
        })
        .collect();
    let mut spec = json!({"clusterIP": service.cluster_ips[0], "ports": ports});
    if service.cluster_ips.len() > 1 || rng.one_in(2) {
        spec["clusterIPs"] = json!(service.cluster_ips);
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": &*service.id.name, "namespace": &*service.id.namespace},
        "spec": spec,
    })
}

fn endpoint_slice(rng: &mut Rng, slice: &EndpointSlice) -> Value {
    let mut endpoints: Vec<Value> = slice
        .ready
        .iter()
        .map(|address| match rng.below(3) {
            0 => json!({"addresses": [address], "conditions": {"ready": true}}),
            1 => json!({"addresses": [address], "conditions": {}}),
            _ => json!({"addresses": [address]}),
        })
        .collect();
    let v6 = slice.ready.iter().any(|a| a.is_ipv6());
    if rng.one_in(3) {
        let unready = if v6 { "fd00::dead" } else { "10.0.0.222" };
        endpoints.push(json!({"addresses": [unready], "conditions": {"ready": false}}));
    }
    let ports: Vec<Value> = slice
        .ports
        .iter()
        .map(|port| {
            let mut entry = Map::from_iter([("name".to_string(), json!(&*port.name))]);
            protocol(rng, &mut entry, port.protocol);
            if let Some(number) = port.port {
                entry.insert("port".into(), json!(number));
            }
            Value::Object(entry)
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": &*slice.id.name, "namespace": &*slice.id.namespace,
            "labels": {"kubernetes.io/service-name": &*slice.service},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints, "ports": ports,
    })
}

fn policy(rng: &mut Rng, policy: &Policy) -> Value {
    let mut spec = Map::new();
    spec.insert("podSelector".into(), selector(rng, &policy.pod_selector));
    let mut types = Vec::new();
    if let Some(rules) = &policy.ingress {
        types.push("Ingress");
        rule_list(rng, &mut spec, "ingress", "from", rules);
    }
    if let Some(rules) = &policy.egress {
        types.push("Egress");
        rule_list(rng, &mut spec, "egress", "to", rules);
    }
    // What the API server would fill in: Ingress always, Egress where there are egress rules.
    let derived = policy.ingress.is_some() && policy.egress.as_ref().is_none_or(|rules| !rules.is_empty());
    if derived {
        default(rng, &mut spec, "policyTypes", json!(types));
    } else {
        spec.insert("policyTypes".into(), json!(types));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": &*policy.id.name, "namespace": &*policy.id.namespace, "uid": &*policy.uid,
            "annotations": annotations(rng, policy.enforcement),
        },
        "spec": spec,
    })
}

fn rule_list(rng: &mut Rng, spec: &mut Map<String, Value>, field: &str, peers_field: &str, rules: &[Rule]) {
    let list: Vec<Value> = rules
        .iter()
        .map(|rule| {
            let mut entry = Map::new();
            match &rule.peers {
                None => default(rng, &mut entry, peers_field, json!([])),
                Some(peers) if peers.is_empty() => {
                    entry.insert(peers_field.into(), json!([{"ipBlock": {"cidr": "10.0.0.0/99"}}]));
                }
                Some(peers) => {
                    let peers: Vec<Value> = peers.iter().map(|p| peer(rng, p)).collect();
                    entry.insert(peers_field.into(), json!(peers));
                }
            }
            match &rule.ports {
                None => default(rng, &mut entry, "ports", json!([])),
                Some(ports) if ports.is_empty() => {
                    entry.insert("ports".into(), json!([{"port": 70000}]));
                }
                Some(ports) => {
                    let ports: Vec<Value> = ports.iter().map(|p| port(rng, p)).collect();
                    entry.insert("ports".into(), json!(ports));
                }
            }
            Value::Object(entry)
        })
        .collect();
    if list.is_empty() {
        default(rng, spec, field, json!([]));
    } else {
        spec.insert(field.into(), json!(list));
    }
}

fn peer(rng: &mut Rng, peer: &Peer) -> Value {
    let mut entry = Map::new();
    match peer {
        Peer::Block { cidr, except } => {
            let mut block = json!({"cidr": cidr.net().to_string()});
            if !except.is_empty() {
                block["except"] = except.iter().map(|e| json!(e.net().to_string())).collect();
            }
            entry.insert("ipBlock".into(), block);
        }
        Peer::Pods { namespaces, pods } => {
            if let Some(namespaces) = namespaces {
                entry.insert("namespaceSelector".into(), selector(rng, namespaces));
            }
            if let Some(pods) = pods {
                entry.insert("podSelector".into(), selector(rng, pods));
            }
        }
    }
    Value::Object(entry)
}

fn port(rng: &mut Rng, port: &PortMatch) -> Value {
    let mut entry = Map::new();
    let of = match port {
        PortMatch::Every(protocol) => protocol,
        PortMatch::Named { protocol, name } => {
            entry.insert("port".into(), json!(&**name));
            protocol
        }
        PortMatch::Range {
            protocol,
            first,
            last,
        } => {
            entry.insert("port".into(), json!(first));
            if first < last || rng.one_in(3) {
                entry.insert("endPort".into(), json!(last));
            }
            protocol
        }
    };
    protocol(rng, &mut entry, *of);
    Value::Object(entry)
}

fn selector(rng: &mut Rng, selector: &Selector) -> Value {
    let mut labels = Map::new();
    let mut expressions = Vec::new();
    for requirement in selector.requirements() {
        let key = requirement.key.to_string();
        match &requirement.operator {
            Operator::In(values) if values.len() == 1 && !labels.contains_key(&key) && rng.one_in(2) => {
                labels.insert(key, json!(&*values[0]));
            }
            Operator::In(values) => expressions.push(json!({"key": key, "operator": "In", "values": values})),
            Operator::NotIn(values) => {
                expressions.push(json!({"key": key, "operator": "NotIn", "values": values}));
            }
            Operator::Exists => expressions.push(json!({"key": key, "operator": "Exists"})),
            Operator::DoesNotExist => {
                expressions.push(json!({"key": key, "operator": "DoesNotExist", "values": []}));
            }
        }
    }
    let mut entry = Map::new();
    if labels.is_empty() {
        default(rng, &mut entry, "matchLabels", json!({}));
    } else {
        entry.insert("matchLabels".into(), json!(labels));
    }
    if expressions.is_empty() {
        default(rng, &mut entry, "matchExpressions", json!([]));
    } else {
        entry.insert("matchExpressions".into(), json!(expressions));
    }
    Value::Object(entry)
}
