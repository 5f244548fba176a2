//! Pods' addresses → the host-side veths that the pods are behind, in one network namespace.
//!
//! Two netlink sockets: one receives notifications of links, routes, rules and neighbours, from which the driver keeps
//! a [`Table`](table::Table); the other carries requests, so that a flood of notifications costs no answer. The FIB is the
//! truth on routes: an address is looked up (RTM_GETROUTE) once, and again when a notification touches its route; the
//! lookups of a call are pipelined. Neighbours and bridges' stations come from the table, so that a call with 1,000 pods
//! and no news sends nothing at all.
//!
//! A pod on a bridge that has not sent anything yet is asked for by the kernel (ARP, neighbour solicitation); its answer
//! arrives as a notification, as does the lack of one. Two slow timers stand behind the notifications: pods that a bridge
//! is asked for in vain are asked for again, and everything is listed anew, see the constants.

mod evidence;
mod netlink;
mod place;
mod table;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tracing::{debug, warn};

use self::evidence::Evidence;
use self::netlink::{Ask, Route};
use self::place::Places;
use self::table::Table;
use crate::model::{ObjectId, Problem};

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];
/// Bytes that notifications may queue up; the kernel caps it at net.core.rmem_max.
const RECEIVE_BUFFER: u32 = 4 << 20;
/// FIB lookups under way at once.
const PIPELINE: usize = 32;
/// How often an address is asked for in a row. In vain takes the kernel about 3 s each.
const ASK_ATTEMPTS: u32 = 3;
/// Asking begins anew when the bridge shows a new port or station, and after this: a pod may get its address long after its
/// link is up, and then keep silent.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Neighbours asked for by one call.
const QUESTIONS: usize = 32;
/// Everything is listed anew so often. Correctness rests on notifications; this heals what a kernel fails to notify.
const RECHECK: Duration = Duration::from_secs(300);
/// After a list that changed while it was read, the next try is at the next notification or after this.
const SETTLE: Duration = Duration::from_secs(1);

/// A pod to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    pub uid: Arc<str>,
    pub id: ObjectId,
    pub addresses: Vec<IpAddr>,
    /// Names of interfaces that it is behind by the word of who made it. The first of them that is a veth counts like a host
    /// route; without one its addresses lead to it.
    pub interfaces: Vec<String>,
}

/// The host-side end of a pod's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veth {
    pub ifindex: u32,
    pub name: String,
    /// Ethernet address of the host-side end, not of the pod.
    pub mac: Option<[u8; 6]>,
    /// Another one for each link ever seen: tells a veth from an earlier one whose index it was given.
    pub incarnation: u64,
}

/// Where the pods are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located {
    /// By pod UID. No veth is here twice. A pod stays until its veth is gone or a route leads to another one.
    pub veths: BTreeMap<Arc<str>, Veth>,
    /// Sorted, without duplicates: why the others have no place. Pods whose bridge is still being asked are in neither.
    pub problems: Vec<Problem>,
    /// How many pods are elsewhere: the routes to all their addresses go to other machines.
    pub elsewhere: usize,
}

/// Finds pods' veths, and tells when that may have changed.
#[derive(Debug)]
pub struct Links {
    requests: Handle,
    table: Arc<Mutex<Table>>,
    /// 0 until the driver has listed everything once.
    version: watch::Receiver<u64>,
    places: Places,
    asked: HashMap<IpAddr, Asked>,
    /// Set while a pod is waited for.
    ask_again: Option<Instant>,
}

impl Links {
    /// Opens the sockets in the network namespace of the calling thread, which is the one that is watched from then on.
    ///
    /// The second part drives them: spawn it, nothing happens without it. It ends only with an error, or after `Links` is
    /// dropped.
    ///
    /// # Errors
    /// Fails where the kernel gives no netlink socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime with IO and time.
    pub fn open() -> Result<(Self, impl Future<Output = Result<()>> + Send + use<>)> {
        let (mut events, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .context("cannot subscribe to the kernel's link and route notifications (netlink)")?;
        if let Err(error) = events.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER) {
            debug!(%error, "the netlink receive buffer stays at its default");
        }
        let (requests_driver, requests, unsolicited) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        drop(unsolicited);
        let table = Arc::new(Mutex::new(Table::default()));
        let (announce, version) = watch::channel(0);
        let driver = {
            let (requests, table) = (requests.clone(), table.clone());
            async move {
                tokio::select! {
                    () = events => bail!("the netlink socket for notifications has failed"),
                    () = requests_driver => bail!("the netlink socket for requests has failed"),
                    () = announce.closed() => Ok(()),
                    result = follow(&requests, messages, &table, &announce) => result,
                }
            }
        };
        let links = Self {
            requests,
            table,
            version,
            places: Places::new(),
            asked: HashMap::new(),
            ask_again: None,
        };
        Ok((links, driver))
    }

