//! Maps that are too small.

use crate::netns::Answer::{Dropped, Reached};
use crate::netns::Layout;
use crate::objects::{app, pod, policy};
use crate::probes::{How, echo_services, table};
use crate::require_root;
use crate::site::Site;

#[test]
fn s29_a_change_that_does_not_fit_is_refused_whole_and_heals_when_the_folder_is_mended() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx").with(&["--max-addresses=4"]);
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080, 8081]);
    let lets_in = |port: u16| {
        let peers = format!("from: [{{{}}}]", app("web"));
        policy(
            "shop/api",
            &format!(
                "{}, ingress: [{{{peers}, ports: [{{port: {port}}}]}}]",
                app("api")
            ),
        )
    };
    site.folder.put("policies.yaml", &lets_in(8080));
    site.start(&["vethweb", "vethapi"]);
    let seen = |by_8080, by_8081| {
        table(&[
            (&web.namespace, &api, How::Tcp(8080), by_8080),
            (&web.namespace, &api, How::Tcp(8081), by_8081),
        ]);
    };
    seen(Reached, Dropped);
    // More peers than there is room for, together with a port that would be opened.
    let more: String = (1..=6)
        .map(|n| {
            let addresses = crate::netns::Addresses::new(&format!("10.99.0.{n}"), &format!("fd99::{n}"));
            pod(&format!("shop/more-{n}"), "app: web", addresses)
        })
        .collect();
    let line = site.change(&["problem: kernel", "too small"], |folder| {
        folder.put("policies.yaml", &[&more[..], &lets_in(8081)].concat());
    });
    assert!(line.contains("--max-addresses"), "{line}");
    assert!(site.metric("palisade_changes_refused_total", &[]) >= 1.0);
    assert!(site.metric("palisade_problems", &["source=\"node\""]) >= 1.0);
    seen(Reached, Dropped);
    site.change(&["no problem any more: kernel"], |folder| {
        folder.put("policies.yaml", &lets_in(8081));
    });
    seen(Dropped, Reached);
}

#[test]
fn a_start_that_does_not_fit_is_not_ready_and_denies() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx").with(&["--max-rules=65"]);
    let [web, api] = site.pods(["web", "api"]);
    let _services = echo_services(&[&api.namespace], &[8080]);
    let allow = |name: &str| {
        policy(
            &format!("shop/{name}"),
            &format!("{}, ingress: [{{from: [{{{}}}]}}]", app("api"), app("web")),
        )
    };
    site.folder.put(
        "policies.yaml",
        &[allow("one"), allow("two"), allow("three")].concat(),
    );
    let instance = site.launch();
    let line = instance.wait_for(0, &["problem: kernel"]);
    assert!(line.contains("--max-rules"), "{line}");
    instance.wait_for(0, &["attached", "interface=vethapi "]);
    let (status, body) = crate::instance::get(&site.host.namespace, "/readyz");
    assert_eq!(status, 503, "{body}");
    table(&[(&web.namespace, &api, How::Tcp(8080), Dropped)]);
    site.change(&["in force: "], |folder| folder.delete("policies.yaml"));
    table(&[(&web.namespace, &api, How::Tcp(8080), Reached)]);
}
