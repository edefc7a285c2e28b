"""Clients of the siege: HTTP/1.1 over TLS, from any address of 127.0.0.0/8, and to no other."""

import base64
import ipaddress
import socket
import ssl
import time

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


class Broken(Exception):
    """The connection ended, or what came is no answer."""


def loopback(host: str) -> str:
    """Returns the address, if it is this machine's own: nothing else is ever attacked."""
    if ipaddress.ip_address(host) not in LOOPBACK:
        raise SystemExit(f"{host} is not in 127.0.0.0/8: a siege is for this machine alone")
    return host


def address(number: int) -> str:
    """Returns the address of the attacker with this number."""
    return f"127.{16 + number // 62_500 % 16}.{number // 250 % 250}.{number % 250 + 1}"


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def connect(target: tuple[str, int], source: str = "127.0.0.1", timeout: float = 10, receive_buffer: int = 0) -> socket.socket:
    """Opens a TCP connection. A small receive buffer makes a client that holds up its answers at once."""
    connection = socket.socket()
    try:
        connection.settimeout(timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        # So that the kernel picks a port for the pair of addresses rather than for the source alone.
        connection.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
        connection.bind((loopback(source), 0))
        connection.connect((loopback(target[0]), target[1]))
    except BaseException:
        connection.close()
        raise
    return connection


def trust(ca: str, protocol: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols([protocol])
    return context


class Answer:
    def __init__(self, status: int, fields: dict[str, str], body: bytes):
        self.status, self.fields, self.body = status, fields, body


class Http1:
    """A kept-alive connection that asks one question at a time."""

    def __init__(self, target, context: ssl.SSLContext | None, source="127.0.0.1", timeout=10, receive_buffer=0):
        self.socket = connect(target, source, timeout, receive_buffer)
        try:
            if context:
                self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        except BaseException:
            self.socket.close()
            raise
        self.host = f"{target[0]}:{target[1]}"
        self.held = bytearray()
        # Seconds between two reads.
        self.rest = 0.0

    def ask(self, method: str, path: str, fields: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        self.send(method, path, fields, body)
        return self.receive(method)

    def send(self, method: str, path: str, fields: dict[str, str] | None = None, body: bytes = b"") -> None:
        fields = {"Host": self.host, **(fields or {})}
        if body or method in ("POST", "PUT", "PATCH"):
            fields = {"Content-Length": str(len(body)), **fields}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def receive(self, method: str = "GET") -> Answer:
        while b"\r\n\r\n" not in self.held:
            self.more()
        head = self.take(self.held.index(b"\r\n\r\n") + 4)[:-4]
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split(" ")[1])
        if method == "HEAD" or status in (204, 304):
            return Answer(status, fields, b"")
        if fields.get("transfer-encoding") == "chunked":
            return Answer(status, fields, self.chunks())
        return Answer(status, fields, self.take(int(fields.get("content-length", 0))))

    def chunks(self) -> bytes:
        whole = b""
        while True:
            while b"\r\n" not in self.held:
                self.more()
            size = self.take(self.held.index(b"\r\n") + 2)
            piece = self.take(int(size, 16) + 2)[:-2]
            if not piece:
                return whole
            whole += piece

    def take(self, count: int) -> bytes:
        while len(self.held) < count:
            self.more()
        taken = bytes(self.held[:count])
        del self.held[:count]
        return taken

    def more(self) -> None:
        if self.rest:
            time.sleep(self.rest)
        piece = self.socket.recv(256 * 1024)
        if not piece:
            raise Broken("the gateway closed the connection")
        self.held += piece

    def close(self) -> None:
        self.socket.close()


def attempt(ask, *arguments, **more):
    """Returns what `ask` returns, or None if the connection breaks: an attacker may be thrown out at any time."""
    try:
        return ask(*arguments, **more)
    except (OSError, Broken, ValueError):
        return None
