//! An API server that is slow, hangs, or turns away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Pod;
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{Site, endpoint, from};

const PORT: How = How::Tcp(8080);
/// Longer than the longest silence of the API server that is taken for its normal.
const HANG: Duration = Duration::from_secs(130);

fn policy(ingress: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "api", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": ingress},
    })
}

/// Where `api` lets nobody in.
fn shut() -> (Site, [Pod; 2]) {
    let mut site = Site::led();
    let pods = site.pods(["web", "api"]);
    site.server.put(policy(json!([])));
    site.start(&["vethweb", "vethapi"]);
    site.instance()
        .wait_for(0, &["applied: ", "PolicyEndpoint shop/api-"]);
    (site, pods)
}

#[test]
fn answers_that_come_a_second_late_make_changes_late_and_lose_no_leader() {
    require_server!();
    let (mut site, [web, api]) = shut();
    let _services = echo_services(&[&api.namespace], &[8080]);
    site.way.delay(Duration::from_secs(1));
    let mark = site.instance().mark();
    let begun = Instant::now();
    for ingress in [json!([{}]), json!([]), json!([{}]), json!([])] {
        let open = ingress != json!([]);
        site.change(&["applied: ", "PolicyEndpoint shop/api-"], |server| {
            server.put(policy(ingress));
        });
        table(&[(&web.namespace, &api, PORT, if open { Reached } else { Dropped })]);
    }
    // Long enough for its term to end if it were not renewed.
    let lease = Duration::from_secs(16);
    site.instance().let_run(lease.saturating_sub(begun.elapsed()));
    let log = site.instance().lines_since(mark);
    assert!(
        !log.iter().any(|line| line.contains("no longer leading")),
        "{log:?}"
    );
    assert_eq!(site.metric("palisade_leader", &[]), 1.0);
    // It starts as well.
    site.crash();
    site.launch();
    site.instance().wait_for(0, &["in force: "]);
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    assert_eq!(site.metric("palisade_watches_failing", &[]), 0.0);
}

#[test]
fn a_leader_whose_answers_come_too_late_to_renew_its_lease_leads_again_when_they_are_fast() {
    require_server!();
    let (mut site, [web, api]) = shut();
    let _services = echo_services(&[&api.namespace, &web.namespace], &[8080]);
    let mark = site.instance().mark();
    site.way.delay(Duration::from_secs(4));
    site.instance()
        .wait_for(mark, &["cannot reach the Lease", "no answer within"]);
    site.instance().wait_for(mark, &["no longer leading"]);
    assert_eq!(site.metric("palisade_leader", &[]), 0.0);
    assert!(site.metric("palisade_lease_errors_total", &[]) > 0.0);
    // The agent's watches are late and no more than that.
    site.put(endpoint("by-hand", "web", from(&api, 9000)));
    table(&[
        (&api.namespace, &web, PORT, Dropped),
        (&web.namespace, &api, PORT, Dropped),
    ]);
    site.server.put(policy(json!([{}])));
    let mark = site.instance().mark();
    site.way.mend();
    site.instance()
        .wait_for(mark, &["applied: ", "PolicyEndpoint shop/api-"]);
    table(&[(&web.namespace, &api, PORT, Reached)]);
    site.until_watched();
    assert_eq!(site.metric("palisade_leader", &[]), 1.0);
}

#[test]
fn a_server_that_hangs_longer_than_any_patience_changes_nothing_and_is_heard_again() {
    require_server!();
    let (mut site, [web, api]) = shut();
    let _services = echo_services(&[&api.namespace], &[8080]);
    let (mark, begun) = (site.instance().mark(), Instant::now());
    site.way.hang();
    site.server.put(policy(json!([{}])));
    site.instance().wait_for(mark, &["no longer leading"]);
    assert!(begun.elapsed() < Duration::from_secs(16), "{:?}", begun.elapsed());
    assert_eq!(site.metric("palisade_leader", &[]), 0.0);
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    while site.metric("palisade_watches_failing", &[]) < 2.0 {
        assert!(begun.elapsed() < HANG, "the watches have noticed nothing");
        site.instance().let_run(Duration::from_millis(500));
    }
    for watch in ["PolicyEndpoints in shop", "the node's Pods"] {
        site.instance().wait_for(mark, &["problem: ", watch]);
    }
    println!("noticed after {:?}", begun.elapsed());
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    assert_eq!(site.get("/healthz").0, 200);
    assert_eq!(site.get("/readyz").0, 200, "what it knew is in force");
    let mark = site.instance().mark();
    site.way.mend();
    site.instance()
        .wait_for(mark, &["applied: ", "PolicyEndpoint shop/api-"]);
    table(&[(&web.namespace, &api, PORT, Reached)]);
    site.until_watched();
    assert_eq!(site.metric("palisade_leader", &[]), 1.0);
}

#[test]
fn an_instance_that_is_turned_away_asks_seldom_and_takes_up_what_it_missed_when_it_is_let_in() {
    require_server!();
    let (mut site, [web, api]) = shut();
    let _services = echo_services(&[&api.namespace], &[8080]);
    let (mark, begun) = (site.instance().mark(), Instant::now());
    site.server.fixture().turn_away();
    site.instance().wait_for(mark, &["cannot reach the Lease"]);
    site.way.break_off();
    // Of the two, one may be the request that waits.
    for words in [
        "watch of PolicyEndpoints in shop",
        "watch of the node's Pods",
        "the API server is busy",
    ] {
        site.instance().wait_for(mark, &["problem: ", words]);
    }
    site.instance().wait_for(mark, &["no longer leading"]);
    site.server.put(policy(json!([{}])));
    table(&[(&web.namespace, &api, PORT, Dropped)]);
    assert_eq!(site.metric("palisade_watches_failing", &[]), 2.0);
    assert_eq!(site.metric("palisade_leader", &[]), 0.0);
    let (asked, seconds) = (site.server.fixture().turned_away(), begun.elapsed().as_secs_f64());
    println!("{asked} requests in {seconds:.0} s");
    // A leader has ten watches and its Lease.
    assert!(
        asked > 0.0 && asked < 4.0 * seconds + 20.0,
        "{asked} requests in {seconds} s"
    );
    let mark = site.instance().mark();
    site.server.fixture().let_in();
    site.instance()
        .wait_for(mark, &["applied: ", "PolicyEndpoint shop/api-"]);
    table(&[(&web.namespace, &api, PORT, Reached)]);
    site.until_watched();
}
