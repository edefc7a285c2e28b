//! Counters of the checks of passwords.

use crate::telemetry::metrics::Counter;

/// The way in which a password was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordCheck {
    /// The result of an earlier check was known.
    Remembered,
    /// bcrypt was computed.
    Checked,
    /// Joined a check of the same pair that was under way.
    Joined,
    /// Refused unchecked: after too many failures, or with too many checks waiting.
    Throttled,
}

impl PasswordCheck {
    /// All ways.
    pub(crate) const ALL: [Self; 4] = [Self::Remembered, Self::Checked, Self::Joined, Self::Throttled];

    /// Returns the word in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Remembered => "remembered",
            Self::Checked => "checked",
            Self::Joined => "joined",
            Self::Throttled => "throttled",
        }
    }
}

/// The passwords that were judged, by the way.
#[derive(Debug, Default)]
pub(crate) struct PasswordChecks([Counter; PasswordCheck::ALL.len()]);

impl PasswordChecks {
    /// Counts a password.
    pub(super) fn note(&self, way: PasswordCheck) {
        self.0[way as usize].increment();
    }

    /// Returns the passwords that were judged so.
    pub(crate) fn get(&self, way: PasswordCheck) -> u64 {
        self.0[way as usize].get()
    }
}
