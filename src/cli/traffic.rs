//! The kind of packet that a question is about.

use std::fmt;
use std::str::FromStr;

use crate::model::Protocol;

/// `80/TCP`, or a protocol without ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// The destination port, from 1.
    Port(Protocol, u16),
    /// ICMP between IPv4 addresses, ICMPv6 between IPv6 addresses: an echo, say. Errors follow the flow they quote.
    Icmp,
    /// Another IP protocol, by its IANA number.
    Other(u8),
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

impl Traffic {
    /// IANA protocol number.
    pub fn protocol(self, ipv4: bool) -> u8 {
        match self {
            Self::Port(protocol, _) => protocol.number(),
            Self::Icmp if ipv4 => ICMP,
            Self::Icmp => ICMPV6,
            Self::Other(number) => number,
        }
    }

    /// Destination port; 0 where the protocol has none.
    pub fn port(self) -> u16 {
        match self {
            Self::Port(_, port) => port,
            Self::Icmp | Self::Other(_) => 0,
        }
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(protocol, port) => write!(f, "{port}/{protocol}"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Other(number) => write!(f, "IP protocol {number}"),
        }
    }
}

impl FromStr for Traffic {
    type Err = String;

    /// Protocol names in upper or lower case.
    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        if let Some((port, protocol)) = upper.split_once('/') {
            let protocol = protocol
                .parse::<Protocol>()
                .map_err(|_| "only TCP, UDP and SCTP have ports, as in 80/TCP".to_string())?;
            return match port.parse::<u16>() {
                Ok(port) if port > 0 => Ok(Self::Port(protocol, port)),
                _ => Err("a port is a number from 1 to 65535, as in 80/TCP".to_string()),
            };
        }
        let number = match upper.as_str() {
            "ICMP" | "ICMPV6" => return Ok(Self::Icmp),
            other => other.parse::<u8>().ok(),
        };
        if let Some(protocol) = Protocol::ALL
            .into_iter()
            .find(|p| p.to_string() == upper || Some(p.number()) == number)
        {
            return Err(format!("{protocol} has ports: write one, as in 80/{protocol}"));
        }
        match number {
            Some(ICMP | ICMPV6) => Ok(Self::Icmp),
            Some(number) => Ok(Self::Other(number)),
            None => {
                Err("neither PORT/TCP, PORT/UDP, PORT/SCTP, nor ICMP, nor a protocol's number".to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_is_read() {
        for (text, read, shown) in [
            ("80/TCP", Traffic::Port(Protocol::Tcp, 80), "80/TCP"),
            ("53/udp", Traffic::Port(Protocol::Udp, 53), "53/UDP"),
            ("65535/SCTP", Traffic::Port(Protocol::Sctp, 65535), "65535/SCTP"),
            ("icmp", Traffic::Icmp, "ICMP"),
            ("58", Traffic::Icmp, "ICMP"),
            // A protocol's number; that no port was meant can be read off the answer.
            ("80", Traffic::Other(80), "IP protocol 80"),
        ] {
            assert_eq!(text.parse(), Ok(read), "{text}");
            assert_eq!(read.to_string(), shown);
        }
        assert_eq!(
            (Traffic::Icmp.protocol(true), Traffic::Icmp.protocol(false)),
            (1, 58)
        );
    }

    #[test]
    fn what_is_no_traffic_is_refused_with_the_reason() {
        for (text, reason) in [
            ("0/TCP", "from 1 to 65535"),
            ("65536/TCP", "from 1 to 65535"),
            ("http/TCP", "from 1 to 65535"),
            ("80/ICMP", "only TCP, UDP and SCTP"),
            ("TCP", "write one, as in 80/TCP"),
            ("17", "write one, as in 80/UDP"),
            ("256", "neither"),
            ("", "neither"),
            ("gre\u{1b}", "neither"),
        ] {
            let error = text.parse::<Traffic>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
