"""Clients that take all the time they are given (slowloris)."""

import time

from attack import LOGIN, Attack
from wire import Broken, address, connect

# The header of a TLS record and of a ClientHello, which then do not come.
BEGUN_HANDSHAKE = bytes.fromhex("1603010200010001fc0303")


class Slow(Attack):
    """Many connections, each of which sends a byte now and then."""

    keys = {"server": 'header_timeout = "2s"\nstall_timeout = "5s"'}
    connections = 300
    seconds = 4

    def attack(self):
        pieces = 20
        self.at_once(pieces, lambda turn: self.crawl(turn, self.connections // pieces))

    def crawl(self, turn: int, number: int) -> None:
        held = []
        for index in range(number):
            held.append(self.keep(self.begun(turn * number + index)))
            # What is measured is what slow clients cost, and not that many come at once.
            self.rest(self.seconds / 3 / number)
        self.count("begun", len(held))
        while not self.is_over():
            for connection in list(held):
                try:
                    self.drip(connection)
                except (OSError, Broken):
                    held.remove(connection)
                    self.count("ended by the gateway")
            self.rest(0.3)

    def begun(self, number: int):
        raise NotImplementedError

    def drip(self, connection) -> None:
        raise NotImplementedError


class SlowHeads(Slow):
    name = "slow heads"
    seconds = 5

    def begun(self, number):
        client = self.gateway.client(address(number % 40))
        client.socket.sendall(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n")
        return client

    def drip(self, connection):
        connection.socket.sendall(b"X")

    def findings(self):
        begun, ended = self.counts.get("begun", 0), self.counts.get("ended by the gateway", 0)
        return [("they end at header_timeout", ended >= begun, f"{ended} of {begun}")]


class SlowBodies(Slow):
    name = "slow bodies"

    def begun(self, number):
        client = self.gateway.client(address(number % 40))
        fields = {**LOGIN, "Content-Length": "400000", "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        client.send("PUT", f"/v2/direct/app/slow/manifests/{number}", fields)
        return client

    def drip(self, connection):
        connection.socket.sendall(b"{")


class SlowHandshakes(Slow):
    name = "slow TLS handshakes"

    def begun(self, number):
        connection = connect(self.gateway.target, address(number % 40))
        connection.sendall(BEGUN_HANDSHAKE)
        return connection

    def drip(self, connection):
        connection.sendall(b"\0")


class SlowReaders(Slow):
    """Readers of a large layer in the cache who take a few bytes at a time."""

    name = "slow readers"
    connections = 100

    def prepare(self):
        self.path = f"/v2/app/slow/blobs/{self.upstream.blob('slow', 32 * 1024 * 1024)}"
        assert self.get(self.path).status == 200

    def begun(self, number):
        client = self.gateway.client(address(number % 40), receive_buffer=4096)
        client.send("GET", self.path, LOGIN)
        return client

    def drip(self, connection):
        connection.socket.recv(16)
        time.sleep(0)


ALL = [SlowHeads, SlowBodies, SlowHandshakes, SlowReaders]
