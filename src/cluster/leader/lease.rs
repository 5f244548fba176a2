//! What a Lease says, and what is to be done about it. Pure: what time it is comes in.
//!
//! A Lease is taken from another holder only after it has stood unchanged for its whole duration before our own eyes, by our
//! own clock. What its times say is not read: they are of another machine's wall clock.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::tree::Tree;

/// A Lease; null, absent and odd fields are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub version: String,
    /// `None`: nobody holds it.
    pub holder: Option<String>,
    pub duration: Option<Duration>,
    pub transitions: u64,
}

impl Lease {
    pub fn read<K>(tree: &Tree<K>) -> Self {
        let field = |name| tree.fields.get("spec").and_then(|spec| spec.get(name));
        let holder = field("holderIdentity").and_then(Value::as_str);
        let seconds = field("leaseDurationSeconds").and_then(Value::as_u64);
        Self {
            version: tree.meta.resource_version.clone().unwrap_or_default(),
            holder: holder.filter(|holder| !holder.is_empty()).map(str::to_string),
            duration: seconds.filter(|s| *s > 0).map(Duration::from_secs),
            transitions: field("leaseTransitions").and_then(Value::as_u64).unwrap_or(0),
        }
    }
}

/// Which version was seen first when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub version: String,
    pub at: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Create,
    /// It is ours, and our term holds.
    Renew,
    /// Nobody's, or not any more.
    Claim,
    /// Somebody else's, for at least this long.
    Wait(Duration),
}

/// What `identity` is to do now. `holds`: its term does. `ttl` stands in for a duration that the Lease lacks.
pub fn step(
    lease: Option<&Lease>,
    identity: &str,
    holds: bool,
    seen: &mut Option<Observation>,
    now: Duration,
    ttl: Duration,
) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    let seen = match seen {
        Some(seen) if seen.version == lease.version => seen,
        seen => seen.insert(Observation {
            version: lease.version.clone(),
            at: now,
        }),
    };
    match lease.holder.as_deref() {
        Some(holder) if holder == identity && holds => Step::Renew,
        // Of an earlier process under our name, or of our own that came back late: taken like one that is free, since
        // nobody else goes by that name.
        Some(holder) if holder == identity => Step::Claim,
        None => Step::Claim,
        Some(_) => {
            let until = seen.at + lease.duration.unwrap_or(ttl);
            match until.checked_sub(now) {
                Some(rest) if !rest.is_zero() => Step::Wait(rest),
                _ => Step::Claim,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::Lease as Api;
    use serde_json::json;

    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    fn read(spec: &Value) -> Lease {
        let lease = json!({"metadata": {"name": "l", "resourceVersion": "7"}, "spec": spec});
        Lease::read(&serde_json::from_value::<Tree<Api>>(lease).unwrap())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_of_null_fields_is_nobodys() {
        for spec in [
            json!(null),
            json!({}),
            json!({"holderIdentity": null, "renewTime": null, "leaseDurationSeconds": null, "leaseTransitions": null}),
            json!({"holderIdentity": "", "leaseDurationSeconds": 1}),
            json!({"holderIdentity": 5, "leaseDurationSeconds": "x", "leaseTransitions": -1}),
        ] {
            let step = step(Some(&read(&spec)), "me", false, &mut None, at(100), TTL);
            assert_eq!(step, Step::Claim, "{spec}");
        }
    }

    #[test]
    fn another_holders_lease_is_taken_only_after_it_stood_still_for_its_duration() {
        let mut seen = None;
        let mut lease = read(&json!({
            "holderIdentity": "you", "leaseDurationSeconds": 10,
            // Long past, and in the future: another machine's clock is no reason for anything.
            "renewTime": "2001-01-01T00:00:00.000000Z",
        }));
        let mut ask = |lease: &Lease, now| step(Some(lease), "me", false, &mut seen, at(now), TTL);
        assert_eq!(ask(&lease, 100), Step::Wait(at(10)));
        assert_eq!(ask(&lease, 109), Step::Wait(at(1)));
        lease.version = "8".into();
        assert_eq!(ask(&lease, 109), Step::Wait(at(10)), "it was renewed");
        assert_eq!(ask(&lease, 119), Step::Claim);
    }

    #[test]
    fn a_lease_without_a_duration_gets_ours() {
        let lease = read(&json!({"holderIdentity": "you", "renewTime": "2999-01-01T00:00:00.000000Z"}));
        let mut seen = None;
        assert_eq!(
            step(Some(&lease), "me", false, &mut seen, at(1), TTL),
            Step::Wait(TTL)
        );
        assert_eq!(
            step(Some(&lease), "me", false, &mut seen, at(16), TTL),
            Step::Claim
        );
    }

    #[test]
    fn our_own_is_renewed_while_the_term_holds_and_claimed_anew_after() {
        let lease = read(&json!({"holderIdentity": "me", "leaseDurationSeconds": 15}));
        assert_eq!(step(Some(&lease), "me", true, &mut None, at(1), TTL), Step::Renew);
        assert_eq!(
            step(Some(&lease), "me", false, &mut None, at(1), TTL),
            Step::Claim
        );
        assert_eq!(step(None, "me", false, &mut None, at(1), TTL), Step::Create);
    }
}
