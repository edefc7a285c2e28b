//! `/api/cache`: what `dockgate cache` asks a gateway that runs, in JSON.
//!
//! `GET /api/cache` counts, `GET /api/cache/list?pattern=` lists, `POST /api/cache/remove?pattern=` removes;
//! `POST /api/cache/verify` and `POST /api/cache/warm` answer with lines of JSON as things happen. Nothing of it runs on
//! a worker's thread. With `fleet=true` the other replicas list or verify too, and with `store=true` it is done in the object store.

mod calls;

pub(super) use calls::answer;
pub(crate) use calls::{ApiError, WarmRequest};
