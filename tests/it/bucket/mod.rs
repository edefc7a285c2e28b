//! An object store behind the disks of several gateways.

use std::path::Path;
use std::time::Duration;

use dockgate::internals::{Config, Environment};

use crate::harness::{
    Answer, Bucket, Builder, Gateway, Image, Mood, Origin, Request, blob_at, manifest_at, soon,
};

mod failures;
mod fleet;
mod forgery;
mod offline;
mod operators;
mod pushes;
mod removal;
mod sharing;
mod state;
mod sweep;
mod tags;
mod trial;

/// The secret of all gateways: of so many hexadecimal digits, a key is derived at once.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

const MIB: usize = 1024 * 1024;

/// A registry, a store, and gateways before both, each with a disk of its own.
struct Site {
    origin: Origin,
    bucket: Bucket,
}

impl Site {
    async fn start() -> Self {
        Self { origin: Origin::start().await, bucket: Bucket::start().await }
    }

    /// The configuration of a gateway with an empty disk, and further lines of the store.
    fn builder(&self, lines: &str) -> Builder {
        self.builder_with("", lines)
    }

    /// The same, with further lines of `[upstream.cache]`.
    fn builder_with(&self, upstream: &str, lines: &str) -> Builder {
        let upstream = format!("retries = 0\n[upstream.cache]\n{upstream}\n");
        Gateway::builder()
            .server(&format!("secret = \"{SECRET}\""))
            .upstream_with("up", "", self.origin.address(), &upstream)
            .cache(&format!("prefetch = false\n{}{lines}", self.bucket.lines()))
    }

    /// The configuration with these lines of the store, for what is done without a gateway.
    fn config(&self, lines: &str) -> Config {
        let text = self.builder(lines).configuration("127.0.0.1:5000".parse().expect("an address"));
        let none = Environment::from([("", ""); 0]);
        Config::from_toml(&text, "dockgate.toml", Path::new("/"), &none)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn gateway(&self) -> Gateway {
        // No machine is so busy that the upstream is asked beside the store.
        self.builder("hedge = \"20s\"\n").start().await
    }

    /// A gateway with an empty disk and these lines of `[upstream.cache]`.
    async fn gateway_with(&self, upstream: &str) -> Gateway {
        self.builder_with(upstream, "hedge = \"20s\"\n").start().await
    }

    /// Has a gateway pull an image by the tag `latest`, and returns the image once all of it is stored.
    async fn with_stored_image(&self) -> Image {
        let image = self.origin.image("a", "latest", &Image::layers(&[70_000]));
        let gateway = self.gateway().await;
        assert_eq!(pull(&gateway, &image).await, "MISS");
        for blob in image.layers.iter().chain([&image.config]) {
            self.until_stored(&blob_at("a", blob)).await;
        }
        self.until_stored(&manifest_at("a", &image.digest)).await;
        self.until_there("/a/_tags/latest").await;
        self.origin.forgets_requests();
        image
    }

    /// Waits until the store has an object with this end of its name, and returns the name.
    async fn until_there(&self, end: &str) -> String {
        soon("the store to have it", async {
            loop {
                if let Some(name) = self.bucket.names().into_iter().find(|name| name.ends_with(end)) {
                    return name;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Has a gateway get a blob, and returns it once the blob and both of its records are stored.
    async fn with_stored(&self, target: &str, bytes: &[u8]) -> Gateway {
        let gateway = self.gateway().await;
        let answer = gateway.ask(Request::get(target)).await.is(200);
        assert!(answer.body == bytes);
        self.until_stored(target).await;
        gateway
    }

    /// Waits until the store has what is at `target`, and its record there.
    async fn until_stored(&self, target: &str) {
        let digest = digest(target).trim_start_matches("sha256:").to_owned();
        soon("the store to have it", async {
            while self.bucket.names().iter().filter(|name| name.ends_with(&digest)).count() < 3 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// Pulls all of an image by its tag; the answer is the cache's part in that of the manifest.
async fn pull(gateway: &Gateway, image: &Image) -> String {
    let manifest = gateway.ask(Request::get(manifest_at("a", "latest"))).await.is(200);
    assert_eq!(manifest.body, image.manifest);
    for blob in image.layers.iter().chain([&image.config]) {
        let answer = gateway.ask(Request::get(blob_at("a", blob))).await.is(200);
        assert!(answer.body == *blob);
    }
    word(&manifest).to_owned()
}

/// The digest in a target.
fn digest(target: &str) -> &str {
    target.rsplit('/').next().expect("a digest")
}

/// The name of a blob's object.
fn object(target: &str) -> String {
    let hex = digest(target).trim_start_matches("sha256:");
    format!("blobs/sha256/{}/{hex}", &hex[..2])
}

/// The cache's part in an answer.
#[track_caller]
fn word(answer: &Answer) -> &str {
    answer.header("x-cache").unwrap_or_default()
}
