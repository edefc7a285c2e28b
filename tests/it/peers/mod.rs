//! Several replicas of a gateway, which share their downloads.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::harness::{Answer, Builder, Gateway, Origin, Request, soon};

mod attacks;
mod failures;
mod herd;
mod operators;
mod rights;
mod state;
mod tags;
mod writes;

/// The secret of all replicas.
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Replicas in front of one registry.
struct Fleet {
    origin: Origin,
    gateways: Vec<Gateway>,
    /// Where they reach one another, as all of them call it.
    members: Vec<SocketAddr>,
}

impl Fleet {
    /// Starts `count` replicas with these lines of `[upstream.cache]`. Nothing is fetched ahead.
    async fn start(count: usize, lines: &str) -> Self {
        Self::with(count, lines, |_, builder| builder).await
    }

    /// Starts them with what `change` does to the configuration of each.
    async fn with(count: usize, lines: &str, change: impl Fn(usize, Builder) -> Builder) -> Self {
        let (origin, members) = (Origin::start().await, free_addresses(count));
        let mut gateways = Vec::new();
        for number in 0..count {
            let builder = change(number, replica(&origin, lines, &members, number));
            gateways.push(builder.start().await);
        }
        Self { origin, gateways, members }
    }

    /// Returns the replicas in the order in which they own `object`.
    fn order(&self, object: &str) -> Vec<usize> {
        order(&self.members, object)
    }

    /// Returns the replicas in the order in which they own a repository.
    fn order_of_repository(&self, repository: &str) -> Vec<usize> {
        self.order(&format!("up http://{} {repository}", self.origin.address()))
    }
}

/// Returns the members' places in the order in which they own `object`: the highest hash first.
fn order(members: &[SocketAddr], object: &str) -> Vec<usize> {
    let score = |place: &usize| {
        let text = format!("{}\0{object}\0", members[*place]);
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
        std::cmp::Reverse(hash.as_ref()[..8].to_vec())
    };
    let mut places: Vec<_> = (0..members.len()).collect();
    places.sort_by_key(score);
    places
}

/// Returns the configuration of a replica.
fn replica(origin: &Origin, lines: &str, members: &[SocketAddr], number: usize) -> Builder {
    Gateway::builder()
        .server(&format!("secret = \"{SECRET}\""))
        .upstream_with("up", "", origin.address(), &format!("retries = 0\n[upstream.cache]\n{lines}"))
        .cache("prefetch = false")
        .peers(&members_of(members, number))
}

/// Returns the lines of `[peers]` of a replica.
fn members_of(members: &[SocketAddr], number: usize) -> String {
    let names: Vec<_> = members.iter().map(ToString::to_string).collect();
    // A busy machine takes its time for a handshake.
    format!("address = \"{}\"\nmembers = {names:?}\nconnect_timeout = \"10s\"", members[number])
}

/// Returns addresses that nothing listens on, of ports that the system gives to no connection: those of the many connections of
/// other tests would take one before it is used.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 100).expect("a number below 100") * 100;
    let port = || 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
    let free = std::iter::repeat_with(port).filter_map(|port| {
        TcpListener::bind(("127.0.0.1", port)).ok().and_then(|listener| listener.local_addr().ok())
    });
    free.take(count).collect()
}

/// Returns the digest in a blob's target.
fn digest(target: &str) -> &str {
    target.rsplit('/').next().expect("a digest")
}

/// Returns the cache status of an answer.
#[track_caller]
fn word(answer: &Answer) -> &str {
    answer.header("x-cache").unwrap_or_default()
}

/// Asks until the answer comes from the disk.
async fn until_kept(gateway: &Gateway, target: &str) -> Answer {
    soon("it to be kept", async {
        loop {
            let answer = gateway.ask(Request::get(target)).await;
            if word(&answer) == "HIT" {
                return answer;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}
