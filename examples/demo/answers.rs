//! What `palisade matrix` and `palisade explain` answer, as questions and verdicts.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::interrupt;
use crate::leftovers::Scratch;
use crate::netns::{self, Answer};
use crate::shop::{PAYMENTS, Shop};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::IPv4, Self::IPv6];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl From<Protocol> for netns::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

/// What each pod listens on, so that silence is a policy's and not a closed port's.
pub const PORTS: [Port; 8] = [
    Port::tcp(53),
    Port::udp(53),
    Port::tcp(5432),
    Port::tcp(8080),
    Port::tcp(8081),
    Port::tcp(9000),
    Port::tcp(9090),
    Port::tcp(9100),
];
/// What visitors from elsewhere try.
const TRIED: [Port; 3] = [Port::tcp(8080), Port::tcp(8081), Port::tcp(5432)];

impl Port {
    pub const fn tcp(number: u16) -> Self {
        Self {
            number,
            protocol: Protocol::Tcp,
        }
    }

    const fn udp(number: u16) -> Self {
        Self {
            number,
            protocol: Protocol::Udp,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text
            .split_once('/')
            .map(|(number, protocol)| (number.parse(), protocol))
        {
            Some((Ok(number), "TCP")) => Ok(Self::tcp(number)),
            Some((Ok(number), "UDP")) => Ok(Self::udp(number)),
            _ => bail!("{text:?} is no port of the demo"),
        }
    }
}

/// May `from` open a connection to `port` of `to`? Ends are named as in [`Shop`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub from: String,
    pub to: String,
    pub port: Port,
    pub family: Family,
}

impl Question {
    pub fn new(from: &str, to: &str, family: Family, port: &str) -> Result<Self> {
        Ok(Self {
            from: from.into(),
            to: to.into(),
            port: port.parse()?,
            family,
        })
    }

    /// Whether the other end answers within `patience`.
    pub fn ask(&self, shop: &Shop, patience: Duration) -> bool {
        let Some(to) = shop.address(&self.to, self.family) else {
            return false;
        };
        let from = shop.namespace(&self.from);
        netns::reach(from, self.port.protocol.into(), to, self.port.number, patience) == Answer::Reached
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            port,
            family,
        } = self;
        write!(f, "{from} → {to} {port} {family:?}")
    }
}

/// The program, and the folder of YAML that it is asked about.
pub struct Palisade {
    pub program: PathBuf,
    pub folder: PathBuf,
}

impl Palisade {
    /// Cargo puts examples one folder below the programs.
    pub fn beside_this_program(scratch: &Scratch) -> Result<Self> {
        let own = std::env::current_exe().context("cannot tell where this program is")?;
        let program = own
            .parent()
            .and_then(Path::parent)
            .map(|folder| folder.join("palisade"))
            .filter(|program| program.is_file())
            .with_context(|| format!("no program palisade beside {}: run `make demo`", own.display()))?;
        Ok(Self {
            program,
            folder: scratch.folder(),
        })
    }

    /// What `palisade ARGUMENTS` prints about the folder.
    pub fn answer(&self, arguments: &[&str]) -> Result<String> {
        interrupt::check()?;
        let shown = || format!("palisade {}", arguments.join(" "));
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--from")
            .arg(&self.folder)
            .stderr(Stdio::piped())
            .output()
            .with_context(shown)?;
        if !output.status.success() {
            bail!("{}: {}", shown(), String::from_utf8_lossy(&output.stderr));
        }
        String::from_utf8(output.stdout).with_context(shown)
    }
}

#[derive(Deserialize)]
struct Row {
    from: String,
    to: String,
    family: Family,
    port: String,
    verdict: Verdict,
}

#[derive(Deserialize)]
struct Explanation {
    flows: Vec<Flow>,
}

#[derive(Deserialize)]
struct Flow {
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    Deny,
}

/// Every question of the demo, and whether it is to be answered.
pub fn all(palisade: &Palisade, shop: &Shop) -> Result<BTreeMap<Question, bool>> {
    let mut all = between_pods(palisade)?;
    for pod in Shop::pods() {
        let (to, port) = PAYMENTS;
        for family in Family::BOTH {
            all.extend(explained(palisade, shop, (pod, to), port, family)?);
        }
        for from in Shop::visitors() {
            for port in TRIED {
                for family in Family::BOTH {
                    all.extend(explained(palisade, shop, (from, pod), port, family)?);
                }
            }
        }
    }
    Ok(all)
}

/// All pairs of pods, all ports, both families.
pub fn between_pods(palisade: &Palisade) -> Result<BTreeMap<Question, bool>> {
    let ports = PORTS.map(|port| port.to_string());
    let ports = ports.iter().flat_map(|port| ["--port", port]);
    let arguments: Vec<&str> = ["matrix", "-o", "json"].into_iter().chain(ports).collect();
    let rows: Vec<Row> =
        serde_json::from_str(&palisade.answer(&arguments)?).context("palisade matrix -o json")?;
    rows.into_iter()
        .map(|row| {
            let question = Question::new(&row.from, &row.to, row.family, &row.port)?;
            Ok((question, row.verdict == Verdict::Allow))
        })
        .collect()
}

/// `None` where one of the two has no address of the family.
fn explained(
    palisade: &Palisade,
    shop: &Shop,
    (from, to): (&str, &str),
    port: Port,
    family: Family,
) -> Result<Option<(Question, bool)>> {
    let address = |name| {
        shop.address(name, family)
            .map(|address: IpAddr| address.to_string())
    };
    let (Some(source), Some(destination)) = (address(from), address(to)) else {
        return Ok(None);
    };
    let text = port.to_string();
    let answer = palisade.answer(&["explain", "-o", "json", &source, &destination, &text])?;
    let explanation: Explanation = serde_json::from_str(&answer).context("palisade explain -o json")?;
    let [flow] = &explanation.flows[..] else {
        bail!("palisade explain {source} {destination} {text} has not one flow");
    };
    let question = Question::new(from, to, family, &text)?;
    Ok(Some((question, flow.verdict == Verdict::Allow)))
}
