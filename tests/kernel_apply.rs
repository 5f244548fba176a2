//! Image → maps → image, through the kernel's own memory.

mod kernel_support;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use kernel_support::{Pins, root};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use palisade::bpf::{Applied, ApplyError, Kernel, Map, Swept};
use palisade::compile::{
    Class, Image, L4, L4Key, Op, PodDirection, PodImage, Psid, Row, RuleInfo, RuleKey, diff,
};
use palisade::model::{Cidr, Direction, ObjectId, RuleId};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config as Runs, TestRunner};

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn rule(number: u32) -> (RuleKey, RuleInfo) {
    let policy = ObjectId::new("shop", &format!("policy-{}", "x".repeat(number as usize % 300)));
    let info = if number.is_multiple_of(5) {
        RuleInfo::Audit {
            direction: Direction::Ingress,
            policies: [policy].into(),
        }
    } else if number.is_multiple_of(3) {
        RuleInfo::Isolation {
            direction: Direction::Egress,
            policies: vec![policy; 1 + number as usize % 4].into(),
        }
    } else {
        RuleInfo::Rule(RuleId {
            policy,
            direction: Direction::Ingress,
            index: number.is_multiple_of(2).then_some(number),
        })
    };
    (RuleKey(hash(&number)), info)
}

fn table(intervals: Vec<(u32, Option<RuleKey>)>) -> (L4Key, L4) {
    (L4Key(hash(&intervals)), L4(intervals.into()))
}

fn cidr() -> impl Strategy<Value = Cidr> {
    (any::<IpAddr>(), 0_u8..=128).prop_filter_map("an IPv4-mapped prefix", |(address, prefix)| {
        let prefix = if address.is_ipv4() { prefix % 33 } else { prefix };
        Cidr::new(address, prefix)
    })
}

fn address() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|address| address.to_canonical())
}

fn pick(keys: &[RuleKey], index: &Index) -> RuleKey {
    keys[index.index(keys.len())]
}

prop_compose! {
    fn images()(
        numbers in btree_set(0_u32..40, 1..12),
        tables in vec(btree_map(1_u32..0x00ff_ffff, proptest::option::of(any::<Index>()), 0..80), 0..5),
        rows in btree_map((16_u32..20, 1_u32..12), any::<(bool, Index, Index)>(), 0..40),
        addresses in btree_map(address(), 1_u32..12, 0..40),
        networks in btree_map(cidr(), 0_u32..12, 0..12),
        pods in btree_map(0_u32..12, (
            vec(address(), 0..4), vec(cidr(), 0..3), [select(vec![0_u32, 16, 17, 18, 19]), select(vec![0_u32, 16, 17, 18])],
            any::<[Index; 2]>(), any::<[bool; 2]>(),
        ), 0..8),
    ) -> Image {
        let rules: BTreeMap<RuleKey, RuleInfo> = numbers.into_iter().map(rule).collect();
        let keys: Vec<RuleKey> = rules.keys().copied().collect();
        let l4: BTreeMap<L4Key, L4> = tables.into_iter().map(|starts| {
            let mut intervals = vec![(0, None)];
            intervals.extend(starts.into_iter().map(|(start, rule)| (start, rule.map(|r| pick(&keys, &r)))));
            table(intervals)
        }).collect();
        let tables: Vec<L4Key> = l4.keys().copied().collect();
        let rows = rows.into_iter().map(|((psid, class), (all, rule, table))| {
            let row = if all || tables.is_empty() {
                Row::Allow(pick(&keys, &rule))
            } else {
                Row::L4(tables[table.index(tables.len())])
            };
            ((Psid(psid), Class(class)), row)
        }).collect();
        let pods = pods.into_iter().map(|(number, (addresses, source_prefixes, psids, isolations, audited))| {
            let direction = |place: usize| {
                let by = (psids[place] != 0).then(|| pick(&keys, &isolations[place]));
                PodDirection {
                    psid: Psid(psids[place]),
                    denied_by: by.filter(|_| !audited[place]),
                    audited_by: by.filter(|_| audited[place]),
                }
            };
            let pod = PodImage {
                id: ObjectId::new("shop", &format!("pod-{number}-{}", "y".repeat(number as usize * 20))),
                addresses,
                source_prefixes,
                log_allowed: number % 2 == 1,
                ingress: direction(0),
                egress: direction(1),
            };
            (format!("uid-{number}").into(), pod)
        }).collect();
        used(Image {
            pods,
            addresses: addresses.into_iter().map(|(a, c)| (a, Class(c))).collect(),
            networks: networks.into_iter().map(|(n, c)| (n, Class(c))).collect(),
            rows,
            l4,
            rules,
        })
    }
}

