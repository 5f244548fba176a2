//! A watched folder: which edits take effect, which do not yet, and what stays when an edit is bad.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::FutureExt;
use palisade::files::{self, Folder, Refresh};
use palisade::model::{Change, Direction, Policy, Snapshot};
use proptest::prelude::*;

struct Watched {
    _home: tempfile::TempDir,
    path: PathBuf,
    folder: Folder,
}

impl Watched {
    /// A folder `policies` with these files, read.
    fn new(contents: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("policies");
        fs::create_dir(&path).unwrap();
        for (name, text) in contents {
            write(&path.join(name), text);
        }
        let mut folder = Folder::open(&path).unwrap();
        folder.refresh();
        Self {
            _home: home,
            path,
            folder,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn write(&mut self, name: &str, text: &str) -> Refresh {
        write(&self.at(name), text);
        self.folder.refresh()
    }

    fn policy(&self, name: &str) -> Option<Policy> {
        self.folder
            .snapshot()
            .policies
            .into_iter()
            .find(|policy| &*policy.id.name == name)
    }
}

fn write(path: &std::path::Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn policy(name: &str, port: u16) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {name}\n  namespace: shop\n\
         spec:\n  podSelector: {{}}\n  ingress: [{{ports: [{{port: {port}}}]}}]\n"
    )
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {address}}}\n"
    )
}

fn is_policy(change: &Change, name: &str) -> bool {
    matches!(change, Change::Policy(policy) if &*policy.id.name == name)
}

fn is_gone(change: &Change, name: &str) -> bool {
    matches!(change, Change::PolicyGone { id, .. } if &*id.name == name)
}

#[test]
fn an_in_place_save_a_rename_over_and_a_deletion_take_effect() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80)), ("b.yaml", &policy("b", 80))]);
    let saved = w.write("a.yaml", &policy("a", 81));
    assert!(
        matches!(&saved.changes[..], [change] if is_policy(change, "a")),
        "{saved:?}"
    );
    assert_eq!(saved.files_read, 1);

    fs::write(w.at(".a.yaml.tmp"), policy("a", 82)).unwrap();
    assert_eq!(w.folder.refresh().changes, []);
    fs::rename(w.at(".a.yaml.tmp"), w.at("a.yaml")).unwrap();
    let renamed = w.folder.refresh();
    assert!(
        matches!(&renamed.changes[..], [change] if is_policy(change, "a")),
        "{renamed:?}"
    );

    fs::remove_file(w.at("a.yaml")).unwrap();
    let deleted = w.folder.refresh();
    assert!(
        matches!(&deleted.changes[..], [change] if is_gone(change, "a")),
        "{deleted:?}"
    );
    assert_eq!(w.folder.snapshot().policies.len(), 1);
}

#[test]
fn a_half_written_file_has_no_effect_until_it_is_closed() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    let before = w.folder.snapshot();
    let mut file = fs::File::create(w.at("a.yaml")).unwrap();
    file.write_all(&policy("a", 81).as_bytes()[..60]).unwrap();
    let mut new = fs::File::create(w.at("b.yaml")).unwrap();
    new.write_all(policy("b", 81).as_bytes()).unwrap();
    // A change elsewhere does not drag it along, nor does listing the folder anew.
    let other = w.write("sub/c.yaml", &policy("c", 1));
    assert!(
        matches!(&other.changes[..], [change] if is_policy(change, "c")),
        "{other:?}"
    );
    assert_eq!(w.policy("a"), before.policies.first().cloned());
    file.write_all(&policy("a", 81).as_bytes()[60..]).unwrap();
    drop((file, new));
    let closed = w.folder.refresh();
    assert_eq!(closed.changes.len(), 2, "{closed:?}");
    assert_eq!(closed.problems, []);
}

#[test]
fn what_moves_between_files_is_not_gone_for_a_moment() {
    let mut w = Watched::new(&[
        ("a.yaml", &(policy("a", 80) + &policy("b", 80))),
        ("c.yaml", &policy("c", 80)),
    ]);
    fs::rename(w.at("c.yaml"), w.at("0.yaml")).unwrap();
    write(&w.at("a.yaml"), &policy("a", 80));
    write(&w.at("b.yaml"), &policy("b", 80));
    let moved = w.folder.refresh();
    assert_eq!((moved.changes, moved.problems), (vec![], vec![]));
    assert_eq!(w.folder.snapshot().policies.len(), 3);
}

