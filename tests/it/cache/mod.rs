//! The pull-through cache, as clients and upstreams see it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Answer, Builder, Client, Gateway, Origin, Request, soon};

mod blobs;
mod crash;
mod disks;
mod downloads;
mod each;
mod herd;
mod lying;
mod manifests;
mod meanings;
mod members;
mod prefetch;
mod ranges;
mod records;
mod resume;
mod room;
mod silence;
mod stale;
mod tags;
mod writes;

/// `[upstream.cache]` with these lines, before a registry that takes all names, in a directory that ends with the gateway.
/// Nothing is fetched ahead.
fn cached(origin: &Origin, lines: &str) -> Builder {
    bare(origin, lines).cache("prefetch = false")
}

/// Starts it in a directory that outlives the gateway.
fn cached_at(origin: &Origin, path: &Path, lines: &str) -> Builder {
    bare(origin, lines).cache_at(path, "prefetch = false")
}

/// Starts it without `[cache]`.
fn bare(origin: &Origin, lines: &str) -> Builder {
    before(origin, &format!("[upstream.cache]\n{lines}"))
}

/// A gateway before a registry that takes all names, with lines of `[[upstream]]`.
fn before(origin: &Origin, lines: &str) -> Builder {
    Gateway::builder().upstream_with("up", "", origin.address(), lines)
}

async fn started(lines: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let gateway = cached(&origin, lines).start().await;
    (origin, gateway)
}

/// Starts it without retries.
async fn started_without_retries(lines: &str) -> (Origin, Gateway) {
    let origin = Origin::start().await;
    let lines = format!("retries = 0\n[upstream.cache]\n{lines}");
    let gateway = before(&origin, &lines).cache("prefetch = false").start().await;
    (origin, gateway)
}

/// Returns the cache status of an answer.
#[track_caller]
fn word(answer: &Answer) -> &str {
    answer.header("x-cache").unwrap_or_default()
}

/// Asserts status, bytes and what the cache says that it did.
#[track_caller]
fn gives(answer: Answer, bytes: &[u8], did: &str) -> Answer {
    let answer = answer.is(200);
    assert!(answer.body == bytes, "{} bytes instead of {}", answer.body.len(), bytes.len());
    assert_eq!(word(&answer), did, "{:?}", answer.headers);
    answer
}

/// Begins to ask on a connection of its own.
async fn asking(gateway: &Gateway, request: Request) -> Client {
    let mut client = gateway.connect().await;
    client.send(request.bytes("localhost")).await;
    client
}

/// Asks again and again, until the answer is as wanted.
async fn until(
    what: &'static str,
    gateway: &Gateway,
    request: Request,
    wanted: impl Fn(&Answer) -> bool,
) -> Answer {
    soon(what, async {
        loop {
            let answer = gateway.ask(request.clone()).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Asks until it is kept.
async fn until_kept(gateway: &Gateway, target: &str) -> Answer {
    until("it to be kept", gateway, Request::get(target), |answer| word(answer) == "HIT").await
}

/// All files below a directory; none where there is none.
fn files_in(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

fn sha512(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, bytes);
    sum.as_ref().iter().fold("sha512:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Waits until what is in its place is on the disk: a file that is not has a time before 2001.
async fn until_synced(store: &Path) {
    soon("all to be synced", async {
        let is_marked = |path: &PathBuf| {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            modified
                .is_ok_and(|modified| modified < std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
        };
        while ["blobs", "manifests"].iter().any(|kind| files_in(&store.join(kind)).iter().any(is_marked)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
