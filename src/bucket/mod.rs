//! The object store behind the disks of all replicas: an S3-compatible bucket (`[cache.store]`).
//!
//! A replica stores content in the background once it is proved ([`writer`]), from its disk. Content that is on no disk is read from
//! there before the upstream is asked, and proved again as it comes ([`store`]). Bytes have their digest for a name. That a repository
//! holds them says a record with a signature ([`seal`]), and else the upstream: the bucket is never believed.
//!
//! Objects in use are marked ([`marks`]), and those not used for long are swept ([`sweeper`]). What an operator removes from one
//! replica, the others remove by a note that it leaves ([`removals`]).
//!
//! Nothing hangs on the store: no answer of it is an error for a client, and while it gives none it is not asked ([`breaker`]).
//! Nothing hangs on conditional writes either, which some stores lack: two replicas that store the same write the same bytes.

mod breaker;
mod client;
mod connector;
mod counters;
mod error;
mod inspection;
mod inventory;
mod layout;
mod marks;
mod removals;
mod seal;
mod store;
mod sweeper;
mod trial;
mod writer;

pub(crate) use removals::follow_removals;
pub(crate) use store::BucketStore;
pub(crate) use sweeper::{SWEEPER, sweep_bucket};
pub(crate) use trial::{read_blob, try_bucket};
