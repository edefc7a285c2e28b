//! Telling the service manager of start, end and health (sd_notify(3)).

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::config::Environment;

/// The service manager, if there is one that wants to be told.
#[derive(Debug)]
pub(super) struct ServiceManager {
    /// A path, or a name that begins with `@`.
    socket: Option<String>,
    /// How often it is told that the gateway lives, if it waits for that.
    interval: Option<Duration>,
}

impl ServiceManager {
    pub(super) fn of(environment: &Environment) -> Self {
        let socket = environment.get("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
        Self { socket: socket.map(str::to_owned), interval: interval(environment, std::process::id()) }
    }

    /// Tells that the gateway accepts connections.
    pub(super) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// Tells that the gateway ends once its transfers have.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=waiting for transfers to finish");
    }

    /// Tells again and again that the gateway lives, while `is_alive` says so. Otherwise the service manager restarts it after
    /// `WatchdogSec=`. Never ends.
    pub(super) async fn keep_alive(&self, is_alive: impl Fn() -> bool) {
        let Some(interval) = self.interval else { return std::future::pending().await };
        loop {
            if is_alive() {
                self.tell("WATCHDOG=1");
            }
            tokio::time::sleep(interval).await;
        }
    }

    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            tracing::warn!(%error, socket, "cannot notify the service manager");
        }
    }
}

fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Returns half of the time that the service manager waits, if it waits for this process (sd_watchdog_enabled(3)).
fn interval(environment: &Environment, process: u32) -> Option<Duration> {
    let number = |name: &str| environment.get(name).map(str::parse::<u64>);
    let is_another = number("WATCHDOG_PID").is_some_and(|pid| pid != Ok(u64::from(process)));
    let micros = number("WATCHDOG_USEC")?.ok().filter(|micros| *micros > 0 && !is_another)?;
    Some(Duration::from_micros(micros) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let environment = Environment::from([("NOTIFY_SOCKET", path.to_str().unwrap())]);
        let manager = ServiceManager::of(&environment);
        let next = || {
            let mut buffer = [0; 256];
            let length = heard.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        manager.ready();
        assert_eq!(next(), "READY=1\nSTATUS=serving");
        manager.stopping();
        assert!(next().starts_with("STOPPING=1\n"));
    }

    #[test]
    fn a_socket_without_a_file_is_found() {
        let name = format!("dockgate-test-{}", std::process::id());
        let heard = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(&format!("@{name}"), "READY=1").unwrap();
        assert_eq!(heard.recv(&mut [0; 16]).unwrap(), 7);
    }

    #[test]
    fn without_a_service_manager_nothing_is_told() {
        ServiceManager::of(&Environment::from([("NOTIFY_SOCKET", "")])).ready();
        // Nor does a service manager that has gone end the gateway.
        ServiceManager::of(&Environment::from([("NOTIFY_SOCKET", "/nonexistent/notify")])).ready();
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time() {
        let of = |variables: &[(&str, &str)]| interval(&variables.iter().copied().collect(), 7);
        let (time, half) = (("WATCHDOG_USEC", "10000000"), Some(Duration::from_secs(5)));
        assert_eq!(of(&[time]), half);
        assert_eq!(of(&[time, ("WATCHDOG_PID", "7")]), half);
        assert_eq!(of(&[time, ("WATCHDOG_PID", "8")]), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(of(&[]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_gateway_does_not_feed_the_watchdog() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        heard.set_nonblocking(true).unwrap();
        let (socket, interval) = (path.to_str().map(str::to_owned), Some(Duration::from_secs(5)));
        let manager = ServiceManager { socket, interval };
        let looks = std::cell::Cell::new(0);
        let is_alive = || {
            looks.set(looks.get() + 1);
            looks.get() <= 2
        };
        let fed = tokio::time::timeout(Duration::from_secs(60), manager.keep_alive(is_alive));
        assert!(fed.await.is_err(), "it never ends");
        let told = || heard.recv(&mut [0; 64]).ok();
        assert_eq!([told(), told(), told()], [Some(10), Some(10), None]);
    }
}
