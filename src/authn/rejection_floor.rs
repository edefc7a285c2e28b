//! The least time of a failed login's answer.

use std::time::Duration;

use parking_lot::Mutex;

/// The time of the costliest check in the file, as measured: a running maximum that sinks slowly, so that one
/// bad moment of the machine does not slow failures down for good.
pub(super) struct RejectionFloor(Mutex<State>);

struct State {
    cost: u32,
    longest: Duration,
    measured: bool,
}

impl RejectionFloor {
    /// Begins with a guess for this cost, until a check has been measured.
    pub(super) fn new(cost: u32) -> Self {
        Self(Mutex::new(State { cost, longest: GUESS * (1 << cost), measured: false }))
    }

    /// Returns the least time of a failure: the longest measured one, rounded up to the timer's millisecond.
    pub(super) fn floor(&self) -> Duration {
        let longest = self.state().longest;
        Duration::from_millis(longest.as_millis() as u64 + 1)
    }

    /// Notes how long a check of this cost took. Only the costliest count.
    pub(super) fn note(&self, cost: u32, took: Duration) {
        let mut state = self.state();
        if cost != state.cost {
            return;
        }
        let before = if state.measured { state.longest - state.longest / SINK } else { Duration::ZERO };
        state.longest = before.max(took);
        state.measured = true;
    }

    /// Sets the cost of the file's costliest hash. Returns true if it is new, so that a measurement is due;
    /// until then the old one is scaled: each step of cost doubles the time.
    pub(super) fn turn_to(&self, cost: u32) -> bool {
        let mut state = self.state();
        let up = 1 << cost.saturating_sub(state.cost);
        let down = 1 << state.cost.saturating_sub(cost);
        let news = state.cost != cost;
        *state = State { cost, longest: state.longest * up / down, measured: state.measured && !news };
        news
    }

    fn state(&self) -> parking_lot::MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// A bcrypt round on a machine of this decade.
const GUESS: Duration = Duration::from_micros(50);

/// Each check takes the maximum down by this fraction.
const SINK: u32 = 32;

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
        assert!(!floor.turn_to(10));
        assert!(floor.turn_to(12));
        assert_eq!(floor.floor(), MS * 201);
        floor.note(12, MS * 190);
        assert_eq!(floor.floor(), MS * 191);
    }
}