    /// Resolves when a notification since the last call may have moved a pod of the last [`locate`](Self::locate), or when a
    /// silent one is to be asked for again; all that came meanwhile counts as one. Safe to cancel.
    ///
    /// # Errors
    /// Fails when the driver has ended.
    pub async fn changed(&mut self) -> Result<()> {
        let again = self.ask_again;
        tokio::select! {
            result = self.version.changed() => result.context("the netlink driver has ended"),
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {
                self.ask_again = None;
                self.asked.clear();
                Ok(())
            }
        }
    }

    /// Veths whose other end is in another network namespace, by index, with their incarnation; and the newest incarnation of
    /// all links. `None` until all are listed.
    pub fn veths_to_elsewhere(&self) -> Option<(BTreeMap<u32, u64>, u64)> {
        let listed = *self.version.borrow() > 0;
        let table = lock(&self.table);
        let veths = (table.links.iter())
            .filter(|(_, link)| link.kind == table::Kind::Veth && link.leads_elsewhere)
            .map(|(ifindex, link)| (*ifindex, link.incarnation));
        listed.then(|| (veths.collect(), table.incarnations))
    }

    /// Finds `pods`, and forgets the places of all others.
    ///
    /// # Errors
    /// Fails when the driver has ended, or the kernel answers with an unexpected error.
    pub async fn locate(&mut self, pods: &[Sought]) -> Result<Located> {
        self.version
            .wait_for(|version| *version > 0)
            .await
            .context("the netlink driver has ended")?;
        let addresses: BTreeSet<IpAddr> = pods
            .iter()
            .flat_map(|pod| pod.addresses.iter().copied())
            .collect();
        self.refresh_uplinks().await?;
        let routes = self.routes(&addresses).await?;
        let (located, questions, waits) = {
            let table = lock(&self.table);
            let known = addresses
                .iter()
                .map(|address| {
                    let route = routes
                        .get(address)
                        .copied()
                        .unwrap_or(Route::Unreachable { errno: 0 });
                    (*address, evidence::evidence(&table, *address, route))
                })
                .collect::<BTreeMap<_, _>>();
            let told = pods
                .iter()
                .filter_map(|pod| Some((&pod.uid, evidence::told(&table, &pod.interfaces)?)))
                .collect();
            let (places, problems) = place::settle(&table, pods, &known, &told, &self.places);
            self.places = places;
            let veths = self.places.iter().filter_map(|(uid, place)| {
                let ifindex = place.ifindex;
                let link = table.links.get(&ifindex)?;
                Some((
                    uid.clone(),
                    Veth {
                        ifindex,
                        name: link.name.clone(),
                        mac: link.mac,
                        incarnation: link.incarnation,
                    },
                ))
            });
            let is_elsewhere = |address| matches!(known.get(address), Some(Evidence::Elsewhere));
            let unplaced = pods.iter().filter(|pod| !self.places.contains_key(&pod.uid));
            let located = Located {
                veths: veths.collect(),
                problems,
                elsewhere: unplaced
                    .filter(|pod| pod.addresses.iter().all(is_elsewhere))
                    .count(),
            };
            let (questions, waits) = questions(&table, pods, &known, &self.places, &mut self.asked);
            (located, questions, waits)
        };
        self.ask_again = match waits {
            true => self.ask_again.or_else(|| Some(Instant::now() + ASK_AGAIN)),
            false => None,
        };
        self.ask(questions).await;
        Ok(located)
    }

    /// Has the kernel ask for neighbours, some at a time: each question goes to every port of the bridge. The others
    /// follow at the changes that the answers are.
    async fn ask(&mut self, questions: Vec<Question>) {
        let mut sent = 0;
        for Question {
            bridge, address, how, ..
        } in questions
        {
            if sent == QUESTIONS {
                break;
            }
            lock(&self.table).asking(bridge, address);
            match netlink::ask(&self.requests, bridge, address, how).await {
                Ok(()) => {
                    sent += 1;
                    self.asked.entry(address).or_default().attempts += 1;
                }
                // The bridge or the neighbour may be gone by now; a notification of that is on its way.
                Err(error) => {
                    lock(&self.table).not_asked(bridge, address);
                    debug!(%address, error = format!("{error:#}"), "a neighbour could not be asked for");
                }
            }
        }
    }

