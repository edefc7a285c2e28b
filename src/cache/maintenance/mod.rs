//! The work of operators on a cache: list, verify, remove, warm. Each of these reads directories or hashes, and belongs on a
//! thread of its own; only [`warm()`] is async.

pub(crate) mod elsewhere;
pub(crate) mod event;
pub(crate) mod inventory;
pub(crate) mod platform;
pub(crate) mod reachable;
pub(crate) mod removal;
pub(crate) mod selection;
pub(crate) mod verification;
pub(crate) mod warm;

pub(crate) use elsewhere::{Elsewhere, Listing, list_everywhere, remove_everywhere, verify_everywhere};
pub(crate) use event::{Event, Progress};
pub(crate) use inventory::{Entry, Stats, UpstreamStats, list, stats};
pub(crate) use platform::{PlatformError, Platforms};
pub(crate) use reachable::Links;
pub(crate) use removal::{Removed, remove_here};
pub(crate) use selection::{Selection, SelectionError};
pub(crate) use verification::{Verified, verify};
pub(crate) use warm::{WarmTarget, warm};
