//! Keeps the kernel at what the policies say: endpoints and pods → image → difference → maps, and programs on veths.
//!
//! In: [`Wanted`], from whatever source. Out: what is in force, what is not and why, and what of it to tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use tracing::{debug, info, warn};

use super::links::{Links, Sought, Veth};
use super::prepare::Prepare;
use super::scrape::Scrape;
use crate::bpf::{self, Applied, ApplyError, Kernel, Settled, Settling};
use crate::compile::{Compiled, Endpoints, Image, compile, diff};
use crate::model::{Pod, Problem};
use crate::observe::Metrics;

/// What is to be enforced.
#[derive(Debug, Default)]
pub struct Wanted {
    pub endpoints: Endpoints,
    /// Every pod that may be on this node, by UID.
    pub pods: BTreeMap<Arc<str>, Pod>,
    /// Host-side interfaces of pods, by UID, by the word of who made them. Of the others they are found by address.
    pub interfaces: BTreeMap<Arc<str>, Vec<String>>,
}

/// What made a new look necessary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// Pods came, went or have other addresses: each must be found anew.
    pub pods: bool,
    /// Links or routes changed.
    pub links: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Enforced {
    pub written: Applied,
    /// What cannot be enforced as wanted; sorted by where it was found.
    pub problems: Vec<Problem>,
    /// The change does not fit, or the kernel did not take it: what was in force before stays.
    pub refused: bool,
    /// Something failed that may work a moment later.
    pub retry: bool,
    /// Rows, tables or rules that nothing refers to any more wait for [`Agent::tidy`].
    pub untidy: bool,
    pub attached: usize,
}

/// The one writer of this node's maps and attachments.
pub struct Agent {
    kernel: Kernel,
    links: Links,
    scrape: Arc<Scrape>,
    metrics: Metrics,
    veths: BTreeMap<Arc<str>, Veth>,
    link_problems: Vec<Problem>,
    elsewhere: usize,
    /// By interface: which link it was when the programs were attached.
    attached: BTreeMap<u32, (Arc<str>, u64)>,
    /// Where pods are expected that somebody waits for.
    prepare: Option<Prepare>,
    /// What the kernel should hold; differs from what it does hold by what is to be tidied.
    image: Image,
    swept: bool,
}

impl Agent {
    pub fn new(kernel: Kernel, links: Links, metrics: Metrics) -> Self {
        let scrape = Arc::new(Scrape::new(kernel.counter_reader()));
        let image = kernel.image().clone();
        Self {
            kernel,
            links,
            scrape,
            metrics,
            veths: BTreeMap::new(),
            link_problems: Vec::new(),
            elsewhere: 0,
            attached: BTreeMap::new(),
            prepare: None,
            image,
            swept: false,
        }
    }

    /// From now on, veths that appear are made ready to be attached, for pods whose start waits for it.
    ///
    /// # Errors
    /// The kernel refuses a program of two instructions.
    pub fn expect_pods(&mut self) -> Result<()> {
        self.prepare = self.kernel.placeholders()?.map(Prepare::new);
        Ok(())
    }

    /// For `/metrics`.
    pub fn counters(&self) -> Arc<Scrape> {
        self.scrape.clone()
    }

    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Whether the pod is enforced on the interface that it is behind, which is one of these names.
    pub fn is_enforced_on(&self, uid: &str, interfaces: &[String]) -> bool {
        self.veths.get(uid).is_some_and(|veth| {
            let attached = self.attached.get(&veth.ifindex);
            interfaces.contains(&veth.name)
                && attached.is_some_and(|(owner, link)| **owner == *uid && *link == veth.incarnation)
                // The notification that it is gone, and that another has its name, may be on its way.
                && bpf::has_interface(veth.ifindex)
        })
    }

    /// Resolves when links or routes may have moved a pod, or a veth has been made ready for one. Safe to cancel.
    ///
    /// # Errors
    /// The netlink driver has ended.
    pub async fn links_changed(&mut self) -> Result<()> {
        let Some(prepare) = &mut self.prepare else {
            return self.links.changed().await;
        };
        tokio::select! {
            changed = self.links.changed() => changed,
            made = prepare.made() => {
                if let Some(placeholder) = made? {
                    self.kernel.hold(placeholder);
                }
                Ok(())
            }
        }
    }

