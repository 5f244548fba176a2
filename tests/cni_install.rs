//! The CNI installer: Palisade's entry in the node's configuration, and nothing else of it changed.
//!
//! `testdata/cni` holds configurations in the shapes that CNIs write.

mod netns;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use palisade::cni::Mode;
use palisade::cni::install::{self, Config, Removed};
use palisade::model::Problem;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);
const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}"#;
const CONF: &str = r#"{"cniVersion":"0.4.0","name":"net","type":"bridge","bridge":"cni0"}"#;

/// The CNI folders of a node.
struct Node {
    home: tempfile::TempDir,
    mode: Mode,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let node = Self {
            home: tempfile::tempdir().unwrap(),
            mode: Mode::Strict,
        };
        fs::create_dir(node.config().conf_dir).unwrap();
        fs::create_dir(node.config().bin_dir).unwrap();
        for (name, text) in files {
            fs::write(node.at(name), text).unwrap();
        }
        node
    }

    fn config(&self) -> Config {
        Config {
            conf_dir: self.home.path().join("net.d"),
            bin_dir: self.home.path().join("bin"),
            mode: self.mode,
            socket: self.home.path().join("palisade.sock"),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.config().conf_dir.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn binary(&self) -> PathBuf {
        self.config().bin_dir.join("palisade")
    }

    fn entry(&self) -> Value {
        json!({"type": "palisade", "mode": self.mode.name(), "socket": self.config().socket})
    }

    /// Types of the plugins in a file; empty where it is no list.
    fn plugins(&self, name: &str) -> Vec<String> {
        plugins(&self.text(name))
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.config().conf_dir).unwrap();
        let mut names: Vec<String> = files
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Runs the installer while `work` runs.
    fn installing<T>(&self, work: impl FnOnce(&watch::Receiver<Vec<Problem>>) -> T) -> T {
        // One that nobody sends: "not looked yet".
        let (tell, problems) = watch::channel(vec![unknown()]);
        let shutdown = CancellationToken::new();
        scope(|threads| {
            let running = threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime
                    .unwrap()
                    .block_on(install::run(self.config(), tell, shutdown.clone()))
            });
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&problems)));
            shutdown.cancel();
            running.join().unwrap().expect("it runs until the end");
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets the installer look once, and returns the problems.
    fn install(&self) -> Vec<Problem> {
        self.installing(|problems| {
            wait("a first look", || *problems.borrow() != [unknown()]);
            problems.borrow().clone()
        })
    }

    fn uninstall(&self) -> Removed {
        install::remove(&self.config())
    }
}

fn unknown() -> Problem {
    Problem {
        object: "not looked yet".into(),
        field: String::new(),
        value: String::new(),
        message: String::new(),
        remedy: String::new(),
    }
}

fn plugins(text: &str) -> Vec<String> {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
    plugins
        .iter()
        .map(|plugin| plugin["type"].as_str().unwrap_or_default().to_string())
        .collect()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "not in {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(2));
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[test]
fn each_shape_gets_the_entry_last_and_no_other_byte_changes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cni");
    let mut shapes = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let before = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let node = Node::new(&[(name, &before)]);
        assert_eq!(node.install(), [], "{name}");

        let after = node.text(name);
        let (was, is): (Value, Value) = (
            serde_json::from_str(&before).unwrap(),
            serde_json::from_str(&after).unwrap(),
        );
        let mut wanted = was.clone();
        wanted["plugins"].as_array_mut().unwrap().push(node.entry());
        assert_eq!(is, wanted, "{name}");
        // What is new is one piece.
        let same = before
            .bytes()
            .zip(after.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let end = before
            .bytes()
            .rev()
            .zip(after.bytes().rev())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(same + end >= before.len(), "{name}: {after}");

        let inode = node.at(name).metadata().unwrap().ino();
        assert_eq!(node.install(), [], "{name}");
        assert_eq!(node.text(name), after, "{name}: a second time");
        assert_eq!(
            node.at(name).metadata().unwrap().ino(),
            inode,
            "{name}: is not written again"
        );

        let removed = node.uninstall();
        assert_eq!(removed.problems, [], "{name}");
        assert_eq!(removed.files, [node.at(name), node.binary()], "{name}");
        assert_eq!(node.text(name), before, "{name}: taken out");
        assert!(!node.binary().exists(), "{name}");
        assert_eq!(node.uninstall(), Removed::default(), "{name}: a second time");
        shapes += 1;
    }
    assert!(shapes >= 5, "{shapes} shapes");
}

