//! Fills: downloads of blobs, each shared by all its readers.
//!
//! The first miss starts a fill in a task of its own. Every other requester that may read the blob follows it: at the head from
//! a [`ring`] of the last frames, behind it from the growing file, each at its own pace. The upstream sees one request. No reader
//! has the last bytes before the digest holds: with a Content-Length, a client that has those has a complete answer.
//!
//! # Parts
//!
//! A client that asks for a range is given its bytes piece by piece ([`pieces`](crate::cache::blobs::pieces)): those that the
//! partial has, those that a fill under way will soon have, and else those of a new fill, which fetches that part alone. All
//! fills of a blob share one partial ([`open_partials`]), each writes other bytes of it, and four streams at most are under way.
//! Background work leaves one of them free, and takes none while a reader waits ([`waiters`]).
//!
//! What makes this right:
//!
//! 1. *Two fills never write the same byte.* A fill owns the bytes from where its stream is up to where it ends (a part's
//!    [`claim`](state::Fill::claim), the whole's [`until`](state::FillState::until)). [`Fills::next`] and
//!    [`Fills::hole`](fills::Fills::hole) give these out, with all fills locked, and only bytes that are neither there nor owned.
//!    To begin a part within what another owns, that one's stream is made to end there, unless it has come so far. A fill that
//!    ends owns its bytes until its writer has written all that came, also where another has its place on the list already. A part that
//!    finds its first byte in the file only when its stream comes, is not kept. Bytes that are there are written again in one case: by
//!    the fill of the whole, if the upstream ignores ranges. Where the disk may still write for a writer that is
//!    given up, the partial is abandoned: it is neither put into its place nor gone on with.
//! 2. *A hole is never read.* A byte is there once it was written and noted in the partial's segments, and the file is read
//!    within those, or within what the reader's own fill has written.
//! 3. *The digest is of the file.* The fill of the whole goes through the blob in order. What it fetches itself is hashed from memory as
//!    it is written; what it finds there is hashed from the file, after it was noted. By 1 nothing writes there any more. A blob with a
//!    hole is not put into its place.
//! 4. *Unproved bytes go to ranges alone.* A reader of the whole never gets its last bytes before the proof. If that fails, the
//!    partial is [discarded](crate::cache::store::Partial::discard): its file is removed, and readers of its parts are torn down.
//!
//! The fill of the whole begins with the first request for all of the blob, with a prefetch, or once half of it is there. Without
//! it nothing is fetched but what clients ask for, up to the end of a segment, and nothing is proved. A segment is of 4 MiB, see
//! [`fills`]; the parts themselves begin and end at any byte.
//!
//! A stream that is not kept, as there is no room for it or no disk, owns nothing: it goes to its own readers, at their pace.

pub(crate) mod answer;
pub(crate) mod download;
pub(crate) mod fills;
pub(crate) mod memory;
pub(crate) mod open_partials;
pub(crate) mod opening;
pub(crate) mod reader;
pub(crate) mod ring;
pub(crate) mod state;
pub(crate) mod subscription;
pub(crate) mod waiters;

pub(crate) use download::Downloads;
pub(crate) use fills::{Fills, Next, Wanted};
pub(crate) use opening::Ranges;
pub(crate) use reader::{Reader, rest};
pub(crate) use state::{Demand, Head, Key};
pub(crate) use subscription::Subscription;

#[cfg(test)]
mod tests;
