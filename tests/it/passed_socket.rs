//! A socket that the service manager passes: a restart on it, and what the service manager is told.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::harness::{
    Builder, Client, Gate, Gateway, Process, Reply, Request, Upstream, noise, sha256, soon,
};

fn builder(upstream: &Upstream) -> Builder {
    Gateway::builder().upstream("up", "", upstream.address)
}

fn passed() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn address_of(socket: &TcpListener) -> SocketAddr {
    socket.local_addr().expect("an address")
}

/// Asks again and again, each time on a connection of its own, until `stop`. Every request must be answered.
async fn hammer(address: SocketAddr, answered: &Cell<usize>, stop: &Cell<bool>) {
    while !stop.get() {
        let mut client = Client::tcp(address).await;
        client.ask(&Request::get("/v2/")).await.is(200);
        answered.set(answered.get() + 1);
    }
}

/// Waits until so many more requests were answered.
async fn further(answered: &Cell<usize>, count: usize) {
    let wanted = answered.get() + count;
    soon("further answers", async {
        while answered.get() < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_restart_on_a_passed_socket_fails_no_request() {
    let upstream = Upstream::start().await;
    let (socket, old, new) = (passed(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Process::start_on(builder(&upstream), old.path(), &socket, None).await;
    let (content, gate) = (noise(200_000), Gate::shut());
    let blob = format!("/v2/a/blobs/{}", sha256(&content));
    upstream.expect("GET", blob.clone(), Reply::ok(&content).pause_after(1000, &gate));
    let mut pull = first.connect().await;
    pull.send(Request::get(blob).bytes("localhost")).await;
    pull.head().await.is(200);
    let (answered, stop) = (Cell::new(0), Cell::new(false));
    let restarting = async {
        further(&answered, 50).await;
        first.drain();
        gate.open();
        assert!(pull.read_exactly(200_000).await == content, "the pull is finished");
        assert_eq!(first.ends().await, Some(0));
        let second = Process::start_on(builder(&upstream), new.path(), &socket, None).await;
        further(&answered, 50).await;
        stop.set(true);
        second
    };
    tokio::join!(hammer(address_of(&socket), &answered, &stop), restarting);
}

#[tokio::test]
async fn a_successor_on_the_same_socket_takes_over() {
    let upstream = Upstream::start().await;
    let (socket, old, new) = (passed(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut first = Process::start_on(builder(&upstream), old.path(), &socket, None).await;
    let (answered, stop) = (Cell::new(0), Cell::new(false));
    let restarting = async {
        further(&answered, 50).await;
        let second = Process::start_on(builder(&upstream), new.path(), &socket, None).await;
        further(&answered, 50).await;
        first.terminate().await;
        further(&answered, 50).await;
        stop.set(true);
        second
    };
    tokio::join!(hammer(address_of(&socket), &answered, &stop), restarting);
}

#[tokio::test]
async fn a_passed_socket_that_is_not_configured_is_refused() {
    let upstream = Upstream::start().await;
    let (socket, dir) = (passed(), tempfile::tempdir().unwrap());
    let another = address_of(&passed());
    let mut process = Process::start_on(builder(&upstream), dir.path(), &socket, Some(another)).await;
    assert_eq!(process.ends().await, Some(1));
    let log = process.log();
    assert!(log.contains(&format!("cannot listen on {}", address_of(&socket))), "{log}");
    assert!(log.contains("write it to server.address or admin.address"), "{log}");
}

#[tokio::test]
async fn the_service_manager_is_told_of_start_and_end() {
    let upstream = Upstream::start().await;
    let (socket, dir) = (passed(), tempfile::tempdir().unwrap());
    let heard = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let next = || {
        let mut buffer = [0; 256];
        let length = heard.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut process = Process::start_on(builder(&upstream), dir.path(), &socket, None).await;
    assert!(next().starts_with("READY=1\n"));
    process.get("/v2/").await.is(200);
    process.terminate().await;
    assert!(next().starts_with("STOPPING=1\n"));
}
