//! Leadership as a deadline: it ends by itself, whether or not anybody is awake to notice.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::sleep;

/// Time since the machine started, its sleep included; the wall clock may be set, and a clock that sleeps with the machine
/// would let a term outlive the Lease.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Until when this process leads. Clones are the same term.
#[derive(Clone, Debug)]
pub struct Term(watch::Sender<Duration>);

impl Default for Term {
    fn default() -> Self {
        Self(watch::Sender::new(Duration::ZERO))
    }
}

impl Term {
    /// Whether a write may begin now. Asked right before each.
    pub fn holds(&self) -> bool {
        self.remaining().is_some()
    }

    /// How long it lasts if it is not renewed.
    pub fn remaining(&self) -> Option<Duration> {
        let until = *self.0.borrow();
        until.checked_sub(now()).filter(|rest| !rest.is_zero())
    }

    /// `until` as [`now`] counts.
    pub fn renew(&self, until: Duration) {
        self.0.send_replace(until);
    }

    pub fn end(&self) {
        self.0.send_replace(Duration::ZERO);
    }

    /// Resolves once it holds.
    pub async fn begun(&self) {
        let mut until = self.0.subscribe();
        // The sender is this one, so it cannot be gone.
        let _ = until.wait_for(|until| *until > now()).await;
    }

    /// Resolves once it holds no more.
    pub async fn over(&self) {
        let mut until = self.0.subscribe();
        loop {
            until.mark_unchanged();
            let Some(rest) = self.remaining() else { return };
            tokio::select! {
                () = sleep(rest) => {}
                _ = until.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_term_ends_by_itself_and_can_be_renewed_and_ended() {
        let term = Term::default();
        assert!(!term.holds());
        term.over().await;
        term.renew(now() + Duration::from_millis(40));
        term.begun().await;
        assert!(term.holds());
        let over = term.over();
        term.renew(now() + Duration::from_millis(120));
        let begun = now();
        over.await;
        assert!(now() - begun >= Duration::from_millis(80), "the renewal counts");
        assert!(!term.holds());
        term.renew(now() + Duration::from_secs(60));
        assert!(term.holds());
        term.end();
        term.over().await;
    }
}
