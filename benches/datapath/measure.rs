//! Times of single packets. Cases take turns burst by burst, so that what else the machine does hits all alike, and the least
//! burst of each counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use palisade::bpf::{Frame, Kernel};
use palisade::model::Direction;

use super::frames::{ACK, L4, SYN, frame};
use super::node::{CLOSED_PORT, ISOLATED, OPEN, peer_addresses, pod_addresses, port, stranger_addresses};
use super::reference::Reference;

/// Of each case.
pub const BURSTS: usize = 120;
/// Runs of a burst.
const REPEAT: u32 = 5000;
/// Flows that a case's bursts take turns with.
const FLOWS: usize = 8;
/// Flows that are begun in one burst of `first_allowed`.
const FIRSTS: usize = 64;
/// Where the host received what comes to a pod: any number but 0.
const UPLINK: u32 = 7777;

/// Mean of the runs of a burst, in ns. The kernel gives whole nanoseconds, which is too coarse where runs are many; of few, the
/// call's own cost would be too much.
pub fn mean(took: Duration, by_kernel: Duration, repeat: u32) -> f64 {
    if repeat < 1000 {
        by_kernel.as_secs_f64() * 1e9
    } else {
        took.as_secs_f64() * 1e9 / f64::from(repeat)
    }
}

/// A pod's kernel and where its pods are attached.
pub struct Setup {
    pub kernel: Kernel,
    pub rules: usize,
    pub isolated: u32,
    pub open: u32,
}

/// One row of the table.
pub struct Case {
    pub name: String,
    pub setup: usize,
    direction: Direction,
    ifindex: u32,
    frames: Vec<Vec<u8>>,
    dropped: bool,
    repeat: u32,
    pub lookup: &'static str,
}

#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    uid: &'static str,
    /// 0: IPv4, 1: IPv6.
    family: usize,
    direction: Direction,
    peer: fn(usize) -> [std::net::IpAddr; 2],
    open_port: bool,
    l4: L4,
    dropped: bool,
}

const SHAPES: &[Shape] = {
    const ESTABLISHED: Shape = Shape {
        name: "established_v4",
        uid: ISOLATED,
        family: 0,
        direction: Direction::Ingress,
        peer: peer_addresses,
        open_port: true,
        l4: L4::Tcp(ACK),
        dropped: false,
    };
    const REPLY: Shape = Shape {
        name: "reply_v4",
        direction: Direction::Egress,
        ..ESTABLISHED
    };
    const DENIED: Shape = Shape {
        name: "denied_known_peer_v4",
        open_port: false,
        l4: L4::Tcp(SYN),
        dropped: true,
        ..ESTABLISHED
    };
    const UNKNOWN: Shape = Shape {
        name: "denied_unknown_peer_v4",
        peer: stranger_addresses,
        ..DENIED
    };
    &[
        ESTABLISHED,
        Shape {
            name: "established_v6",
            family: 1,
            ..ESTABLISHED
        },
        REPLY,
        Shape {
            name: "reply_v6",
            family: 1,
            ..REPLY
        },
        Shape {
            name: "established_v4_udp",
            l4: L4::Udp,
            ..ESTABLISHED
        },
        Shape {
            name: "open_v4",
            uid: OPEN,
            ..ESTABLISHED
        },
        DENIED,
        Shape {
            name: "denied_known_peer_v6",
            family: 1,
            ..DENIED
        },
        UNKNOWN,
        Shape {
            name: "denied_unknown_peer_v6",
            family: 1,
            ..UNKNOWN
        },
        Shape {
            name: "denied_known_peer_v4_udp",
            l4: L4::Udp,
            ..DENIED
        },
        Shape {
            name: "denied_known_peer_v6_udp",
            family: 1,
            l4: L4::Udp,
            ..DENIED
        },
        Shape {
            name: "denied_unknown_peer_v4_udp",
            l4: L4::Udp,
            ..UNKNOWN
        },
        Shape {
            name: "first_allowed_v4",
            l4: L4::Tcp(SYN),
            ..ESTABLISHED
        },
    ]
};

/// All cases of one setup. Their flows are begun.
pub fn cases(setups: &[Setup], setup: usize) -> Result<Vec<Case>, Box<dyn Error>> {
    SHAPES.iter().map(|shape| case(setups, setup, shape)).collect()
}