#[test]
fn the_uid_stays_through_edits_and_renames_and_follows_the_one_that_is_written() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    let uid = w.policy("a").unwrap().uid;
    w.write("a.yaml", &policy("a", 81));
    fs::rename(w.at("a.yaml"), w.at("b.yaml")).unwrap();
    w.folder.refresh();
    assert_eq!(w.policy("a").unwrap().uid, uid);
    let recreated = w.write(
        "b.yaml",
        &policy("a", 81).replace("metadata:\n", "metadata:\n  uid: new\n"),
    );
    assert!(
        matches!(&recreated.changes[..], [gone, there] if is_gone(gone, "a") && is_policy(there, "a")),
        "{recreated:?}"
    );
}

#[test]
fn folders_below_come_and_go_and_are_watched() {
    let mut w = Watched::new(&[("sub/a.yaml", &policy("a", 80))]);
    assert!(is_policy(
        &w.write("sub/a.yaml", &policy("a", 81)).changes[0],
        "a"
    ));
    fs::create_dir_all(w.at("new/deep")).unwrap();
    w.folder.refresh();
    assert!(
        w.write("new/deep/b.yaml", &policy("b", 80))
            .changes
            .iter()
            .any(|c| is_policy(c, "b"))
    );
    fs::rename(w.at("new"), w.path.parent().unwrap().join("away")).unwrap();
    assert!(w.folder.refresh().changes.iter().any(|c| is_gone(c, "b")));
    fs::write(w.path.parent().unwrap().join("away/deep/b.yaml"), policy("b", 81)).unwrap();
    assert_eq!(
        w.folder.refresh().changes,
        [],
        "a folder that was moved away is watched no more"
    );
    fs::rename(w.path.parent().unwrap().join("away"), w.at("back")).unwrap();
    assert!(w.folder.refresh().changes.iter().any(|c| is_policy(c, "b")));
    fs::remove_dir_all(w.at("back")).unwrap();
    assert!(w.folder.refresh().changes.iter().any(|c| is_gone(c, "b")));
    assert_eq!(w.folder.snapshot().policies.len(), 1);
}

#[test]
fn a_mounted_config_map_changes_at_once_when_its_link_is_flipped() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("mount");
    write(&path.join("..1/a.yaml"), &policy("a", 80));
    symlink("..1", path.join("..data")).unwrap();
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let mut folder = Folder::open(&path).unwrap();
    folder.refresh();
    assert_eq!(folder.snapshot().policies.len(), 1);
    write(&path.join("..2/a.yaml"), &policy("a", 81));
    assert_eq!(folder.refresh().changes, []);
    symlink("..2", path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    fs::remove_dir_all(path.join("..1")).unwrap();
    let flipped = folder.refresh();
    assert!(
        matches!(&flipped.changes[..], [change] if is_policy(change, "a")),
        "{flipped:?}"
    );
    assert_eq!(flipped.problems, []);
}

#[test]
fn links_to_files_and_folders_elsewhere_are_followed_and_watched() {
    let mut w = Watched::new(&[]);
    let elsewhere = w.path.parent().unwrap().join("elsewhere");
    write(&elsewhere.join("a.yaml"), &policy("a", 80));
    write(&elsewhere.join("more/b.yaml"), &policy("b", 80));
    symlink(elsewhere.join("a.yaml"), w.at("linked.yaml")).unwrap();
    symlink(elsewhere.join("more"), w.at("more")).unwrap();
    w.folder.refresh();
    w.folder.refresh();
    assert_eq!(w.folder.snapshot().policies.len(), 2);
    write(&elsewhere.join("a.yaml"), &policy("a", 81));
    assert!(w.folder.refresh().changes.iter().any(|c| is_policy(c, "a")));
    write(&elsewhere.join("more/b.yaml"), &policy("b", 81));
    assert!(w.folder.refresh().changes.iter().any(|c| is_policy(c, "b")));
    fs::remove_file(w.at("more")).unwrap();
    assert!(w.folder.refresh().changes.iter().any(|c| is_gone(c, "b")));
}