/// Without rows for rule sets that no pod has or classes that no address has: compile makes none.
fn used(mut image: Image) -> Image {
    let psids: BTreeSet<Psid> = image
        .pods
        .values()
        .flat_map(|p| [p.ingress.psid, p.egress.psid])
        .collect();
    let classes: BTreeSet<Class> = image
        .addresses
        .values()
        .chain(image.networks.values())
        .copied()
        .collect();
    image
        .rows
        .retain(|(psid, class), _| psids.contains(psid) && classes.contains(class));
    image
}

/// Opens with nothing in force, on a pin path that all cases share: to load the programs anew takes long.
fn cleared(pins: &Pins) -> Kernel {
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    reach(&mut kernel, &Image::default());
    kernel.sweep().unwrap();
    kernel
}

/// Equal, or which part is not.
fn same(found: &Image, wanted: &Image) -> Result<(), TestCaseError> {
    prop_assert_eq!(&found.pods, &wanted.pods);
    prop_assert_eq!(&found.addresses, &wanted.addresses);
    prop_assert_eq!(&found.networks, &wanted.networks);
    prop_assert_eq!(&found.rows, &wanted.rows);
    prop_assert_eq!(&found.l4, &wanted.l4);
    prop_assert_eq!(&found.rules, &wanted.rules);
    Ok(())
}

fn reach(kernel: &mut Kernel, image: &Image) -> Applied {
    let ops = diff(kernel.image(), image);
    kernel.apply(&ops).unwrap()
}

#[test]
fn any_sequence_of_images_reads_back_after_each_restart() {
    if !root() {
        return;
    }
    let mut runner = TestRunner::new(Runs {
        cases: 60,
        failure_persistence: None,
        ..Runs::default()
    });
    let pins = Pins::new();
    let empty = cleared(&pins).fill();
    runner
        .run(&vec((images(), any::<bool>()), 1..5), |sequence| {
            drop(cleared(&pins));
            for (image, settle) in sequence {
                let mut kernel = Kernel::open(&pins.config()).unwrap();
                kernel.publish(&diff(kernel.image(), &image)).unwrap();
                prop_assert_eq!(&kernel.image().pods, &image.pods);
                prop_assert_eq!(&kernel.image().addresses, &image.addresses);
                prop_assert_eq!(&kernel.image().networks, &image.networks);
                if settle {
                    reach(&mut kernel, &image);
                    same(kernel.image(), &image)?;
                }
                let left = kernel.image().clone();
                drop(kernel);
                let mut again = Kernel::open(&pins.config()).unwrap();
                same(again.image(), &left)?;
                let ops = diff(again.image(), &left);
                prop_assert!(ops.is_empty());
                prop_assert_eq!(again.apply(&ops).unwrap(), Applied::default());
                prop_assert_eq!(again.sweep().unwrap(), Swept::default());
                prop_assert!(again.opened().adopted && !again.opened().verified);
            }
            let mut kernel = Kernel::open(&pins.config()).unwrap();
            reach(&mut kernel, &Image::default());
            prop_assert_eq!(&kernel.fill(), &empty);
            Ok(())
        })
        .unwrap();
}

const DAMAGED: [Map; 11] = [
    Map::Note,
    Map::RuleIndex,
    Map::Row,
    Map::Ip4,
    Map::Ip6,
    Map::Net4,
    Map::Net6,
    Map::Source4,
    Map::Source6,
    Map::PodIf,
    Map::L4,
];

