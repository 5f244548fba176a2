//! Whose account the packets of a rule go to, and what a rule that is gone leaves there.
//!
//! Rules come and go as a policy is edited, and each has counters of its own. What is shown of a policy is their sum, and it must
//! never fall, also not across a restart: so when a rule goes and others of its account stay, the packets that it has counted stay too,
//! under a key of their own among the pinned rules. When the last rule of an account goes, the account ends.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::abi;
use super::apply::ApplyError;
use super::config::Map;
use super::kernel::Kernel;
use super::notes::{self, NoteKey};
use super::stage::Stage;
use crate::compile::{RuleInfo, RuleKey};
use crate::model::{Direction, ObjectId};

/// What became of packets on a policy's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    Allowed,
    Dropped,
    /// Passed, only because the policies that would drop them are in audit.
    Audited,
}

/// What counters are summed up by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Of several policies that isolate, the first. `None`: an isolation that names none.
    pub policy: Option<ObjectId>,
    pub direction: Direction,
    pub verdict: Verdict,
}

impl Account {
    pub fn of(info: &RuleInfo) -> Self {
        match info {
            RuleInfo::Rule(rule) => Self {
                policy: Some(rule.policy.clone()),
                direction: rule.direction,
                verdict: Verdict::Allowed,
            },
            RuleInfo::Isolation { direction, policies } => Self {
                policy: policies.first().cloned(),
                direction: *direction,
                verdict: Verdict::Dropped,
            },
            RuleInfo::Audit { direction, policies } => Self {
                policy: policies.first().cloned(),
                direction: *direction,
                verdict: Verdict::Audited,
            },
        }
    }
}

/// What rules that are gone have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    /// In rule_index, and of the note that names the account.
    pub key: RuleKey,
    /// In counters. No program knows it.
    pub index: u32,
}

#[derive(Debug, Default)]
struct Entry {
    /// Rules that the image has.
    rules: u32,
    closed: Option<Closed>,
}

/// All accounts that have a rule, or had one.
#[derive(Debug, Default)]
pub(super) struct Accounts(BTreeMap<Account, Entry>);

impl Accounts {
    pub fn new<'a>(
        rules: impl Iterator<Item = &'a RuleInfo>,
        closed: impl IntoIterator<Item = (Account, Closed)>,
    ) -> Self {
        let mut accounts = Self::default();
        for (account, closed) in closed {
            accounts.0.entry(account).or_default().closed = Some(closed);
        }
        rules.for_each(|info| accounts.open(info));
        accounts
    }

    /// One more rule.
    pub fn open(&mut self, info: &RuleInfo) {
        self.0.entry(Account::of(info)).or_default().rules += 1;
    }

    /// A rule that has a name now, and may have had another.
    pub fn rename(&mut self, before: Option<&RuleInfo>, info: &RuleInfo) {
        let old = before.and_then(|before| self.0.get_mut(&Account::of(before)));
        if let Some(old) = old {
            old.rules = old.rules.saturating_sub(1);
        }
        self.open(info);
    }

    /// All that rules which are gone have counted.
    fn take_closed(&mut self) -> Vec<Closed> {
        self.0
            .values_mut()
            .filter_map(|entry| entry.closed.take())
            .collect()
    }

    pub fn closed(&self) -> impl Iterator<Item = (&Account, Closed)> {
        self.0
            .iter()
            .filter_map(|(account, entry)| Some((account, entry.closed?)))
    }

    /// Accounts without a rule: a crash came before their end was written.
    pub fn ended(&self) -> Vec<Account> {
        let ended = self.0.iter().filter(|(_, entry)| entry.rules == 0);
        ended.map(|(account, _)| account.clone()).collect()
    }
}

/// A key that no rule has.
fn free_key(account: &Account, is_taken: impl Fn(RuleKey) -> bool) -> RuleKey {
    let text = notes::account_text(account);
    // FNV-1a.
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    while is_taken(RuleKey(hash)) {
        hash = hash.wrapping_add(1);
    }
    RuleKey(hash)
}

