//! `/api/cache`: what `dockgate cache` asks a gateway that runs, in JSON.
//!
//! `GET /api/cache` counts, `GET /api/cache/list?pattern=` lists, `POST /api/cache/remove?pattern=` removes;
//! `POST /api/cache/verify` and `POST /api/cache/warm` answer with lines of JSON as things happen. Nothing of it runs on
//! a worker's thread.

mod calls;
mod lines;

pub(super) use calls::answer;
pub(crate) use calls::{ApiError, WarmRequest};