/// Loses entries behind the agent's back, as a crash between two writes does.
fn damage(pins: &Pins, choices: &[(Index, Index)]) {
    for (map, entry) in choices {
        let map = DAMAGED[map.index(DAMAGED.len())];
        let handle = MapHandle::from_pinned_path(pins.path(&format!("maps/{}", map.name()))).unwrap();
        let keys: Vec<Vec<u8>> = match map {
            Map::L4 => (2_u32..20).map(|id| id.to_ne_bytes().to_vec()).collect(),
            _ => handle.keys().collect(),
        };
        if keys.is_empty() {
            continue;
        }
        let key = &keys[entry.index(keys.len())];
        match map {
            Map::L4 => handle
                .update(key, &vec![0xee; handle.value_size() as usize], MapFlags::ANY)
                .unwrap(),
            _ => handle.delete(key).unwrap(),
        }
    }
}

#[test]
fn whatever_a_crash_loses_is_written_again_and_its_leavings_are_swept() {
    if !root() {
        return;
    }
    let mut runner = TestRunner::new(Runs {
        cases: 80,
        failure_persistence: None,
        ..Runs::default()
    });
    let losses = vec((any::<Index>(), any::<Index>()), 1..6);
    let pins = Pins::new();
    let empty = cleared(&pins).fill();
    runner
        .run(&(images(), images(), losses), |(before, after, losses)| {
            let mut kernel = cleared(&pins);
            reach(&mut kernel, &before);
            drop(kernel);
            damage(&pins, &losses);
            let mut kernel = Kernel::open(&pins.config()).unwrap();
            reach(&mut kernel, &after);
            kernel.sweep().unwrap();
            same(kernel.image(), &after)?;
            drop(kernel);
            let mut kernel = Kernel::open(&pins.config()).unwrap();
            same(kernel.image(), &after)?;
            prop_assert_eq!(kernel.sweep().unwrap(), Swept::default());
            reach(&mut kernel, &Image::default());
            prop_assert_eq!(&kernel.fill(), &empty);
            Ok(())
        })
        .unwrap();
}

/// A small image: one rule, one isolated pod.
fn small() -> Image {
    let (rule_key, rule_info) = rule(1);
    let (isolation, isolation_info) = rule(3);
    let direction = |psid, denied_by| PodDirection {
        psid,
        denied_by,
        audited_by: None,
    };
    let pod = PodImage {
        id: ObjectId::new("shop", "web"),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        source_prefixes: Vec::new(),
        log_allowed: false,
        ingress: direction(Psid(20), Some(isolation)),
        egress: direction(Psid::OPEN, None),
    };
    Image {
        pods: [("uid-1".into(), pod)].into(),
        addresses: [("10.0.0.9".parse().unwrap(), Class(5))].into(),
        rows: [((Psid(20), Class(5)), Row::Allow(rule_key))].into(),
        rules: [(rule_key, rule_info), (isolation, isolation_info)].into(),
        ..Image::default()
    }
}

fn changed(kernel: &mut Kernel, change: impl FnOnce(&mut Image)) -> Applied {
    let mut image = kernel.image().clone();
    change(&mut image);
    reach(kernel, &image)
}

#[test]
fn one_remote_pod_is_one_map_write_and_one_flip_is_one_store() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    reach(&mut kernel, &small());
    let address: IpAddr = "10.0.0.10".parse().unwrap();
    let more = changed(&mut kernel, |image| {
        image.addresses.insert(address, Class(5));
    });
    assert_eq!(
        more,
        Applied {
            map_writes: 1,
            syscalls: 1,
            ..Applied::default()
        }
    );
    let fewer = changed(&mut kernel, |image| {
        image.addresses.remove(&address);
    });
    assert_eq!((fewer.map_writes, fewer.syscalls, fewer.flips), (1, 1, 0));
    let flip = changed(&mut kernel, |image| {
        let pod = image.pods.get_mut("uid-1").unwrap();
        pod.egress.psid = Psid(20);
    });
    assert_eq!((flip.map_writes, flip.flips, flip.stores), (0, 1, 0));
}

#[test]
fn ten_thousand_addresses_are_written_in_batches() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut config = pins.config();
    config.sizes.addresses = 20_000;
    let mut kernel = Kernel::open(&config).unwrap();
    let written = changed(&mut kernel, |image| {
        for number in 0..10_000_u32 {
            image
                .addresses
                .insert(IpAddr::V4((0x0a00_0000 + number).into()), Class(7));
        }
    });
    assert_eq!(written.map_writes, 10_000);
    assert!(written.syscalls < 10, "{written:?}");
    let image = kernel.image().clone();
    drop(kernel);
    assert_eq!(Kernel::open(&config).unwrap().image(), &image);
}