    /// The route to each address: remembered ones, and the others from the FIB.
    async fn routes(&self, addresses: &BTreeSet<IpAddr>) -> Result<HashMap<IpAddr, Route>> {
        let (epoch, mut routes) = {
            let mut table = lock(&self.table);
            table.sought = addresses.clone();
            table.routes.retain(|address, _| addresses.contains(address));
            (table.routes_epoch, table.routes.clone())
        };
        let missing: Vec<IpAddr> = addresses
            .iter()
            .filter(|a| !routes.contains_key(a))
            .copied()
            .collect();
        let answers: Vec<(IpAddr, Route)> = futures::stream::iter(missing)
            .map(|address| async move {
                Ok::<_, anyhow::Error>((address, netlink::lookup(&self.requests, address).await?))
            })
            .buffer_unordered(PIPELINE)
            .try_collect()
            .await?;
        let mut table = lock(&self.table);
        for (address, route) in answers {
            let lasting = route.oif().is_none_or(|oif| table.links.contains_key(&oif));
            if lasting && epoch == table.routes_epoch {
                table.routes.insert(address, route);
            }
            routes.insert(address, route);
        }
        Ok(routes)
    }

    async fn refresh_uplinks(&self) -> Result<()> {
        loop {
            let epoch = {
                let table = lock(&self.table);
                if table.uplinks.is_some() {
                    return Ok(());
                }
                table.uplinks_epoch
            };
            let uplinks = table::uplinks(&netlink::dump_routes(&self.requests).await?.messages);
            let mut table = lock(&self.table);
            if table.uplinks_epoch == epoch {
                table.uplinks = Some(uplinks);
            }
        }
    }
}

/// How often an address was asked for since its bridge last showed something new.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    news: u64,
    attempts: u32,
}

/// An address to ask for on a bridge.
struct Question {
    attempts: u32,
    bridge: u32,
    address: IpAddr,
    how: Ask,
}

/// Whom to ask for, the least asked first: pods without a place, one address at a time. And whether
/// any is waited for.
fn questions(
    table: &Table,
    pods: &[Sought],
    known: &BTreeMap<IpAddr, Evidence>,
    places: &Places,
    asked: &mut HashMap<IpAddr, Asked>,
) -> (Vec<Question>, bool) {
    asked.retain(|address, _| known.contains_key(address));
    let (mut questions, mut waits) = (Vec::new(), false);
    for pod in pods.iter().filter(|pod| !places.contains_key(&pod.uid)) {
        let evidence = || {
            pod.addresses
                .iter()
                .filter_map(|address| Some((*address, known.get(address)?)))
        };
        if evidence().any(|(_, e)| matches!(e, Evidence::Veth { .. })) {
            continue;
        }
        waits |= evidence().any(|(_, e)| matches!(e, Evidence::Unheard { .. }));
        if evidence().any(|(_, e)| matches!(e, Evidence::Unheard { ask: None, .. })) {
            continue;
        }
        let candidates = evidence().filter_map(|(address, e)| {
            let Evidence::Unheard {
                bridge,
                ask: Some(how),
                ..
            } = *e
            else {
                return None;
            };
            let news = table.bridge_news(bridge);
            let so_far = asked.entry(address).or_default();
            if so_far.news != news {
                *so_far = Asked { news, attempts: 0 };
            }
            Some(Question {
                attempts: so_far.attempts,
                bridge,
                address,
                how,
            })
        });
        let least = candidates.min_by_key(|question| question.attempts);
        questions.extend(least.filter(|question| question.attempts < ASK_ATTEMPTS));
    }
    questions.sort_by_key(|question| question.attempts);
    (questions, waits)
}

/// Keeps `table` at what the kernel says. Ends with an error when the socket does.
async fn follow(
    requests: &Handle,
    mut messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    table: &Mutex<Table>,
    version: &watch::Sender<u64>,
) -> Result<()> {
    let mut recheck = interval_at(Instant::now() + RECHECK, RECHECK);
    let mut stale = true;
    loop {
        if stale {
            let dump = netlink::dump_all(requests).await?;
            lock(table).refill(dump.messages);
            version.send_modify(|version| *version += 1);
            stale = !dump.whole;
        }
        let first = tokio::select! {
            message = messages.next() => message.context("the netlink socket for notifications has failed")?,
            _ = recheck.tick() => {
                stale = true;
                continue;
            }
            () = sleep(SETTLE), if stale => continue,
        };
        let (mut moved, mut table) = (false, lock(table));
        let mut next = Some(first);
        while let Some((message, _)) = next {
            match message.payload {
                NetlinkPayload::InnerMessage(inner) => moved |= table.apply(inner),
                NetlinkPayload::Overrun(_) => {
                    warn!("the kernel dropped notifications of links and routes: all are listed anew");
                    stale = true;
                }
                _ => {}
            }
            next = messages.next().now_or_never().flatten();
        }
        drop(table);
        if moved {
            version.send_modify(|version| *version += 1);
        }
    }
}

/// A panic while the table was locked left it whole: each message is applied by value.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