impl Stage<'_> {
    /// A rule's name goes. Its counters go to its account as long as that has other rules; otherwise the account ends. Whether the
    /// rule's place in the counters is kept for that.
    pub(super) fn close(&mut self, key: RuleKey, index: u32) -> bool {
        let Some(info) = self.mirror.image.rules.get(&key) else {
            return false;
        };
        let account = Account::of(info);
        let Some(entry) = self.mirror.accounts.0.get_mut(&account) else {
            return false;
        };
        self.forgets = true;
        entry.rules = entry.rules.saturating_sub(1);
        if entry.rules == 0 {
            self.end(&account);
            return false;
        }
        if let Some(closed) = entry.closed {
            self.steps.fold(index, closed.index);
            return false;
        }
        let rules = &self.mirror.rules;
        let taken =
            |key| rules.contains_key(&key) || self.mirror.accounts.closed().any(|(_, c)| c.key == key);
        let closed = Closed {
            key: free_key(&account, taken),
            index,
        };
        // The new name first: a crash between the two leaves one counter with two names, of which one is swept.
        self.steps.fence();
        self.note(NoteKey::Rule(closed.key), &notes::account_text(&account));
        self.rename(closed);
        self.steps.fence();
        if let Some(entry) = self.mirror.accounts.0.get_mut(&account) {
            entry.closed = Some(closed);
        }
        true
    }

    /// An account goes, with what is left in it.
    pub(super) fn end(&mut self, account: &Account) {
        let entry = self.mirror.accounts.0.remove(account);
        if let Some(closed) = entry.and_then(|entry| entry.closed) {
            self.discard(closed);
        }
    }

    fn discard(&mut self, Closed { key, index }: Closed) {
        self.forgets = true;
        self.delete(Map::RuleIndex, &key.0.to_ne_bytes());
        self.forget(NoteKey::Rule(key));
        self.mirror.rule_ids.give(index, self.mirror.era);
    }
}

impl Kernel {
    /// Makes room among the rules: what those that are gone have counted is forgotten. Whether there was any.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_closed(&mut self) -> Result<bool, ApplyError> {
        let mut some = false;
        self.change(|stage| {
            for closed in stage.mirror.accounts.take_closed() {
                stage.discard(closed);
                some = true;
            }
            Ok(())
        })?;
        Ok(some)
    }
}

const _: () = assert!(abi::COUNTER_FLOWS_EVICTED + 2 <= abi::COUNTER_FIRST);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RuleId;

    fn rule(name: &str, index: u32) -> RuleInfo {
        RuleInfo::Rule(RuleId {
            policy: ObjectId::new("shop", name),
            direction: Direction::Ingress,
            index: Some(index),
        })
    }

    #[test]
    fn rules_of_one_policy_direction_and_verdict_share_an_account() {
        assert_eq!(Account::of(&rule("web", 0)), Account::of(&rule("web", 1)));
        assert_ne!(Account::of(&rule("web", 0)), Account::of(&rule("api", 0)));
        let isolation = RuleInfo::Isolation {
            direction: Direction::Ingress,
            policies: [ObjectId::new("shop", "web"), ObjectId::new("shop", "z")].into(),
        };
        let account = Account::of(&isolation);
        assert_eq!(account.policy, Some(ObjectId::new("shop", "web")));
        assert_ne!(account, Account::of(&rule("web", 0)));
    }

    #[test]
    fn an_account_without_a_rule_has_ended() {
        let closed = Closed {
            key: RuleKey(7),
            index: 64,
        };
        let (web, api) = (Account::of(&rule("web", 0)), Account::of(&rule("api", 0)));
        let accounts = Accounts::new(
            [rule("web", 0)].iter(),
            [(web.clone(), closed), (api.clone(), closed)],
        );
        assert_eq!(accounts.ended(), std::slice::from_ref(&api));
        assert_eq!(
            accounts.closed().map(|(a, _)| a).collect::<Vec<_>>(),
            [&api, &web]
        );
    }

    #[test]
    fn a_key_that_is_taken_is_not_given_again() {
        let account = Account::of(&rule("web", 0));
        let first = free_key(&account, |_| false);
        let second = free_key(&account, |key| key == first);
        assert_ne!(first, second);
        assert_eq!(first, free_key(&account, |_| false));
    }
}