#[test]
fn a_change_that_does_not_fit_is_refused_whole_and_names_the_flag() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let config = pins.config();
    let mut kernel = Kernel::open(&config).unwrap();
    reach(&mut kernel, &small());
    let (rule_key, _) = rule(1);
    let too_many: Vec<(Map, &str, Image)> = vec![
        (Map::Ip4, "--max-addresses", {
            let mut image = small();
            for number in 0..=config.sizes.addresses {
                image.addresses.insert(IpAddr::V4(number.into()), Class(1));
            }
            image
        }),
        (Map::Net6, "--max-networks", {
            let mut image = small();
            for number in 0..=u128::from(config.sizes.networks) {
                let cidr = Cidr::new(IpAddr::V6((number << 100).into()), 64).unwrap();
                image.networks.insert(cidr, Class(1));
            }
            image
        }),
        (Map::Row, "--max-rows", {
            let mut image = small();
            for number in 0..=config.sizes.rows {
                image
                    .rows
                    .insert((Psid(16), Class(1 + number)), Row::Allow(rule_key));
            }
            image
        }),
        (Map::L4, "--max-tables", {
            let mut image = small();
            let starts = (0..32 * config.sizes.tables).map(|n| (n * 3, (n % 2 == 0).then_some(rule_key)));
            let (key, table) = table(starts.collect());
            image.l4.insert(key, table);
            image
        }),
        (Map::Counters, "--max-rules", {
            let mut image = small();
            image.rules.extend((0..config.sizes.rules).map(rule));
            image
        }),
        (Map::PodState, "--max-pods", {
            let mut image = small();
            let pod = image.pods["uid-1"].clone();
            for number in 0..config.sizes.pods {
                let pod = PodImage {
                    addresses: Vec::new(),
                    ..pod.clone()
                };
                image.pods.insert(format!("new-{number}").into(), pod);
            }
            image
        }),
        (Map::Source4, "--max-sources", {
            let mut image = small();
            let pod = image.pods.get_mut("uid-1").unwrap();
            pod.source_prefixes = (0..=config.sizes.sources)
                .map(|n| Cidr::new(IpAddr::V4((n << 16).into()), 16).unwrap())
                .collect();
            image
        }),
    ];
    for (map, flag, image) in too_many {
        let error = kernel.apply(&diff(kernel.image(), &image)).unwrap_err();
        assert!(
            matches!(error, ApplyError::Full { map: full, needed, capacity } if full == map && needed > capacity),
            "{map:?}: {error}"
        );
        assert!(error.to_string().contains(flag), "{error}");
        assert_eq!(kernel.image(), &small(), "{map:?}");
    }
    drop(kernel);
    let mut kernel = Kernel::open(&config).unwrap();
    assert_eq!(kernel.image(), &small());
    // And what fits is still taken.
    let written = changed(&mut kernel, |image| {
        image.addresses.insert("10.0.0.11".parse().unwrap(), Class(5));
    });
    assert_eq!(written.map_writes, 1);
}

#[test]
fn a_write_that_the_kernel_refuses_leaves_an_image_of_what_is_in_force() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let config = pins.config();
    let mut kernel = Kernel::open(&config).unwrap();
    reach(&mut kernel, &small());
    // Somebody else fills the map.
    let handle = MapHandle::from_pinned_path(pins.path("maps/ip4")).unwrap();
    for number in 1..config.sizes.addresses {
        handle
            .update(&number.to_be_bytes(), &1_u32.to_ne_bytes(), MapFlags::ANY)
            .unwrap();
    }
    let wanted = {
        let mut image = small();
        image.addresses.clear();
        for last in 1..=3 {
            image
                .addresses
                .insert(IpAddr::V4([10, 0, 0, last].into()), Class(5));
        }
        image
    };
    let error = kernel.apply(&diff(&small(), &wanted)).unwrap_err();
    assert!(
        matches!(error, ApplyError::Kernel(_)) && error.to_string().contains("ip4"),
        "{error}"
    );
    assert_eq!(kernel.image().addresses.len() as u32, config.sizes.addresses);
    // Knowing what is there, the next difference makes room first where it can; here in two parts.
    let mut emptied = kernel.image().clone();
    emptied.addresses.clear();
    reach(&mut kernel, &emptied);
    reach(&mut kernel, &wanted);
    assert_eq!(kernel.image(), &wanted);
}

