"""Answers that are asked for and not taken."""

from attack import LOGIN, MIB, Attack
from bystander import ACCEPT
from http2 import Http2, window
from wire import address

FIELDS = {**LOGIN, "Accept": ACCEPT}
# A window that the head of an answer fits into, and little else.
TINY = 4096


class Held(Attack):
    """Answers over HTTP/2 whose window is 0: the gateway has them, and cannot send a byte."""

    connections = 3
    streams = 60
    window = 0

    def paths(self) -> list[str]:
        raise NotImplementedError

    def prepare(self):
        self.targets = self.paths()

    def attack(self):
        self.at_once(self.connections, self.hold)
        self.rest(60)

    def hold(self, turn):
        connection = self.keep(Http2(self.gateway, address(turn), self.window))
        for number in range(self.streams):
            connection.open("GET", self.targets[(turn * self.streams + number) % len(self.targets)], FIELDS)
            self.count("asked")
        while not self.is_over() and connection.read(0.1):
            self.more(connection)
        for status in connection.statuses.values():
            self.count(f"status {status}")

    def more(self, connection: Http2) -> None:
        """Lets a little through, in the attacks that do."""

    def findings(self):
        # What is over the budgets waits, or is refused.
        others = set(self.counts) - {"asked", "status 200", "status 429", "status 503"}
        told = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return [("some are answered, others wait or are refused", self.counts.get("status 200", 0) > 0 and not others, told)]


class HeldManifests(Held):
    """Manifests of 4 MiB in the cache: 562 MiB for 120 streams before they were counted until they are sent."""

    name = "held manifests, window 0"
    manifests = 60

    def paths(self):
        paths = [f"/v2/large/{number}/manifests/1" for number in range(self.manifests)]
        for path in paths:
            assert self.get(path, FIELDS).status == 200
        return paths


class HeldLists(Held):
    """Lists of 85,000 tags, in which the repository's name is put for the client."""

    name = "held tag lists, window 0"
    connections = 2
    streams = 40

    def paths(self):
        return [f"/v2/direct/tags/{number}/tags/list" for number in range(self.streams)]


class HeldBlobs(Held):
    """Layers of 8 MiB in the cache, through tiny windows that open by a byte at a time."""

    name = "tiny windows, blobs"
    connections = 4
    streams = 50
    window = TINY

    def paths(self):
        paths = [f"/v2/app/held/blobs/{self.upstream.blob(f'held {number}', 8 * MIB)}" for number in range(6)]
        for path in paths:
            assert self.get(path, FIELDS).status == 200
        return paths

    def more(self, connection):
        connection.send(b"".join(window(stream, 1) for stream in list(connection.received)))


class HeldFills(Held):
    """Layers of 12 MiB that come at 4 MiB/s each, and whose readers do not read."""

    name = "held downloads, window 0"
    connections = 4
    streams = 12
    seconds = 4

    def paths(self):
        numbers = range(self.connections * self.streams)
        return [f"/v2/paced/a/blobs/{self.upstream.blob(f'fill {number}', 12 * MIB)}" for number in numbers]


class HeldOverHttp1(Attack):
    """Connections that ask for 4 MiB over HTTP/1.1 and never read."""

    name = "held over HTTP/1.1"
    connections = 120

    def prepare(self):
        self.targets = [f"/v2/large/{number}/manifests/1" for number in range(24)]
        for path in self.targets:
            assert self.get(path, FIELDS).status == 200

    def attack(self):
        self.at_once(self.connections, self.hold)
        self.rest(60)

    def hold(self, turn):
        client = self.keep(self.gateway.client(address(turn // 10), receive_buffer=4096))
        client.send("GET", self.targets[turn % len(self.targets)], FIELDS)


ALL = [HeldManifests, HeldLists, HeldBlobs, HeldFills, HeldOverHttp1]