fn case(setups: &[Setup], index: usize, shape: &Shape) -> Result<Case, Box<dyn Error>> {
    let setup = &setups[index];
    let first = shape.name.starts_with("first");
    let flows = if first { FIRSTS * BURSTS } else { FLOWS };
    let ifindex = if shape.uid == OPEN {
        setup.open
    } else {
        setup.isolated
    };
    let mut frames = Vec::new();
    for flow in 0..flows {
        // Those that are begun in one burst are from one peer: how a first packet fares whose neighbours are all new is
        // a matter of the machine's caches.
        let number = if first { flow / FIRSTS } else { flow } * 613 % 10_000;
        let service = if shape.open_port {
            port(number, setup.rules)
        } else {
            CLOSED_PORT
        };
        let client_port = if first { 20_000 + flow } else { 50_000 + flow } as u16;
        let client = ((shape.peer)(number)[shape.family], client_port);
        let server = (pod_addresses(shape.uid)[shape.family], service);
        if !shape.dropped && !first {
            let opening = if matches!(shape.l4, L4::Udp) {
                L4::Udp
            } else {
                L4::Tcp(SYN)
            };
            run(
                setup,
                Direction::Ingress,
                ifindex,
                &frame(client, server, opening),
                1,
                false,
            )?;
            // The answer, so that the flow is established.
            let answer = if matches!(shape.l4, L4::Udp) {
                L4::Udp
            } else {
                L4::Tcp(SYN | ACK)
            };
            run(
                setup,
                Direction::Egress,
                ifindex,
                &frame(server, client, answer),
                1,
                false,
            )?;
        }
        frames.push(match shape.direction {
            Direction::Ingress => frame(client, server, shape.l4),
            Direction::Egress => frame(server, client, shape.l4),
        });
    }
    Ok(Case {
        name: shape.name.to_string(),
        setup: index,
        direction: shape.direction,
        ifindex,
        frames,
        dropped: shape.dropped,
        repeat: if first { 1 } else { REPEAT },
        lookup: if shape.family == 0 { "lookup4" } else { "lookup6" },
    })
}

fn run(
    setup: &Setup,
    direction: Direction,
    ifindex: u32,
    bytes: &[u8],
    repeat: u32,
    dropped: bool,
) -> Result<f64, Box<dyn Error>> {
    let frame = Frame {
        direction,
        ifindex,
        ingress_ifindex: if direction == Direction::Ingress {
            UPLINK
        } else {
            ifindex
        },
        bytes,
    };
    let start = Instant::now();
    let ran = setup.kernel.test_run_repeated(frame, repeat)?;
    let took = start.elapsed();
    if ran.dropped() != dropped {
        return Err(
            format!("{direction} frame {bytes:02x?}: {ran:?}, but dropped should be {dropped}").into(),
        );
    }
    Ok(mean(took, ran.duration, repeat))
}

/// Least bursts, in ns: of the reference programs by name (and `empty_once`, run but once each time), and of the cases in order.
pub struct Measured {
    pub reference: BTreeMap<&'static str, f64>,
    pub cases: Vec<f64>,
}

pub fn measure(
    setups: &[Setup],
    reference: &mut Reference,
    cases: &[Case],
) -> Result<Measured, Box<dyn Error>> {
    let mut measured = Measured {
        reference: BTreeMap::new(),
        cases: vec![f64::MAX; cases.len()],
    };
    let plain = [0_u8; 64];
    for burst in 0..BURSTS {
        for (name, program, repeat) in [
            ("empty", "empty", REPEAT),
            ("lookup4", "lookup4", REPEAT),
            ("lookup6", "lookup6", REPEAT),
            ("empty_once", "empty", 1),
        ] {
            let times = if repeat == 1 { FIRSTS } else { 1 };
            let mut total = 0.0;
            for _ in 0..times {
                total += reference.run(program, &plain, repeat)?;
            }
            let least = measured.reference.entry(name).or_insert(f64::MAX);
            *least = least.min(total / times as f64);
        }
        for (case, least) in cases.iter().zip(&mut measured.cases) {
            let setup = &setups[case.setup];
            let ns = if case.repeat == 1 {
                let frames = &case.frames[burst * FIRSTS..(burst + 1) * FIRSTS];
                let mut total = 0.0;
                for frame in frames {
                    total += run(setup, case.direction, case.ifindex, frame, 1, case.dropped)?;
                }
                total / FIRSTS as f64
            } else {
                let frame = &case.frames[burst % FLOWS];
                run(
                    setup,
                    case.direction,
                    case.ifindex,
                    frame,
                    case.repeat,
                    case.dropped,
                )?
            };
            *least = least.min(ns);
        }
    }
    Ok(measured)
}

impl Measured {
    /// Of a case, net of an empty program.
    pub fn net(&self, case: usize, cases: &[Case]) -> f64 {
        let empty = if cases[case].repeat == 1 {
            "empty_once"
        } else {
            "empty"
        };
        self.cases[case] - self.reference[empty]
    }

    pub fn lookup(&self, name: &str) -> f64 {
        self.reference[name] - self.reference["empty"]
    }
}
