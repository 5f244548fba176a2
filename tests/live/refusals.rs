//! What a user reads when `palisade` cannot start, and its exit code.

use std::process::Command;

use crate::instance::BINARY;
use crate::netns::Layout;
use crate::require_root;
use crate::site::Site;

/// Runs it to its end, which must be a failure; its last words.
fn fails(mut command: Command) -> String {
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let last = text.lines().last().unwrap_or_default();
    let words = last.strip_prefix("palisade: ");
    let words = words.unwrap_or_else(|| panic!("the last words are palisade's: {text}"));
    println!("{words}");
    words.to_string()
}

fn says(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "{part:?} is not in {words:?}");
    }
}

fn run(site: &Site, wrapper: &[&str]) -> Command {
    let [program, rest @ ..] = wrapper else {
        panic!("a program")
    };
    let mut command = site.host.namespace.command(program);
    command.args(rest).arg("run").args(site.arguments());
    command
}

#[test]
fn without_privileges_it_says_which_are_missing_and_how_to_get_them() {
    require_root!();
    let site = Site::new(Layout::Routed, "tcx");
    let words = fails(run(
        &site,
        &["setpriv", "--bounding-set=-all", "--inh-caps=-all", BINARY],
    ));
    says(
        &words,
        &["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON", "run as root"],
    );
    let words = fails(run(
        &site,
        &[
            "setpriv",
            "--bounding-set=-all,+net_admin",
            "--inh-caps=-all",
            BINARY,
        ],
    ));
    says(&words, &["CAP_BPF", "CAP_PERFMON"]);
    assert!(!words.contains("CAP_NET_ADMIN"), "{words}");
}

#[test]
fn without_a_bpffs_it_mounts_one_or_says_where_to_pin() {
    require_root!();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let pins = format!("--pin-path={}", elsewhere.path().join("pins").display());
    let site = Site::new(Layout::Routed, "tcx").with(&[&pins]);
    let mut command = site.host.namespace.command(BINARY);
    command
        .args(["run", "--pin-path"])
        .arg(elsewhere.path().join("pins"))
        .arg("--from")
        .arg(site.folder.path());
    says(&fails(command), &["bpffs", "/sys/fs/bpf"]);
    // In a mount namespace of its own /sys/fs/bpf is not mounted: it is mounted, and the run goes on to its end.
    let script = "umount -l /sys/fs/bpf && exec \"$0\" \"$@\"";
    let mut site = Site::new(Layout::Routed, "tcx");
    let mut arguments = vec!["-m", "sh", "-c", script, BINARY];
    let own = site.arguments();
    arguments.push("run");
    arguments.extend(own.iter().map(String::as_str));
    let instance = site.launch_as("unshare", &arguments);
    instance.wait_for(0, &["in force: "]);
    site.stop();
}

#[test]
fn a_second_instance_with_the_same_pin_path_and_a_clean_beside_it_are_refused() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    site.start(&[]);
    let mut second = run(&site, &[BINARY]);
    second.arg("--listen=127.0.0.1:0");
    says(
        &fails(second),
        &["is in use by another palisade process", "--pin-path"],
    );
    let clean = site.clean();
    assert_eq!(clean.status.code(), Some(1));
    says(
        &String::from_utf8_lossy(&clean.stderr),
        &["is in use by another palisade process"],
    );
    assert!(site.instance().runs());
}

#[test]
fn a_folder_that_is_not_there_and_an_address_that_is_taken_are_named() {
    require_root!();
    let mut site = Site::new(Layout::Routed, "tcx");
    let mut command = site.host.namespace.command(BINARY);
    command
        .args(["run", "--from", "/nonexistent/shop", "--pin-path"])
        .arg(site.pins());
    says(&fails(command), &["/nonexistent/shop", "name one that exists"]);
    site.start(&[]);
    let other = Site::new(Layout::Routed, "tcx");
    let mut command = site.host.namespace.command(BINARY);
    command.arg("run").args(other.arguments());
    says(&fails(command), &["127.0.0.1:9810", "--listen"]);
    let mut command = site.host.namespace.command(BINARY);
    command.arg("run").args(other.arguments()).arg("--attach=none");
    assert_eq!(command.output().unwrap().status.code(), Some(2), "wrong usage");
}
