"""Sends one request as it is, over TLS: raw.py HOST:PORT CA [--plain] <REQUEST. Prints the answer's status line, or `closed`.

For requests that no well-behaved client sends. Lines are given with LF and sent with CRLF.
"""

import socket
import ssl
import sys


def connect(address: str, ca: str, plain: bool) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    if plain:
        return connection
    context = ssl.create_default_context(cafile=ca)
    return context.wrap_socket(connection, server_hostname=host)


def first_line(connection: socket.socket) -> str:
    received = b""
    while b"\r\n" not in received:
        try:
            part = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            part = b""
        if not part:
            return "closed"
        received += part
        if not received.startswith(b"HTTP"[: len(received)]):
            return "closed"  # a TLS alert to someone who does not speak TLS
    return received.split(b"\r\n")[0].decode("latin-1")


def main() -> None:
    address, ca = sys.argv[1:3]
    request = sys.stdin.buffer.read().replace(b"\n", b"\r\n")
    connection = connect(address, ca, "--plain" in sys.argv[3:])
    connection.sendall(request)
    print(first_line(connection))


main()
