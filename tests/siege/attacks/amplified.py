"""Requests that cost the upstream, or the cache, more than the client that sends them."""

from attack import LOGIN, MIB, Attack, attempt
from bystander import ACCEPT
from http2 import Http2, reset
from upstream import CLAIMED
from wire import address

FIELDS = {**LOGIN, "Accept": ACCEPT}
# Default of `upstream.max_connections`, and what is kept of unused connections.
UPSTREAM_CONNECTIONS, UPSTREAM_IDLE = 256, 64


class Abandoned(Attack):
    """Requests for names that are not in the cache, over one HTTP/2 connection, each of which is reset at once."""

    name = "abandoned requests"
    requests = 3000
    # More than the gateway takes at a time are a rapid reset, and end the connection.
    batch = 10
    seconds = 5

    def attack(self):
        self.asked = 0
        self.again(1, self.abandon)

    def abandon(self, turn):
        if self.asked >= self.requests:
            return self.rest(0.2)
        connection = self.keep(Http2(self.gateway, address(turn)))
        while not self.is_over() and self.asked < self.requests and connection.goaway is None:
            streams = [connection.open("GET", self.path(self.asked + index), FIELDS) for index in range(self.batch)]
            self.asked += self.batch
            if not connection.read(0.01):
                break
            connection.send(b"".join(reset(stream) for stream in streams))
        connection.close()

    def path(self, number: int) -> str:
        return f"/v2/silent/slow/{number}/manifests/latest"

    def findings(self):
        peak = self.upstream.counters()["peak"]
        held = peak <= UPSTREAM_CONNECTIONS + UPSTREAM_IDLE
        return [("the upstream's sockets are bounded", held, f"{peak} at once for {self.asked} requests")]


class AbandonedBlobs(Abandoned):
    """The same with blobs, each of which would be a download."""

    name = "abandoned downloads"

    def path(self, number):
        return f"/v2/silent/slow/{number % 50}/blobs/sha256:{number:064x}"


class Ranges(Attack):
    """Ranges of a byte, of a blob at an upstream that sends it whole."""

    name = "range amplification"
    size = 96 * MIB
    ranges = 4

    def prepare(self):
        self.path = f"/v2/norange/a/blobs/{self.upstream.blob('ranged', self.size)}"
        self.before = self.upstream.counters()["sent"]

    def attack(self):
        self.at_once(self.ranges, self.ask)
        self.rest(60)

    def ask(self, turn):
        client = self.keep(self.gateway.client(address(turn)))
        answer = client.ask("GET", self.path, {**LOGIN, "Range": f"bytes={self.size - 1 - turn}-{self.size - 1 - turn}"})
        self.count(f"status {answer.status}")

    def findings(self):
        sent = self.upstream.counters()["sent"] - self.before
        few = sent < self.size * 1.5
        return [("the blob is sent once", few, f"{sent / MIB:.0f} MiB for {self.ranges} ranges of {self.size / MIB:.0f} MiB")]


class ManyLayers(Attack):
    """A manifest of as many layers as it can have, in which the gateway looks for what to fetch ahead."""

    name = "prefetch, 26,000 layers"
    layers = 26_000
    allowed = 150
    seconds = 4

    def attack(self):
        answer = self.get(f"/v2/layers-{self.layers}/a/manifests/1", FIELDS)
        self.count(f"status {answer.status}")
        self.rest(60)

    def blob_questions(self) -> int:
        requests = self.upstream.counters()["requests"]
        return sum(count for kind, count in requests.items() if kind.endswith(" blobs"))

    def prepare(self):
        self.before = self.blob_questions()

    def findings(self):
        asked = self.blob_questions() - self.before
        return [
            ("the manifest is pulled", set(self.counts) == {"status 200"}, str(self.counts)),
            ("few layers are asked for", asked <= self.allowed, f"{asked} questions for {self.layers} layers"),
        ]


class MissingLayers(ManyLayers):
    """Hits of a manifest of 3000 layers that the upstream does not have."""

    name = "prefetch, missing layers"
    layers = 3000

    def attack(self):
        while not self.is_over():
            answer = self.get(f"/v2/layers-{self.layers}/a/manifests/1", FIELDS)
            self.count(f"status {answer.status}")
            self.rest(0.2)


class HeavyImages(Attack):
    """Manifests of a KiB, each of which names 192 MiB."""

    name = "prefetch, heavy images"
    # What one client may cause to be fetched ahead, while it takes none of it.
    allowed = 256 * MIB
    images = 6
    seconds = 5

    def prepare(self):
        self.before = self.upstream.counters()["sent"]

    def attack(self):
        for number in range(self.images):
            self.get(f"/v2/heavy/{number}/manifests/1", FIELDS)
        self.rest(60)

    def findings(self):
        sent = self.upstream.counters()["sent"] - self.before
        return [("little is fetched ahead", sent <= self.allowed, f"{sent / MIB:.0f} MiB for {self.images} manifests")]


class Filling(Attack):
    """Streams that claim most of the cache, and send 300 kB."""

    name = "cache filling, false lengths"
    keys = {"cache": 'max_size = "100MiB"'}
    blobs = 80
    liars = 6
    allowed = 8

    def prepare(self):
        for number in range(self.blobs):
            path = f"/v2/app/full/blobs/{self.upstream.blob(f'full {number}', MIB)}"
            assert self.get(path).status == 200

    def evicted(self) -> float:
        return self.gateway.metrics().get("dockgate_cache_evicted_blobs_total", 0)

    def attack(self):
        self.at_once(self.liars, self.ask)
        self.rest(60)

    def ask(self, turn):
        client = self.keep(self.gateway.client(address(turn)))
        attempt(client.ask, "GET", f"/v2/liar/a/blobs/sha256:{turn + 1:064x}", LOGIN)

    def findings(self):
        evicted = self.evicted()
        claimed = f"{evicted:.0f} of {self.blobs} for {self.liars} of {CLAIMED / MIB:.0f} MiB claimed"
        return [("little is evicted", evicted <= self.allowed, claimed)]


class FillingForReal(Attack):
    """Layers without end, each pulled once: what others pull stays."""

    name = "cache filling"
    quick = False
    keys = {"cache": 'max_size = "100MiB"'}
    size = 8 * MIB

    def attack(self):
        self.again(3, self.ask)

    def ask(self, turn):
        self.count("pulls")
        seed = f"filling {turn} {self.counts['pulls']}"
        path = f"/v2/app/filling/blobs/{self.upstream.blob(seed, self.size)}"
        self.get(path, source=address(turn))


ALL = [Abandoned, AbandonedBlobs, Ranges, ManyLayers, MissingLayers, HeavyImages, Filling, FillingForReal]
