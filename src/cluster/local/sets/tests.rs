use super::*;
use crate::api::{PolicyRef, Slice};
use crate::model::{Direction, Enforcement};

/// `of` tells contents apart.
fn object(of: u32, slice: Option<(u32, u32)>) -> Arc<PolicyEndpoint> {
    let spec = PolicyEndpointSpec {
        policy_ref: PolicyRef {
            name: "web".into(),
            namespace: "shop".into(),
        },
        pod_isolation: vec![Direction::Ingress],
        ingress: vec![crate::api::Entry {
            cidr: crate::model::Cidr::single(std::net::Ipv4Addr::from(of).into()),
            except: Arc::default(),
            ports: Arc::default(),
            rule: None,
        }],
        slice: slice.map(|(index, count)| Slice { index, count }),
        ..PolicyEndpointSpec::default()
    };
    let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default();
    Arc::new(PolicyEndpoint {
        metadata,
        spec,
        status: None,
    })
}

struct World {
    sets: Sets,
    now: Instant,
    /// What counts, by content.
    in_force: BTreeMap<String, Vec<u32>>,
}

impl World {
    fn new() -> Self {
        Self {
            sets: Sets::default(),
            now: Instant::now(),
            in_force: BTreeMap::new(),
        }
    }

    fn put(&mut self, name: &str, of: u32, slice: Option<(u32, u32)>) {
        self.put_of("web", name, object(of, slice));
    }

    fn put_of(&mut self, policy: &str, name: &str, object: Arc<PolicyEndpoint>) {
        self.sets.put(&name.into(), &policy.into(), object);
    }

    fn remove(&mut self, name: &str) {
        self.sets.remove(&name.into());
    }

    /// What of `web` counts after `milliseconds` more.
    fn after(&mut self, milliseconds: u64) -> Option<Vec<u32>> {
        self.now += Duration::from_millis(milliseconds);
        let content = |object: &Arc<PolicyEndpoint>| match object.spec.ingress[0].cidr.net().addr() {
            std::net::IpAddr::V4(v4) => u32::from(v4),
            std::net::IpAddr::V6(_) => unreachable!("made from IPv4"),
        };
        for (policy, objects) in self.sets.settle(self.now) {
            match objects {
                Some(objects) => self
                    .in_force
                    .insert(policy.to_string(), objects.iter().map(content).collect()),
                None => self.in_force.remove(&*policy),
            };
        }
        self.in_force.get("web").cloned()
    }
}

#[test]
fn a_new_policy_counts_when_all_its_slices_are_there() {
    let mut world = World::new();
    world.put("a", 1, Some((0, 2)));
    assert_eq!(world.after(0), None);
    assert!(!world.sets.is_settled());
    world.put("b", 2, Some((2, 4)));
    assert_eq!(world.after(500), None);
    world.put("c", 3, Some((3, 4)));
    assert_eq!(world.after(0), Some(vec![1, 2, 3]));
    assert!(world.sets.is_settled() && world.sets.deadline().is_none());
}

#[test]
fn a_new_policy_counts_with_what_is_there_after_two_seconds_and_then_follows_at_once() {
    let mut world = World::new();
    world.put("a", 1, Some((0, 4)));
    assert_eq!(world.after(0), None);
    // More of it does not put the time off.
    world.put("b", 2, Some((1, 4)));
    assert_eq!(world.after(1_999), None);
    assert_eq!(world.sets.deadline(), Some(world.now + Duration::from_millis(1)));
    assert_eq!(world.after(1), Some(vec![1, 2]));
    world.put("c", 3, Some((2, 4)));
    assert_eq!(world.after(0), Some(vec![1, 2, 3]));
    world.put("d", 4, Some((3, 4)));
    assert_eq!(world.after(0), Some(vec![1, 2, 3, 4]));
}

#[test]
fn a_slice_that_is_split_changes_nothing_before_both_halves_are_there() {
    for parent_first in [true, false] {
        let mut world = World::new();
        world.put("whole", 1, Some((0, 1)));
        assert_eq!(world.after(0), Some(vec![1]));
        if parent_first {
            world.remove("whole");
            world.put("left", 2, Some((0, 2)));
            assert_eq!(world.after(0), Some(vec![1]));
            world.put("right", 3, Some((1, 2)));
        } else {
            world.put("left", 2, Some((0, 2)));
            assert_eq!(world.after(0), Some(vec![1]));
            world.put("right", 3, Some((1, 2)));
            assert_eq!(world.after(0), Some(vec![1]));
            world.remove("whole");
        }
        assert_eq!(world.after(0), Some(vec![2, 3]));
    }
}

