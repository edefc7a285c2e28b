//! The built binary, in a process of its own that can be killed.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use tokio::net::TcpStream;

use super::{Answer, Builder, Client, Request, soon};

pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Process {
    /// Runs what `builder` configures, with its files in `dir`.
    pub(crate) async fn start(builder: Builder, dir: &Path) -> Self {
        let address = free_address();
        let path = dir.join("dockgate.toml");
        std::fs::write(&path, builder.configuration(address)).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_dockgate"));
        command.arg("serve").arg("--config").arg(&path).env_clear().stdin(Stdio::null());
        Self::spawn(command, address, dir).await
    }

    /// As [`Process::start`], on a socket that is passed as a service manager does. The configuration has the socket's address,
    /// or `configured` in its place. The process tells the socket `notify` in `dir` of its state.
    pub(crate) async fn start_on(
        builder: Builder,
        dir: &Path,
        socket: &TcpListener,
        configured: Option<SocketAddr>,
    ) -> Self {
        let address = socket.local_addr().expect("an address");
        let path = dir.join("dockgate.toml");
        std::fs::write(&path, builder.configuration(configured.unwrap_or(address))).expect("a file");
        let passed = socket.try_clone().expect("a socket");
        let mut command = Command::new("/bin/sh");
        command.env_clear().args(["-c", PASSING, env!("CARGO_BIN_EXE_dockgate")]).arg(&path);
        command.stdin(Stdio::from(OwnedFd::from(passed))).env("NOTIFY_SOCKET", dir.join("notify"));
        Self::spawn(command, address, dir).await
    }

    async fn spawn(mut command: Command, address: SocketAddr, dir: &Path) -> Self {
        let log = dir.join("log");
        let stderr = File::create(&log).expect("a file");
        let child = command.current_dir(dir).stdout(Stdio::null()).stderr(stderr).spawn();
        let mut process = Self { child: child.expect("a process"), address, log };
        process.is_up().await;
        process
    }

    async fn is_up(&mut self) {
        let address = self.address;
        soon("the process to listen", async {
            while TcpStream::connect(address).await.is_err() {
                assert_eq!(self.child.try_wait().expect("its state"), None, "it has ended");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a process that runs");
        self.child.wait().expect("its end");
    }

    /// Sends the signal without waiting for the end.
    pub(crate) fn kill_now(&self) {
        self.signal(Signal::KILL);
    }

    /// Waits for the end of what was killed.
    pub(crate) fn reap(&mut self) {
        self.child.wait().expect("its end");
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        rustix::process::kill_process(id.expect("an id"), signal).expect("a process that runs");
    }

    /// SIGSTOP: it stays, and does nothing any more.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT, after [`stop`](Self::stop).
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and its end.
    pub(crate) async fn terminate(&mut self) {
        self.drain();
        self.ends().await;
    }

    /// SIGTERM, without waiting for the end.
    pub(crate) fn drain(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end, and returns the exit code; none if a signal has ended it.
    pub(crate) async fn ends(&mut self) -> Option<i32> {
        soon("its end", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("its state") {
                    return status.code();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await
    }

    /// Returns what the process has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::tcp(self.address).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.connect().await.ask(&Request::get(target)).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes the standard input as the first socket (sd_listen_fds(3)). The process id stays with `exec`.
const PASSING: &str =
    r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$0" serve --config "$1""#;

/// Returns a free port. Another process may take it before it is used, which the gateway would report.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}
