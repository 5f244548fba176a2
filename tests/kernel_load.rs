//! Loading and adopting what is pinned.

mod kernel_support;

use kernel_support::{Namespace, Pins, root, veth};
use palisade::bpf::{Frame, Kernel};
use palisade::model::Direction;

#[test]
fn a_second_open_adopts_maps_and_programs() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let config = pins.config();
    let first = Kernel::open(&config).unwrap();
    assert!(!first.opened().adopted && first.opened().verified);
    drop(first);
    let second = Kernel::open(&config).unwrap();
    assert!(second.opened().adopted && !second.opened().verified);
}

#[test]
fn one_pin_path_serves_one_process() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _first = Kernel::open(&pins.config()).unwrap();
    let error = Kernel::open(&pins.config()).unwrap_err();
    assert!(error.to_string().contains("in use"), "{error:#}");
}

#[test]
fn larger_maps_take_over_what_the_smaller_ones_held() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let mut config = pins.config();
    drop(Kernel::open(&config).unwrap());
    config.sizes.addresses *= 2;
    let grown = Kernel::open(&config).unwrap();
    assert!(grown.opened().adopted && grown.opened().verified);
    drop(grown);
    config.sizes.addresses /= 2;
    let kept = Kernel::open(&config).unwrap();
    assert!(!kept.opened().verified);
    assert_eq!(kept.opened().notices.len(), 2, "{:?}", kept.opened());
}

#[test]
fn a_frame_runs_at_an_interface_of_the_callers_namespace() {
    if !root() {
        return;
    }
    let pins = Pins::new();
    let _namespace = Namespace::enter();
    let ifindex = veth("p0");
    let kernel = Kernel::open(&pins.config()).unwrap();
    let mut bytes = [0_u8; 60];
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    let frame = Frame {
        direction: Direction::Egress,
        ifindex,
        ingress_ifindex: 77,
        bytes: &bytes,
    };
    assert!(kernel.test_run(frame).unwrap().dropped());
    let from_node = Frame {
        direction: Direction::Ingress,
        ingress_ifindex: 0,
        ..frame
    };
    assert!(!kernel.test_run(from_node).unwrap().dropped());
    let nowhere = Frame {
        ifindex: 4_000_000,
        ..frame
    };
    assert!(kernel.test_run(nowhere).is_err());
}