#[test]
fn what_never_becomes_whole_again_counts_after_two_seconds() {
    let mut world = World::new();
    world.put("left", 2, Some((0, 2)));
    world.put("right", 3, Some((1, 2)));
    assert_eq!(world.after(0), Some(vec![2, 3]));
    world.remove("right");
    assert_eq!(world.after(1_999), Some(vec![2, 3]));
    assert_eq!(
        world.after(1),
        Some(vec![2, 3]),
        "the time begins when it is seen"
    );
    assert_eq!(world.after(2_000), Some(vec![2]));
}

#[test]
fn one_slice_of_a_whole_set_that_changes_counts_at_once() {
    let mut world = World::new();
    world.put("left", 2, Some((0, 2)));
    world.put("right", 3, Some((1, 2)));
    world.after(0);
    world.put("left", 4, Some((0, 2)));
    assert_eq!(world.after(0), Some(vec![4, 3]));
}

#[test]
fn slices_that_disagree_on_whom_they_select_are_no_whole() {
    let mut world = World::new();
    world.put("left", 2, Some((0, 2)));
    world.put("right", 3, Some((1, 2)));
    world.after(0);
    let mut other = PolicyEndpoint::clone(&object(4, Some((0, 2))));
    other.spec.pod_isolation = Direction::ALL.to_vec();
    world.put_of("web", "left", Arc::new(other));
    assert_eq!(world.after(0), Some(vec![2, 3]));
    let mut other = PolicyEndpoint::clone(&object(5, Some((1, 2))));
    other.spec.pod_isolation = Direction::ALL.to_vec();
    world.put_of("web", "right", Arc::new(other));
    assert_eq!(world.after(0), Some(vec![4, 5]));
}

#[test]
fn a_policy_whose_objects_all_go_is_gone_at_once() {
    let mut world = World::new();
    world.put("left", 2, Some((0, 2)));
    world.put("right", 3, Some((1, 2)));
    world.after(0);
    world.remove("left");
    assert_eq!(world.after(0), Some(vec![2, 3]));
    world.remove("right");
    assert_eq!(world.after(0), None);
    assert_eq!(world.sets.in_force().count(), 0);
    assert_eq!(world.sets.deadline(), None);
}

#[test]
fn objects_that_do_not_say_which_slice_they_are_are_merged_as_they_come() {
    let mut world = World::new();
    world.put("web-x7f2k", 1, None);
    assert_eq!(world.after(0), Some(vec![1]));
    world.put("web-z9q4m", 2, None);
    assert_eq!(world.after(0), Some(vec![1, 2]));
    world.remove("web-x7f2k");
    assert_eq!(world.after(0), Some(vec![2]));
}

#[test]
fn an_object_that_goes_over_to_another_policy_leaves_the_first() {
    let mut world = World::new();
    world.put("a", 1, None);
    world.put("b", 2, None);
    world.after(0);
    world.put_of("other", "b", object(2, None));
    assert_eq!(world.after(0), Some(vec![1]));
    assert_eq!(world.in_force["other"], [2]);
}

#[test]
fn slices_that_overlap_are_no_whole_though_their_shares_add_up() {
    let mut world = World::new();
    world.put("half", 1, Some((0, 2)));
    world.put("first", 2, Some((0, 4)));
    world.put("second", 3, Some((1, 4)));
    assert_eq!(world.after(0), None);
}

#[test]
fn slices_that_leave_audit_one_by_one_change_nothing_before_the_last() {
    let mut world = World::new();
    let put = |world: &mut World, of: u32, index: u32, enforcement| {
        let mut object = PolicyEndpoint::clone(&object(of, Some((index, 2))));
        object.spec.enforcement = enforcement;
        world.put_of("web", &format!("slice-{index}"), Arc::new(object));
    };
    put(&mut world, 1, 0, Enforcement::Audit);
    put(&mut world, 2, 1, Enforcement::Audit);
    assert_eq!(world.after(0), Some(vec![1, 2]));
    put(&mut world, 3, 0, Enforcement::Enforce);
    assert_eq!(world.after(0), Some(vec![1, 2]));
    put(&mut world, 4, 1, Enforcement::Enforce);
    assert_eq!(world.after(0), Some(vec![3, 4]));
}
