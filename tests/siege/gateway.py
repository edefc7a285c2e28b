"""The gateway under siege and its upstream, as processes, and what they hold: memory, descriptors, sockets."""

import ctypes
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

from wire import Http1, attempt, basic, trust

HERE = Path(__file__).resolve().parent
USER, PASSWORD = "bystander", "a password of the bystander"
# The password of an attack's accounts.
SECRET = "a secret"
LOGIN = {"Authorization": basic(USER, PASSWORD)}
# Descriptors of the gateway under siege, as where nobody has raised the usual limit.
DESCRIPTORS = 1024
# The gateway and the bystander come before attackers and other work on the same few cores: otherwise the siege measures the
# scheduler. Only root may ask for that.
FIRST, LAST = -10, 5


def free_port() -> int:
    """Below the range that the kernel takes ports from for outgoing connections: no other process gets it meanwhile."""
    while True:
        port = random.randrange(10240, 32000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def niceness(value: int, session: bool = False) -> None:
    """Sets the niceness of this thread, and of its session where the scheduler shares the cores out among sessions."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
        if session:
            Path("/proc/self/autogroup").write_text(str(value))
    except OSError:
        pass


def die_with_parent() -> None:
    """Makes the kernel end this process when the siege ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def within(seconds: float, condition, pause: float = 0.02) -> bool:
    """Waits until the condition holds, and looks after each pause. Returns false if that takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


class Process:
    def __init__(self, command: list[str], log: Path, nice: int, descriptors: int = 0):
        def prepare():
            die_with_parent()
            niceness(nice, session=True)
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=prepare,
                start_new_session=True,
            )
        self.log, self.pid = log, self.process.pid

    def stop(self, seconds: float = 15) -> float:
        """Ends it by SIGTERM, else by SIGKILL. Returns the time that took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return time.monotonic() - began

    def runs(self) -> bool:
        return self.process.poll() is None

    def status(self, name: str) -> int:
        """Returns a figure of /proc/PID/status, in bytes."""
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def memory(self) -> int:
        return self.status("VmRSS")

    def peak(self) -> int:
        """Returns the most memory since `forget_peak`."""
        return self.status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0


class Upstream(Process):
    def __init__(self, work: Path):
        self.port = free_port()
        super().__init__([sys.executable, str(HERE / "upstream.py"), str(self.port)], work / "upstream.log", 0, 20_000)
        if not within(10, lambda: attempt(self.ask, "/v2/") is not None):
            raise SystemExit(f"the upstream did not start: {self.log.read_text()}")

    def ask(self, path: str, body: bytes = b"") -> dict:
        connection = Http1(("127.0.0.1", self.port), None)
        try:
            return json.loads(connection.ask("POST" if body else "GET", path, {}, body).body)
        finally:
            connection.close()

    def counters(self) -> dict:
        return self.ask("/_siege/counters")

    def open_sockets(self) -> int:
        return self.counters()["open"]

    def blob(self, seed: str, size: int) -> str:
        """Makes a blob that can be asked for, and returns its digest."""
        return self.ask(f"/_siege/blob?seed={urllib.parse.quote(seed)}&size={size}")["digest"]


CONFIGURATION = """\
[server]
address = "127.0.0.1:{port}"
{server}

[server.tls]
certificate = "certs/domain.crt"
key = "certs/domain.key"

[admin]
address = "127.0.0.1:{admin}"

[log]
access = false

[auth]
challenge = "basic"

[auth.htpasswd]
path = "htpasswd"

{auth}

{access}

[[upstream]]
name = "origin"
url = "{upstream}"
prefix = ""
{origin}

[upstream.cache]
{upstream_cache}

[[upstream]]
name = "silent"
url = "{upstream}"
prefix = "silent"

[upstream.cache]

[[upstream]]
name = "direct"
url = "{upstream}"
prefix = "direct"
read_only = false

[cache]
path = "cache"
min_free = "1MiB"
{cache}
"""


class Gateway(Process):
    """The gateway, in front of the upstream three times: with a cache, and under `silent/` for what is never answered, so that
    the circuit opens for that alone; and under `direct/` without a cache, where pushes are allowed."""

    def __init__(
        self,
        work: Path,
        binary: str,
        upstream: Upstream,
        descriptors: int = DESCRIPTORS,
        accounts: dict[str, int] | None = None,
        **keys: str,
    ):
        self.work, self.binary, self.upstream = work, binary, upstream
        self.port, self.admin = free_port(), free_port()
        self.target, self.ca = ("127.0.0.1", self.port), str(work / "certs/ca.crt")
        self.write_configuration(**keys)
        self.make_credentials(accounts or {})
        self.begin(descriptors)

    def write_configuration(self, **keys: str) -> None:
        names = ("server", "auth", "access", "origin", "upstream_cache", "cache")
        url = f"http://127.0.0.1:{self.upstream.port}"
        filled = {name: keys.get(name, "").replace("UPSTREAM", url) for name in names}
        text = CONFIGURATION.format(port=self.port, admin=self.admin, upstream=url, **filled)
        (self.work / "dockgate.toml").write_text(text)

    def make_credentials(self, accounts: dict[str, int]) -> None:
        names = ["--name", "localhost", "--name", "127.0.0.1"]
        if not Path(self.ca).exists():
            self.call("certificate", str(self.work / "certs"), *names)
        if not (self.work / "htpasswd").exists():
            lines = [self.hashed(USER, PASSWORD), *(self.hashed(name, SECRET, cost) for name, cost in accounts.items())]
            (self.work / "htpasswd").write_text("".join(lines))

    def hashed(self, name: str, password: str, cost: int = 5) -> str:
        return self.call("htpasswd", "-Bbn", "-C", str(cost), name, password).strip() + "\n"

    def call(self, *arguments: str) -> str:
        done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"dockgate {arguments[0]} failed: {done.stderr}")
        return done.stdout

    def command(self, *arguments: str) -> subprocess.Popen:
        """Starts a command of dockgate that reads the same configuration."""
        command = [self.binary, *arguments, "--config", str(self.work / "dockgate.toml")]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def begin(self, descriptors: int = DESCRIPTORS, wait: bool = True) -> None:
        command = [self.binary, "serve", "--config", str(self.work / "dockgate.toml")]
        super().__init__(command, self.work / "gateway.log", FIRST, descriptors)
        self.trusted = {protocol: trust(self.ca, protocol) for protocol in ("http/1.1", "h2")}
        if wait and not within(20, lambda: not self.runs() or self.answers()):
            raise SystemExit(f"the gateway does not answer: {self.tail()}")
        if not self.runs():
            raise SystemExit(f"the gateway did not start: {self.tail()}")

    def answers(self) -> bool:
        connection = attempt(self.client)
        if not connection:
            return False
        try:
            answer = attempt(connection.ask, "GET", "/v2/")
            return bool(answer) and answer.status == 401
        finally:
            connection.close()

    def client(self, source: str = "127.0.0.1", timeout: float = 10, receive_buffer: int = 0) -> Http1:
        return Http1(self.target, self.trusted["http/1.1"], source, timeout, receive_buffer)

    def metrics(self) -> dict[str, float]:
        """Returns the metrics by name and labels; none while the admin listener does not answer."""
        connection = attempt(Http1, ("127.0.0.1", self.admin), None)
        answer = attempt(connection.ask, "GET", "/metrics") if connection else None
        if connection:
            connection.close()
        lines = answer.body.decode().splitlines() if answer else []
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])


def new_work(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