#[test]
fn a_folder_that_vanishes_changes_nothing_and_recovers_when_it_returns() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80)), ("sub/b.yaml", &policy("b", 80))]);
    let before = w.folder.snapshot();
    let away = w.path.parent().unwrap().join("away");
    fs::rename(&w.path, &away).unwrap();
    let vanished = w.folder.refresh();
    assert_eq!(vanished.changes, []);
    assert!(
        vanished.problems[0]
            .message
            .contains("everything stays as it was"),
        "{vanished:?}"
    );
    fs::rename(&away, &w.path).unwrap();
    let back = w.folder.refresh();
    assert_eq!((back.changes, back.problems), (vec![], vec![]));

    fs::remove_dir_all(&w.path).unwrap();
    assert_eq!(w.folder.refresh().changes, []);
    fs::create_dir(&w.path).unwrap();
    let empty = w.folder.refresh();
    assert_eq!((empty.changes, empty.problems.len()), (vec![], 1));
    assert_eq!(w.folder.snapshot(), before);
    let filled = w.write("a.yaml", &policy("a", 81));
    assert!(
        filled.changes.iter().any(|c| is_policy(c, "a")) && filled.changes.iter().any(|c| is_gone(c, "b"))
    );
    assert_eq!(filled.problems, []);
    assert!(
        is_policy(&w.write("c.yaml", &policy("c", 80)).changes[0], "c"),
        "it is watched again"
    );
}

#[test]
fn a_folder_replaced_by_another_takes_effect() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    let home = w.path.parent().unwrap().to_path_buf();
    write(&home.join("next/a.yaml"), &policy("a", 81));
    fs::rename(&w.path, home.join("old")).unwrap();
    fs::rename(home.join("next"), &w.path).unwrap();
    let replaced = w.folder.refresh();
    assert!(
        matches!(&replaced.changes[..], [change] if is_policy(change, "a")),
        "{replaced:?}"
    );
}

#[test]
fn a_document_that_breaks_keeps_what_it_was_and_its_neighbours_go_on() {
    let mut w = Watched::new(&[("a.yaml", &(policy("a", 80) + &policy("b", 80)))]);
    for (port, broken) in (81..).zip([
        "---\nkind: [",
        "---\nkind: NetworkPolicy\nmetadata: {name: b, namespace: shop}\nspec: [",
        "---\n\tx: y",
        "---\nwords",
    ]) {
        let before = w.policy("b").unwrap();
        let edited = w.write("a.yaml", &(policy("a", port) + broken));
        assert!(
            matches!(&edited.changes[..], [change] if is_policy(change, "a")),
            "{broken}: {edited:?}"
        );
        assert_eq!(edited.problems.len(), 1);
        assert_eq!(w.policy("b"), Some(before), "{broken}");
    }
    let unreadable = b"\xff\xfe\x00";
    fs::write(w.at("a.yaml"), unreadable).unwrap();
    assert_eq!(w.folder.refresh().changes, []);
    let emptied = w.write("a.yaml", "");
    assert_eq!(
        (emptied.changes, emptied.problems.len()),
        (vec![], 1),
        "a write that failed"
    );
    let corrected = w.write("a.yaml", &policy("a", 80));
    assert!(corrected.changes.iter().any(|c| is_gone(c, "b")), "{corrected:?}");
    assert_eq!(corrected.problems, []);
}

#[test]
fn a_policy_whose_pods_or_directions_become_unreadable_stays_as_it_was() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    let good = w.policy("a");
    for (from, to) in [
        (
            "podSelector: {}",
            "podSelector: {matchExpressions: [{key: a, operator: Like}]}",
        ),
        ("podSelector: {}", "podSelecter: {matchLabels: {a: b}}"),
        ("podSelector: {}", "podSelector: {}\n  policyTypes: [Egres]"),
        ("podSelector: {}", "podSelector: {}\n  policyType: [Egress]"),
        ("spec:", "specs:"),
    ] {
        let edited = w.write("a.yaml", &policy("a", 443).replace(from, to));
        assert_eq!((edited.changes, edited.problems.len()), (vec![], 1), "{to}");
        assert_eq!(w.policy("a"), good, "{to}");
    }
}

#[test]
fn a_bad_part_of_an_edited_policy_denies_and_the_rest_of_the_edit_applies() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    let edited = w.write(
        "a.yaml",
        &policy("a", 443).replace("ports: [", "ports: [{port: 0}, "),
    );
    assert_eq!((edited.changes.len(), edited.problems.len()), (1, 1));
    let rules = w.policy("a").unwrap().ingress.unwrap();
    assert_eq!(rules[0].ports.as_ref().unwrap().len(), 1);
    let bad = "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}] #";
    w.write("a.yaml", &policy("a", 443).replace("ingress:", bad));
    assert_eq!(
        w.policy("a").unwrap().rules(Direction::Ingress).unwrap()[0].peers,
        Some(vec![])
    );
}

