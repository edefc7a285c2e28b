//! What clients push through a gateway is stored, too.

use super::*;
use crate::harness::{Reply, noise, sha256};

const UPLOADS: &str = "/v2/a/blobs/uploads/";
const SESSION: &str = "/v2/a/blobs/uploads/1";

#[tokio::test]
async fn a_pushed_blob_is_stored() {
    let (site, bytes) = (Site::start().await, noise(5000));
    let named = sha256(&bytes).replace(':', "%3A");
    let gateway = site.builder("hedge = \"20s\"\n").read_only("up", false).start().await;
    let upstream = &site.origin.upstream;
    upstream.expect("POST", UPLOADS, Reply::status(202).header("Location", SESSION));
    let begun = gateway.ask(Request::post(UPLOADS).body("")).await.is(202);
    let location = begun.header("location").expect("a location");
    upstream.expect("PUT", format!("{SESSION}?digest={named}"), Reply::status(201));
    gateway.ask(Request::put(format!("{location}?digest={named}")).body(bytes.clone())).await.is(201);
    let name = object(&format!("/{}", sha256(&bytes)));
    soon("it to be stored", async {
        while site.bucket.object(&name).is_none_or(|object| object != bytes) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
