//! Ethernet frames as they stand at a pod's host-side interface.

use std::net::IpAddr;

pub const ACK: u8 = 0x10;
pub const SYN: u8 = 0x02;

/// Transport header.
#[derive(Clone, Copy, Debug)]
pub enum L4 {
    /// With its flags.
    Tcp(u8),
    Udp,
}

/// A frame with 8 bytes of payload. Checksums are 0: no program reads them.
///
/// # Panics
/// The addresses are of different families.
pub fn frame(source: (IpAddr, u16), destination: (IpAddr, u16), l4: L4) -> Vec<u8> {
    let mut transport = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    let protocol = match l4 {
        L4::Tcp(flags) => {
            transport.extend([0; 8]);
            transport.extend([0x50, flags]);
            transport.extend([0; 6]);
            6
        }
        L4::Udp => {
            transport.extend(16_u16.to_be_bytes());
            transport.extend([0; 2]);
            17
        }
    };
    transport.extend([0; 8]);
    let length = transport.len() as u16;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        families => panic!("no frame goes between {families:?}"),
    }
    frame.extend(transport);
    frame
}