#[test]
fn nonsense_is_reported_and_left_alone() {
    let cases = [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("null", "cannot be read"),
        ("[]", "cannot be read"),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]} x"#,
            "trailing",
        ),
        (r#"{"cniVersion":"1.0.0","name":"net"}"#, "plugins"),
        (r#"{"cniVersion":"1.0.0","name":"net","plugins":[]}"#, "plugins"),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":{"type":"ptp"}}"#,
            "cannot be read",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":["ptp"]}"#,
            "cannot be read",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[["ptp"]]}"#,
            "cannot be read",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"tipe":"ptp"}]}"#,
            "no type",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"palisade"}]}"#,
            "beside",
        ),
        (r#"{"cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}"#, "name"),
        (
            r#"{"cniVersion":"0.2.0","name":"net","plugins":[{"type":"ptp"}]}"#,
            "0.2.0",
        ),
        (r#"{"name":"net","plugins":[{"type":"ptp"}]}"#, "cniVersion"),
        (
            r#"{"cniVersion":1,"name":"net","plugins":[{"type":"ptp"}]}"#,
            "cannot be read",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}],"plugins":[]}"#,
            "duplicate",
        ),
    ];
    for (text, words) in cases {
        let node = Node::new(&[("10-net.conflist", text)]);
        let problems = node.install();
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        let told = problems[0].to_string();
        assert!(
            told.contains(words) && told.contains("10-net.conflist"),
            "{text}: {told}"
        );
        assert!(!problems[0].remedy.is_empty(), "{text}");
        assert_eq!(node.text("10-net.conflist"), text);
        assert_eq!(node.names(), ["10-net.conflist"], "{text}");
        node.uninstall();
        let without = text.replace(r#"{"type":"palisade"}"#, "");
        assert_eq!(node.text("10-net.conflist"), without);
    }
}

#[test]
fn the_first_file_by_name_that_is_valid_counts() {
    let files = [
        ("00-note.txt", LIST),
        ("05-bad.conflist", "{"),
        ("10-net.conflist", LIST),
        ("20-other.conflist", LIST),
    ];
    let node = Node::new(&files);
    fs::create_dir(node.at("01-folder.conflist")).unwrap();
    let problems = node.install();
    assert!(
        problems.len() == 1 && problems[0].object.ends_with("05-bad.conflist"),
        "{problems:?}"
    );
    assert_eq!(node.plugins("10-net.conflist"), ["ptp", "palisade"]);
    for (name, text) in [files[0], files[1], files[3]] {
        assert_eq!(node.text(name), text, "{name}");
    }
    // Another CNI comes, and counts from then on.
    fs::write(node.at("08-new.conflist"), LIST).unwrap();
    node.install();
    assert_eq!(node.plugins("08-new.conflist"), ["ptp", "palisade"]);
    assert_eq!(node.text("10-net.conflist"), LIST);
}

