//! The minimum time that every failed login takes to be answered.

use std::time::Duration;

use parking_lot::Mutex;

/// The measured time of a check of the file's costliest hash: a maximum that decays slowly, so that one slow check does
/// not delay failures for good.
pub(super) struct RejectionFloor(Mutex<State>);

struct State {
    cost: u32,
    longest: Duration,
    measured: bool,
}

impl RejectionFloor {
    /// Returns a floor that is guessed from the cost until a check has been measured.
    pub(super) fn new(cost: u32) -> Self {
        Self(Mutex::new(State { cost, longest: GUESS * (1 << cost), measured: false }))
    }

    /// Returns the minimum time of a failure: the longest measured one, rounded up to the timer's millisecond.
    pub(super) fn floor(&self) -> Duration {
        let longest = self.state().longest;
        Duration::from_millis(longest.as_millis() as u64 + 1)
    }

    /// Records how long a check of this cost took. Only checks of the costliest hashes count.
    pub(super) fn note(&self, cost: u32, took: Duration) {
        let mut state = self.state();
        if cost != state.cost {
            return;
        }
        let before = if state.measured { state.longest - state.longest / DECAY } else { Duration::ZERO };
        state.longest = before.max(took);
        state.measured = true;
    }

    /// Sets the cost of the file's costliest hash. Returns true if it has changed and must be measured; until then the
    /// measured time is scaled: each step of cost doubles it.
    pub(super) fn set_cost(&self, cost: u32) -> bool {
        let mut state = self.state();
        let up = 1 << cost.saturating_sub(state.cost);
        let down = 1 << state.cost.saturating_sub(cost);
        let changed = state.cost != cost;
        *state = State { cost, longest: state.longest * up / down, measured: state.measured && !changed };
        changed
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// The time of one bcrypt round on a machine of this decade.
const GUESS: Duration = Duration::from_micros(50);

/// Each check lowers the maximum by one part in this many.
const DECAY: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_floor_is_the_longest_measured_time_rounded_up() {
        let floor = RejectionFloor::new(10);
        floor.note(10, MS * 30 + Duration::from_micros(1));
        floor.note(10, MS * 20);
        assert!(floor.floor() >= MS * 30 && floor.floor() <= MS * 31, "{:?}", floor.floor());
    }

    #[test]
    fn cheaper_checks_do_not_count() {
        let floor = RejectionFloor::new(10);
        floor.note(10, MS * 50);
        floor.note(4, MS * 900);
        assert_eq!(floor.floor(), MS * 51);
    }

    #[test]
    fn one_bad_moment_is_forgotten_in_time() {
        let floor = RejectionFloor::new(10);
        floor.note(10, MS * 900);
        (0..200).for_each(|_| floor.note(10, MS * 50));
        assert!(floor.floor() < MS * 60);
    }

    #[test]
    fn a_costlier_file_is_answered_more_slowly_at_once() {
        let floor = RejectionFloor::new(10);
        floor.note(10, MS * 50);
        assert!(!floor.set_cost(10));
        assert!(floor.set_cost(12));
        assert_eq!(floor.floor(), MS * 201);
        floor.note(12, MS * 190);
        assert_eq!(floor.floor(), MS * 191);
    }
}
