//! Filling the cache of a gateway that runs.

use crate::admin::AdminState;
use crate::admin::api::lines::Teller;
use crate::cache::maintenance;
use crate::cache::maintenance::{Event, Platforms, WarmTarget};

/// Pulls all of `images`, for as long as somebody reads what is told of it. Must run on the runtime that does what no
/// client waits for.
pub(super) async fn run(state: &AdminState, images: &[String], platforms: &Platforms, teller: &Teller) {
    let core = state.core();
    let resolve = |image: &str| -> Result<WarmTarget, String> { core.goal(image) };
    let tell = |event: Event| teller.mention(&event);
    tokio::select! {
        done = maintenance::warm(images, platforms, &resolve, &tell) => {
            teller.tell(&done).await;
        }
        () = teller.gone() => {}
    }
}