#[test]
fn a_file_with_one_plugin_gets_a_list_just_before_it() {
    for end in ["conf", "json"] {
        let name = format!("10-bridge.{end}");
        let node = Node::new(&[(&name, CONF)]);
        assert_eq!(node.install(), []);
        let made = "10-bridge-palisade.conflist";
        assert_eq!(node.names(), [made, &name], "by name it is the first");
        let list: Value = serde_json::from_str(&node.text(made)).unwrap();
        let single: Value = serde_json::from_str(CONF).unwrap();
        assert_eq!(list["plugins"], json!([single, node.entry()]));
        assert_eq!(
            (&list["name"], &list["cniVersion"]),
            (&json!("net"), &json!("0.4.0"))
        );
        node.installing(|_| {
            fs::write(node.at(&name), CONF.replace("cni0", "cni1")).unwrap();
            wait("the list follows the file", || node.text(made).contains("cni1"));
            fs::write(node.at("05-net.conflist"), LIST).unwrap();
            wait("another file counts", || {
                node.plugins("05-net.conflist") == ["ptp", "palisade"]
            });
            wait("the list is gone", || !node.at(made).exists());
        });
        assert_eq!(node.text(&name), CONF.replace("cni0", "cni1"));
        node.uninstall();
        assert_eq!(node.names(), ["05-net.conflist", &name]);
        assert_eq!(node.text("05-net.conflist"), LIST);
    }
    // One that cannot be chained to.
    for (text, words) in [
        (r#"{"cniVersion":"0.2.0","name":"net","type":"bridge"}"#, "0.2.0"),
        (r#"{"cniVersion":"1.0.0","name":"net"}"#, "type"),
        (LIST, "type"),
    ] {
        let node = Node::new(&[("10-bridge.conf", text)]);
        let problems = node.install();
        assert!(
            problems.len() == 1 && problems[0].to_string().contains(words),
            "{problems:?}"
        );
        assert_eq!(node.names(), ["10-bridge.conf"]);
    }
}

#[test]
fn an_entry_that_is_outdated_or_not_last_is_put_right() {
    let ours = r#"{"type":"palisade","mode":"standard","socket":"/old"}"#;
    for plugins in [
        format!(r#"[{{"type":"ptp"}}, {ours}]"#),
        format!(r#"[{ours}, {{"type":"ptp"}}]"#),
        format!(r#"[{ours}, {{"type":"ptp"}}, {ours}, {ours}]"#),
    ] {
        let node = Node::new(&[(
            "10-net.conflist",
            &format!(r#"{{"cniVersion":"1.0.0","name":"net","plugins":{plugins}}}"#),
        )]);
        assert_eq!(node.install(), []);
        let list: Value = serde_json::from_str(&node.text("10-net.conflist")).unwrap();
        assert_eq!(
            list["plugins"],
            json!([{"type": "ptp"}, node.entry()]),
            "{plugins}"
        );
    }
    // Another mode, as after a change of the flag.
    let mut node = Node::new(&[("10-net.conflist", LIST)]);
    node.install();
    node.mode = Mode::Standard;
    assert_eq!(node.install(), []);
    let list: Value = serde_json::from_str(&node.text("10-net.conflist")).unwrap();
    assert_eq!(list["plugins"], json!([{"type": "ptp"}, node.entry()]));
}

#[test]
fn mode_and_owner_of_the_file_stay_and_a_link_stays_a_link() {
    require_root!();
    let node = Node::new(&[("target", LIST)]);
    symlink("target", node.at("10-net.conflist")).unwrap();
    chown(node.at("target"), Some(1234), Some(567)).unwrap();
    fs::set_permissions(node.at("target"), Permissions::from_mode(0o640)).unwrap();
    assert_eq!(node.install(), []);
    let file = node.at("target").metadata().unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 567, 0o640));
    assert!(
        node.at("10-net.conflist")
            .symlink_metadata()
            .unwrap()
            .is_symlink()
    );
    assert_eq!(node.plugins("target"), ["ptp", "palisade"]);
}

#[test]
fn what_a_cni_rewrites_meanwhile_is_never_lost_and_never_half() {
    const REWRITES: usize = 300;
    let node = Node::new(&[("10-net.conflist", LIST)]);
    let version = |n: usize| LIST.replace("\"net\"", &format!("\"net{n}\""));
    let (over, path) = (AtomicBool::new(false), node.at("10-net.conflist"));
    node.installing(|problems| {
        scope(|threads| {
            let reader = threads.spawn(|| {
                let mut with_entry = 0;
                while !over.load(Ordering::Relaxed) {
                    let text = fs::read_to_string(&path).unwrap();
                    let seen = plugins(&text);
                    assert!(seen == ["ptp"] || seen == ["ptp", "palisade"], "{text:?}");
                    with_entry += usize::from(seen.len() == 2);
                    sleep(Duration::from_micros(200));
                }
                with_entry
            });
            for n in 0..REWRITES {
                replace(&path, &version(n));
                // At all offsets from what the installer does just then.
                sleep(Duration::from_micros((n as u64 * 37) % 3000));
            }
            wait("the last version, with the entry", || {
                let text = fs::read_to_string(&path).unwrap();
                text.contains(&format!("net{}", REWRITES - 1)) && plugins(&text).len() == 2
            });
            over.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 0);
        });
        // In place, as cp does it: a reader may see half of that, but it is not the installer's half.
        for n in 0..REWRITES {
            fs::write(&path, version(n)).unwrap();
            sleep(Duration::from_micros((n as u64 * 53) % 2000));
        }
        wait("the last version, with the entry", || {
            let text = fs::read_to_string(&path).unwrap();
            text.contains(&format!("net{}", REWRITES - 1)) && plugins(&text).len() == 2
        });
        wait("no problem in the end", || problems.borrow().is_empty());
    });
    assert_eq!(node.names(), ["10-net.conflist"], "nothing is left over");
    node.uninstall();
    assert_eq!(node.text("10-net.conflist"), version(REWRITES - 1));
}

#[test]
fn what_is_missing_is_reported_and_comes_as_soon_as_it_can() {
    let node = Node::new(&[]);
    fs::write(node.at(".palisade-1.tmp"), "left by a killed process").unwrap();
    node.installing(|problems| {
        wait("no configuration yet", || {
            problems
                .borrow()
                .iter()
                .any(|p| p.message.contains("no configuration yet"))
        });
        assert_eq!(node.names(), Vec::<String>::new());
        fs::write(node.at("10-net.conflist"), LIST).unwrap();
        wait("the entry", || {
            node.plugins("10-net.conflist") == ["ptp", "palisade"]
        });
        wait("no problem any more", || problems.borrow().is_empty());
        // Someone tidies up.
        fs::remove_file(node.binary()).unwrap();
        wait("the binary is back", || node.binary().exists());
        fs::write(node.binary(), "of another version").unwrap();
        let running = fs::metadata("/proc/self/exe").unwrap().len();
        wait("the binary is right", || {
            node.binary().metadata().is_ok_and(|b| b.len() == running)
        });
        assert_eq!(node.binary().metadata().unwrap().mode() & 0o7777, 0o755);
    });
}

#[test]
fn without_the_binary_there_is_no_entry() {
    let node = Node::new(&[("10-net.conflist", LIST)]);
    fs::remove_dir(node.config().bin_dir).unwrap();
    node.installing(|problems| {
        wait("a problem", || {
            problems
                .borrow()
                .iter()
                .any(|p| p.remedy.contains("--cni-bin-dir"))
        });
        assert_eq!(node.text("10-net.conflist"), LIST);
        fs::create_dir(node.config().bin_dir).unwrap();
        wait("the entry", || {
            node.plugins("10-net.conflist") == ["ptp", "palisade"]
        });
        assert!(node.binary().exists());
    });
}

/// A small file system at a path, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf) -> Self {
        let mounted = Self(path);
        mounted.mount(&["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "tmpfs"]);
        mounted
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount").args(arguments).arg(&self.0).status();
        assert!(status.expect("mount").success(), "mount {arguments:?}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_or_a_read_only_one_leaves_the_file_whole_until_there_is_room() {
    require_root!();
    let node = Node::new(&[]);
    let disk = Mounted::new(node.config().conf_dir);
    fs::write(node.at("10-net.conflist"), LIST).unwrap();
    fs::write(node.at("filler"), vec![0; 128 << 10]).expect_err("the disk is full");
    node.installing(|problems| {
        wait("a problem", || {
            problems.borrow().iter().any(|p| p.remedy.contains("free space"))
        });
        assert_eq!(node.text("10-net.conflist"), LIST);
        assert_eq!(node.names(), ["10-net.conflist", "filler"]);
        disk.mount(&["-o", "remount,ro"]);
        wait("another problem", || {
            problems.borrow().iter().any(|p| p.remedy.contains("writable"))
        });
        assert_eq!(node.text("10-net.conflist"), LIST);
        disk.mount(&["-o", "remount,rw"]);
        fs::remove_file(node.at("filler")).unwrap();
        wait("the entry", || {
            node.plugins("10-net.conflist") == ["ptp", "palisade"]
        });
        wait("no problem any more", || problems.borrow().is_empty());
    });
    // Nor is anything taken away that the file still names.
    disk.mount(&["-o", "remount,ro"]);
    let removed = node.uninstall();
    assert!(
        removed.files.is_empty() && removed.problems.len() == 2,
        "{removed:?}"
    );
    assert!(node.binary().exists());
    disk.mount(&["-o", "remount,rw"]);
    assert_eq!(node.uninstall().problems, []);
    assert_eq!(node.text("10-net.conflist"), LIST);
}
