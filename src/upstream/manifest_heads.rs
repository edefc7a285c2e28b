//! Memory of whether a registry answers HEAD of manifests, so that one that does not is not asked in vain for each pull.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::clock;
use crate::config::limits;

/// The registry's way with HEAD of manifests.
#[derive(Debug, Default)]
pub(crate) struct ManifestHeads {
    /// True if a target is remembered. Each manifest asks, of nearly all registries in vain.
    any_refused: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// HEAD was refused for these targets at that time, and GET has not been answered yet.
    refused: HashMap<String, Instant>,
    /// Until when HEAD is not asked.
    useless_until: Option<Instant>,
}

impl ManifestHeads {
    /// Returns true if HEAD was refused lately where GET was answered.
    pub(crate) fn are_useless(&self) -> bool {
        self.state.lock().useless_until.is_some_and(|until| clock::now() < until)
    }

    /// Notes that HEAD of `target` was refused.
    pub(crate) fn refused(&self, target: &str) {
        let (mut state, now) = (self.state.lock(), clock::now());
        if state.refused.len() >= TARGETS {
            state.refused.retain(|_, at| now.duration_since(*at) < limits::HEAD_REFUSAL_FRESH);
        }
        if state.refused.len() < TARGETS {
            state.refused.insert(target.to_owned(), now);
        }
        self.any_refused.store(true, Ordering::Relaxed);
    }

    /// Notes that GET of `target` was answered with a manifest. Returns true if it follows that HEAD is useless.
    pub(crate) fn got(&self, target: &str) -> bool {
        if !self.any_refused.load(Ordering::Relaxed) {
            return false;
        }
        let (mut state, now) = (self.state.lock(), clock::now());
        let Some(at) = state.refused.remove(target) else { return false };
        self.any_refused.store(!state.refused.is_empty(), Ordering::Relaxed);
        let follows = now.duration_since(at) < limits::HEAD_REFUSAL_FRESH;
        if follows {
            state.useless_until = Some(now + limits::HEAD_USELESS);
        }
        follows
    }
}

/// Targets that are remembered; a registry that refuses HEAD is found out by any of them.
const TARGETS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_refuses_heads_is_asked_again_after_an_hour() {
        let heads = ManifestHeads::default();
        assert!(!heads.got("/v2/a/manifests/x"));
        heads.refused("/v2/a/manifests/x");
        assert!(!heads.are_useless());
        assert!(!heads.got("/v2/a/manifests/y"));
        assert!(heads.got("/v2/a/manifests/x") && heads.are_useless());
        tokio::time::advance(limits::HEAD_USELESS).await;
        assert!(!heads.are_useless());
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_after_a_404_says_nothing_of_heads() {
        let heads = ManifestHeads::default();
        heads.refused("/v2/a/manifests/x");
        tokio::time::advance(limits::HEAD_REFUSAL_FRESH + Duration::from_secs(1)).await;
        assert!(!heads.got("/v2/a/manifests/x") && !heads.are_useless());
    }
}
