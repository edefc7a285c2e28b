//! The complaint about one string of the configuration.

/// The reason why a string is not what its key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ValueError {
    /// Printed after the quoted string.
    Value(String),
    /// Printed alone: the string may hold a secret.
    Hidden(String),
}

impl ValueError {
    pub(super) fn value(why: &str) -> Self {
        Self::Value(why.to_owned())
    }

    pub(super) fn hidden(why: &str) -> Self {
        Self::Hidden(why.to_owned())
    }
}

impl From<&str> for ValueError {
    fn from(why: &str) -> Self {
        Self::value(why)
    }
}
