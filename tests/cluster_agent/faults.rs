//! Without its API server a node goes on as it was, also over a restart; and it heals.

use serde_json::json;

use crate::netns::Answer::{Dropped, Reached};
use crate::probes::{How, echo_services, table};
use crate::require_server;
use crate::site::{Site, endpoint, from};

const PORT: How = How::Tcp(8080);

#[test]
fn s52_a_lost_api_server_changes_nothing_also_over_a_restart_of_the_agent_and_it_heals() {
    require_server!();
    let mut site = Site::new();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    site.server.put(endpoint("api-1", "api", from(&web, 8080)));
    site.server.put(endpoint("db-1", "db", json!([])));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    let as_before = || {
        table(&[
            (&web.namespace, &api, PORT, Reached),
            (&db.namespace, &api, PORT, Dropped),
            (&web.namespace, &db, PORT, Dropped),
        ]);
    };
    as_before();
    site.server.stop();
    site.instance()
        .wait_for(0, &["problem: ", "watch of PolicyEndpoints in shop"]);
    site.instance()
        .wait_for(0, &["problem: ", "watch of the node's Pods"]);
    as_before();
    assert_eq!(site.metric("palisade_watches_failing", &[]), 2.0);
    assert_eq!(site.get("/readyz").0, 200, "what it knew is in force");
    // A restart without a server: what is pinned goes on, and nothing else is claimed.
    site.crash();
    site.launch();
    site.instance()
        .wait_for(0, &["problem: ", "watch of the node's Pods"]);
    as_before();
    assert_eq!(site.get("/healthz").0, 200);
    let (status, body) = site.get("/readyz");
    assert_eq!((status, body.contains("in force")), (503, true), "{body}");
    site.server.go_on();
    site.instance().wait_for(0, &["in force: "]);
    site.instance()
        .wait_for(0, &["no problem any more: ", "watch of the node's Pods"]);
    as_before();
    assert_eq!(site.get("/readyz").0, 200);
    site.put(endpoint("db-1", "db", from(&web, 8080)));
    table(&[(&web.namespace, &db, PORT, Reached)]);
    assert_eq!(site.metric("palisade_watches_failing", &[]), 0.0);
}

#[test]
fn what_changed_while_the_way_was_cut_comes_with_the_next_connection_and_nothing_else_moves() {
    require_server!();
    let mut site = Site::new();
    let [web, api, db] = site.pods(["web", "api", "db"]);
    let _services = echo_services(&[&api.namespace, &db.namespace], &[8080]);
    site.server.put(endpoint("api-1", "api", from(&web, 8080)));
    site.server.put(endpoint("db-1", "db", json!([])));
    site.start(&["vethweb", "vethapi", "vethdb"]);
    site.way.cut();
    site.instance()
        .wait_for(0, &["problem: ", "watch of PolicyEndpoints in shop"]);
    let mark = site.instance().mark();
    site.server.delete("PolicyEndpoint", "shop", "db-1");
    site.server.put(endpoint("api-2", "api", from(&db, 8080)));
    table(&[
        (&web.namespace, &db, PORT, Dropped),
        (&db.namespace, &api, PORT, Dropped),
    ]);
    site.way.mend();
    site.instance().wait_for(mark, &["applied: ", "shop/db-1 gone"]);
    site.instance().wait_for(mark, &["applied: ", "shop/api-2"]);
    table(&[
        (&web.namespace, &db, PORT, Reached),
        (&db.namespace, &api, PORT, Reached),
        (&web.namespace, &api, PORT, Reached),
    ]);
}