#[test]
fn an_edit_that_spoils_a_pod_leaves_it_enforced_as_it_was() {
    let mut w = Watched::new(&[("a.yaml", &pod("w", "10.0.0.1"))]);
    let good = w.folder.snapshot();
    for bad in [
        pod("w", "10.0.0.1x"),
        pod("w", "10.0.0.1").replace("podIP", "podIp"),
        pod("w", "7"),
    ] {
        let edited = w.write("a.yaml", &bad);
        assert!(
            edited.changes.is_empty() && !edited.problems.is_empty(),
            "{edited:?}"
        );
        assert_eq!(w.folder.snapshot(), good);
    }
    assert_eq!(w.write("a.yaml", &pod("w", "10.0.0.2")).changes.len(), 1);
}

#[test]
fn a_second_declaration_widens_nothing_and_is_named_as_long_as_it_is_there() {
    let mut w = Watched::new(&[("b.yaml", &(policy("a", 80) + &pod("w", "10.0.0.1")))]);
    let pods = w.folder.snapshot().pods;
    let open = policy("a", 80).replace("ports: [{port: 80}]", "");
    let doubled = w.write("a.yaml", &(open + &pod("w", "10.0.0.2")));
    assert_eq!(doubled.problems.len(), 2, "{doubled:?}");
    assert_eq!(w.folder.snapshot().pods, pods, "the pod that was there counts");
    assert_eq!(
        w.policy("a").unwrap().ingress,
        Some(vec![]),
        "only what both allow"
    );
    fs::remove_file(w.at("a.yaml")).unwrap();
    let single = w.folder.refresh();
    assert_eq!(single.problems, []);
    assert_eq!(w.policy("a").unwrap().ingress.unwrap().len(), 1);
}

#[test]
fn lost_events_are_made_good() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80)), ("b.yaml", &policy("b", 80))]);
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    if limit > 100_000 {
        return;
    }
    // Equal events in a row count once, so two files take turns.
    for _ in 0..=limit / 2 {
        drop(fs::OpenOptions::new().append(true).open(w.at("a.yaml")).unwrap());
        drop(fs::OpenOptions::new().append(true).open(w.at("b.yaml")).unwrap());
    }
    write(&w.at("c.yaml"), &policy("c", 80));
    let found = w.folder.refresh();
    assert!(
        matches!(&found.changes[..], [change] if is_policy(change, "c")),
        "{found:?}"
    );
    assert_eq!(found.files_read, 3);
}

#[test]
fn one_edit_among_ten_thousand_pods_reads_one_file_and_yields_its_changes_only() {
    let mut files = vec![("policy.yaml".to_string(), policy("a", 80))];
    for file in 0..100 {
        let pods: String = (0..100)
            .map(|n| pod(&format!("p{file}-{n}"), &format!("10.{file}.0.{n}")))
            .collect();
        files.push((
            format!("pods/{file}.yaml"),
            pods.replace("podIP: 10.0.0.0", "podIP: 10.100.0.1"),
        ));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let started = Instant::now();
    let mut w = Watched::new(&files);
    println!("10,000 pods read in {:?}", started.elapsed());
    assert_eq!(w.folder.snapshot().pods.len(), 10_000);
    let mut fastest = Duration::MAX;
    for port in 1..50 {
        write(&w.at("policy.yaml"), &policy("a", port));
        let started = Instant::now();
        let edited = w.folder.refresh();
        fastest = fastest.min(started.elapsed());
        assert_eq!(edited.files_read, 1);
        assert!(
            matches!(&edited.changes[..], [change] if is_policy(change, "a")),
            "{edited:?}"
        );
    }
    println!("one edit: {fastest:?}");
}

#[tokio::test]
async fn waiting_ends_at_the_next_edit_and_can_be_given_up_without_loss() {
    let mut w = Watched::new(&[("a.yaml", &policy("a", 80))]);
    assert!(w.folder.changed().now_or_never().is_none(), "nothing has changed");
    write(&w.at("a.yaml"), &policy("a", 81));
    w.folder.changed().await.unwrap();
    assert_eq!(w.folder.refresh().changes.len(), 1);
    let path = w.at("a.yaml");
    let edit = async {
        tokio::task::yield_now().await;
        write(&path, &policy("a", 82));
    };
    let both = async { tokio::join!(w.folder.changed(), edit).0 };
    tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(w.folder.refresh().changes.len(), 1);
    assert!(w.folder.changed().now_or_never().is_none());
}

/// What someone has who applied all changes.
#[derive(Default)]
struct Replica(BTreeMap<String, Change>);

impl Replica {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(ref n) => drop(self.0.insert(format!("namespace {}", n.name), change)),
            Change::Pod(ref p) => drop(self.0.insert(format!("pod {}", p.uid), change)),
            Change::Policy(ref p) => drop(self.0.insert(format!("policy {}", p.uid), change)),
            Change::NamespaceGone(name) => assert!(self.0.remove(&format!("namespace {name}")).is_some()),
            Change::PodGone { uid, .. } => assert!(self.0.remove(&format!("pod {uid}")).is_some()),
            Change::PolicyGone { uid, .. } => assert!(self.0.remove(&format!("policy {uid}")).is_some()),
            other => panic!("{other:?}"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for change in self.0.values().cloned() {
            match change {
                Change::Namespace(namespace) => snapshot.namespaces.push(namespace),
                Change::Pod(pod) => snapshot.pods.push(pod),
                Change::Policy(policy) => snapshot.policies.push(policy),
                other => panic!("{other:?}"),
            }
        }
        ordered(snapshot)
    }
}

fn ordered(mut snapshot: Snapshot) -> Snapshot {
    snapshot.namespaces.sort_by(|a, b| a.name.cmp(&b.name));
    snapshot.pods.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot.policies.sort_by(|a, b| a.id.cmp(&b.id));
    snapshot
}

const NAMES: [&str; 4] = ["a.yaml", "b.yaml", "sub/a.yaml", "sub/c.yaml"];

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<(u8, u8)>),
    Remove(usize),
    Rename(usize, usize),
    RemoveFolder,
}