#[test]
fn a_peer_takes_a_hundred_bytes_at_most() {
    if !root() {
        return;
    }
    const PEERS: u32 = 50_000;
    let pins = Pins::new();
    let mut config = pins.config();
    config.sizes.addresses = 262_144;
    let mut kernel = Kernel::open(&config).unwrap();
    let total = |kernel: &Kernel| kernel.memory().unwrap().values().sum::<u64>();
    let empty = total(&kernel);
    let peers = |make: fn(u32) -> IpAddr| {
        let mut image = small();
        image.addresses = (0..PEERS).map(|n| (make(n), Class(5))).collect();
        image
    };
    for make in [
        (|n| IpAddr::V4((0x0a00_0000 + n).into())) as fn(u32) -> IpAddr,
        |n| IpAddr::V6(((0xfd_u128 << 120) + u128::from(n)).into()),
    ] {
        reach(&mut kernel, &peers(make));
        let each = (total(&kernel) - empty) / u64::from(PEERS);
        // 0: this kernel does not account for entries (before 6.4).
        assert!(each <= 100, "{each} bytes");
        println!("{each} bytes a peer");
    }
}

#[test]
fn an_operation_on_what_is_not_there_is_refused() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    for op in [
        Op::AddRow(Psid(16), Class(1), Row::Allow(RuleKey(1))),
        Op::AddRow(Psid(16), Class(1), Row::L4(L4Key(1))),
        Op::AddL4(L4Key(1), L4(Arc::from([(0, Some(RuleKey(1)))]))),
        Op::AddL4(L4Key(1), L4(Arc::from([]))),
    ] {
        let error = kernel.apply(std::slice::from_ref(&op)).unwrap_err();
        assert!(matches!(error, ApplyError::Refused(_)), "{op:?}: {error}");
    }
    assert_eq!(kernel.image(), &Image::default());
}

#[test]
fn what_is_published_waits_for_nothing_and_its_leavings_go_later() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut kernel = Kernel::open(&pins.config()).unwrap();
    reach(&mut kernel, &small());
    let mut open = small();
    let pod = open.pods.get_mut("uid-1").unwrap();
    pod.ingress = PodDirection::OPEN;
    open.rows.clear();
    open.rules.clear();
    let published = kernel.publish(&diff(kernel.image(), &open)).unwrap();
    assert_eq!((published.graces, published.flips), (0, 1));
    assert_eq!(kernel.image().pods, open.pods);
    assert_eq!(kernel.image().rows, small().rows);
    // Of use again: nothing but the flip.
    let back = kernel.publish(&diff(kernel.image(), &small())).unwrap();
    assert_eq!((back.map_writes, back.graces, back.flips), (0, 0, 1));
    assert_eq!(kernel.image(), &small());
    kernel.publish(&diff(kernel.image(), &open)).unwrap();
    let settled = reach(&mut kernel, &open);
    assert_eq!(settled.graces, 1);
    assert_eq!(kernel.image(), &open);
}

#[test]
fn freed_places_are_used_again_after_packets_have_finished() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut config = pins.config();
    config.sizes.tables = 6;
    let mut kernel = Kernel::open(&config).unwrap();
    let mut graces = 0;
    for round in 0..12 {
        let written = changed(&mut kernel, |image| {
            let (key, info) = rule(1);
            image.rules.insert(key, info);
            let (table_key, table) = table(vec![(0, None), (round + 1, Some(key))]);
            image.l4 = [(table_key, table)].into();
            image.rows = [((Psid(16), Class(1)), Row::L4(table_key))].into();
        });
        graces += written.graces;
    }
    assert!(graces > 0);
    let image = kernel.image().clone();
    drop(kernel);
    assert_eq!(Kernel::open(&config).unwrap().image(), &image);
}