    /// Brings the kernel to what is wanted. Pods whose interface is not known are not this node's; those that an earlier
    /// process attached are, until their interface is gone.
    ///
    /// # Errors
    /// The netlink driver has ended, or the kernel no longer tells what it holds. Everything else is a problem, and what was
    /// in force stays.
    pub async fn enforce(&mut self, wanted: &Wanted, why: Why) -> Result<Enforced> {
        let mut enforced = Enforced::default();
        if why.links {
            self.prepare();
        }
        if why.pods || why.links {
            self.locate(wanted).await?;
        }
        if why.links {
            for ifindex in self.kernel.forget_gone()? {
                self.attached.remove(&ifindex);
                info!(ifindex, "forgotten: the interface is gone");
            }
        }
        let local = self.local(wanted);
        let Compiled { image, problems } = compile(&wanted.endpoints, &local);
        let names: BTreeSet<Arc<str>> = local.iter().map(|pod| pod.uid.clone()).collect();
        // The interface of a pod that is gone is nobody's; when the pod is back, it is to be given to it anew.
        self.attached.retain(|_, (uid, _)| names.contains(uid));
        enforced.problems = self.link_problems.clone();
        enforced.problems.extend(problems);
        match self.publish(image) {
            Ok(written) => enforced.written = written,
            Err(error) => {
                self.metrics.changes_refused.inc();
                enforced.problems.push(Problem {
                    object: "kernel".into(),
                    field: String::new(),
                    value: String::new(),
                    message: error.to_string(),
                    remedy: "what was in force stays until a change fits".into(),
                });
                enforced.refused = true;
                enforced.retry = matches!(error, ApplyError::Kernel(_));
            }
        }
        // Until these maps hold what is wanted, an earlier version's programs go on judging where they do.
        if !enforced.refused || !self.kernel.has_predecessor()? {
            self.attach(&names, &mut enforced);
        }
        if !self.swept && !enforced.refused && !enforced.retry {
            let swept = self
                .kernel
                .sweep()
                .context("cannot sweep what earlier processes left")?;
            if swept.entries + swept.versions > 0 {
                info!(
                    entries = swept.entries,
                    versions = swept.versions,
                    "swept what earlier processes left"
                );
            }
            self.swept = true;
        }
        enforced.untidy = self.is_untidy();
        enforced.attached = self.attached.len();
        self.metrics.map_writes.inc_by(enforced.written.map_writes);
        self.metrics.pods_attached.set(enforced.attached as i64);
        self.scrape.renew(&self.kernel, enforced.written.map_writes > 0);
        Ok(enforced)
    }

    /// The wait for packets on their way that [`Self::tidy`] needs, to be made on a thread of its own.
    pub fn settling(&self) -> Settling {
        self.kernel.settling()
    }

    /// Removes rows, tables and rules that nothing refers to any more. Does nothing, and says so by `false`, if there were
    /// changes after the wait began.
    pub fn tidy(&mut self, settled: &Settled) -> bool {
        let counts = self.kernel.settled(settled);
        if counts {
            self.remove_unused();
        }
        counts
    }

    fn remove_unused(&mut self) {
        let ops = diff(self.kernel.image(), &self.image);
        match self.kernel.apply(&ops) {
            Ok(written) => {
                self.metrics.map_writes.inc_by(written.map_writes);
                self.scrape.renew(&self.kernel, true);
                debug!(
                    map_writes = written.map_writes,
                    "removed what nothing refers to any more"
                );
            }
            Err(error) => warn!(%error, "cannot remove what nothing refers to any more"),
        }
    }

    fn prepare(&mut self) {
        let Some(prepare) = &mut self.prepare else { return };
        let Some((mut veths, newest)) = self.links.veths_to_elsewhere() else {
            return;
        };
        veths.retain(|ifindex, _| !self.attached.contains_key(ifindex));
        for ifindex in prepare.look(&veths, newest) {
            self.kernel.release(ifindex);
        }
    }