fn step() -> impl Strategy<Value = Step> {
    let objects = prop::collection::vec((0..8u8, 1..4u8), 0..4);
    prop_oneof![
        4 => (0..NAMES.len(), objects).prop_map(|(file, objects)| Step::Write(file, objects)),
        1 => (0..NAMES.len()).prop_map(Step::Remove),
        2 => (0..NAMES.len(), 0..NAMES.len()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => Just(Step::RemoveFolder),
    ]
}

/// Objects 0 to 5 are sound, 6 and 7 are broken. Each file has names of its own, so that none is declared twice.
fn text(file: usize, objects: &[(u8, u8)]) -> String {
    let mut distinct: BTreeMap<u8, u8> = BTreeMap::new();
    distinct.extend(objects.iter().copied());
    let object = |(kind, version): (u8, u8)| match kind {
        0 | 1 => policy(&format!("p{kind}-{file}"), version.into()),
        2 | 3 => pod(&format!("w{kind}-{file}"), &format!("10.0.0.{version}")),
        4 => pod(&format!("w4-{file}"), "10.0.0.9").replace("shop", &format!("ns{version}")),
        5 => format!(
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: ns{file}, labels: {{v: '{version}'}}}}}}\n"
        ),
        6 => "---\nkind: [\n".to_string(),
        _ => policy(&format!("p0-{file}"), 1).replace("podSelector", "podSelectors"),
    };
    distinct.into_iter().map(object).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn changes_add_up_to_the_snapshot_and_sound_files_to_what_one_reading_gives(
        steps in prop::collection::vec((step(), any::<bool>()), 1..12),
    ) {
        let mut w = Watched::new(&[("keep.yaml", &pod("keep", "10.9.9.9"))]);
        let mut replica = Replica::default();
        for namespace in w.folder.snapshot().namespaces {
            replica.apply(Change::Namespace(namespace));
        }
        for pod in w.folder.snapshot().pods {
            replica.apply(Change::Pod(pod));
        }
        for (step, settle) in steps {
            match step {
                // A file of another name has other objects after a rename; then names may clash, which is fine.
                Step::Write(file, objects) => write(&w.at(NAMES[file]), &text(file, &objects)),
                Step::Remove(file) => drop(fs::remove_file(w.at(NAMES[file]))),
                Step::Rename(from, to) => drop(fs::rename(w.at(NAMES[from]), w.at(NAMES[to]))),
                Step::RemoveFolder => drop(fs::remove_dir_all(w.at("sub"))),
            }
            if settle {
                w.folder.refresh().changes.into_iter().for_each(|change| replica.apply(change));
                prop_assert_eq!(replica.snapshot(), ordered(w.folder.snapshot()));
            }
        }
        // Once every file is sound again, nothing of the past is left.
        for (file, name) in NAMES.iter().enumerate() {
            write(&w.at(name), &text(file, &[(0, 1), (2, 1), (5, 1)]));
        }
        let settled = w.folder.refresh();
        prop_assert_eq!(settled.problems, vec![]);
        prop_assert_eq!(w.folder.snapshot(), files::load(&w.path).unwrap().snapshot);
    }
}
