//! Filling the cache of a gateway that runs.

use super::lines::Teller;
use crate::admin::State;
use crate::cache::upkeep::{self, Event, Goal, Platforms};

/// Pulls all of `images`, for as long as somebody reads what is told of it. Must run on the runtime that does what no
/// client waits for.
pub(super) async fn run(state: &State, images: &[String], platforms: &Platforms, teller: &Teller) {
    let core = state.core();
    let resolve = |image: &str| -> Result<Goal, String> { core.goal(image) };
    let tell = |event: Event| teller.mention(&event);
    tokio::select! {
        done = upkeep::warm(images, platforms, &resolve, &tell) => {
            teller.tell(&done).await;
        }
        () = teller.gone() => {}
    }
}
