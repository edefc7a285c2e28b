//! What operators do with a cache: look at it, check it, take from it and fill it. Each of these reads directories or
//! hashes, and so belongs on a thread of its own; only [`warm()`] is made of waiting.

mod event;
mod inventory;
mod platform;
mod reach;
mod removal;
mod selection;
mod verification;
mod warm;

pub use event::{Event, Progress};
pub use inventory::{Entry, Stats, UpstreamStats, list, stats};
pub use platform::{Platform, PlatformError, Platforms};
pub use removal::{Removed, remove};
pub use selection::{Selection, SelectionError};
pub use verification::{Verified, verify};
pub use warm::{Goal, warm};
