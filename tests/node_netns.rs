//! The namespaces that other tests stand on clean up after themselves.

mod netns;

use std::path::Path;

use netns::{Host, Layout, Namespace};

#[test]
fn a_namespace_is_gone_after_its_test_also_when_that_panics() {
    require_root!();
    let kept = Namespace::new("kept");
    let path = kept.path();
    assert!(path.exists());
    drop(kept);
    assert!(!path.exists());
    let lost = std::panic::catch_unwind(|| {
        let host = Host::new(Layout::Routed);
        let pod = host.pod("web");
        let paths = [host.namespace.path(), pod.namespace.path()];
        assert!(paths.iter().all(|path| path.exists()));
        std::panic::panic_any(paths);
    });
    let paths = lost.expect_err("a panic");
    let paths = paths
        .downcast_ref::<[std::path::PathBuf; 2]>()
        .expect("the paths");
    assert!(paths.iter().all(|path| !path.exists()));
}

#[test]
fn what_a_killed_test_left_behind_is_removed_and_nothing_else() {
    require_root!();
    let mine = Namespace::new("mine");
    // No process can have this pid: the largest is 4194304.
    let left = Namespace::create("pal4194305-0-left");
    let foreign = Namespace::create(&format!("x{}-foreign", std::process::id()));
    netns::remove_stale();
    assert!(!left.path().exists(), "a dead process's");
    assert!(mine.path().exists(), "a living process's");
    assert!(foreign.path().exists(), "somebody else's");
    assert!(Path::new("/run/netns").exists());
}

#[test]
fn work_in_a_namespace_sees_its_interfaces_and_only_those() {
    require_root!();
    let host = Host::new(Layout::Bridged);
    let web = host.pod("web");
    let names = |namespace: &Namespace| {
        let table =
            namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces"));
        let lines = table.lines().skip(2).filter_map(|line| line.split(':').next());
        let mut names: Vec<String> = lines.map(|name| name.trim().to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&web.namespace), ["eth0", "lo"]);
    assert_eq!(names(&host.namespace), ["br0", "lo", "vethweb"]);
    let seen = host
        .namespace
        .command("cat")
        .arg("/proc/self/net/dev")
        .output()
        .expect("cat");
    assert!(String::from_utf8_lossy(&seen.stdout).contains("vethweb"));
}