    async fn locate(&mut self, wanted: &Wanted) -> Result<()> {
        let sought: Vec<Sought> = wanted
            .pods
            .values()
            .filter(|pod| pod.is_live() && !pod.addresses.is_empty())
            .map(|pod| Sought {
                uid: pod.uid.clone(),
                id: pod.id.clone(),
                addresses: pod.addresses.clone(),
                interfaces: wanted.interfaces.get(&pod.uid).cloned().unwrap_or_default(),
            })
            .collect();
        let located = self.links.locate(&sought).await?;
        self.veths = located.veths;
        if located.elsewhere != self.elsewhere {
            info!(
                pods = located.elsewhere,
                "pods that other machines run, by the routes to them"
            );
            self.elsewhere = located.elsewhere;
        }
        self.link_problems = located.problems;
        Ok(())
    }

    /// Pods behind an interface of this node: those found, and those that are attached and were not found elsewhere.
    fn local<'w>(&self, wanted: &'w Wanted) -> Vec<&'w Pod> {
        let mut uids: BTreeSet<Arc<str>> = self.veths.keys().cloned().collect();
        uids.extend(
            self.kernel
                .attachments()
                .into_iter()
                .map(|attachment| attachment.uid),
        );
        uids.iter()
            .filter_map(|uid| wanted.pods.get(uid))
            .filter(|pod| pod.is_live())
            .collect()
    }

    /// What is wanted comes into force now; what is left over goes later, or now where it takes the room.
    fn publish(&mut self, image: Image) -> Result<Applied, ApplyError> {
        let ops = diff(self.kernel.image(), &image);
        let written = match self.kernel.publish(&ops) {
            Err(ApplyError::Full { .. }) if self.is_untidy() => {
                self.remove_unused();
                let ops = diff(self.kernel.image(), &image);
                self.kernel.publish(&ops)?
            }
            other => other?,
        };
        self.image = image;
        Ok(written)
    }

    /// Whether the kernel holds more rows, tables or rules than the image in force; all else is the same in both.
    fn is_untidy(&self) -> bool {
        let sizes = |image: &Image| (image.rows.len(), image.l4.len(), image.rules.len());
        sizes(self.kernel.image()) != sizes(&self.image)
    }

    /// Programs on every interface that has a pod; only after the pod's state is there, so that no packet meets a program
    /// that knows less than it should. An interface whose pod is gone keeps its programs, and denies, until it is gone too.
    fn attach(&mut self, local: &BTreeSet<Arc<str>>, enforced: &mut Enforced) {
        for (uid, veth) in &self.veths {
            if !local.contains(uid) {
                continue;
            }
            let is = (uid.clone(), veth.incarnation);
            if self.attached.get(&veth.ifindex) == Some(&is) {
                continue;
            }
            // When it is there, links_changed says so.
            if self
                .prepare
                .as_ref()
                .is_some_and(|prepare| prepare.is_coming(veth.ifindex))
            {
                continue;
            }
            match self.kernel.attach(uid, veth.ifindex) {
                Ok(written) => {
                    enforced.written.map_writes += written.map_writes;
                    if let Some(prepare) = &mut self.prepare {
                        prepare.claimed(veth.ifindex);
                    }
                    self.attached.insert(veth.ifindex, is);
                    info!(interface = %veth.name, ifindex = veth.ifindex, pod = %uid, "attached");
                }
                // A notification of that is on its way.
                Err(_) if !bpf::has_interface(veth.ifindex) => {}
                Err(error) => {
                    enforced.retry = true;
                    enforced.problems.push(Problem {
                        object: format!("interface {} ({})", veth.name, veth.ifindex),
                        field: String::new(),
                        value: String::new(),
                        message: format!("{error:#}"),
                        remedy: "it is tried again each second; until then its pod is not enforced".into(),
                    });
                }
            }
        }
    }
}
