"""A registry that does as its repositories' names say, so that an attack can count what it costs the upstream.

    upstream.py PORT          listens on 127.0.0.1:PORT until it is killed

The first component of a repository decides:

    app/...          an image: a configuration and a layer of 64 KiB, different for each name and tag
    large/...        a manifest of just under 4 MiB
    layers-N/...     a manifest of N layers, which are not there
    heavy/...        an image of three layers of 64 MiB
    slow/...         no answer at all until the asker leaves
    paced/...        blobs come at 4 MiB/s
    norange/...      blobs are sent whole, whatever part is asked for
    liar/...         blobs that claim 94 MiB, send 300 kB and stop
    tags/...         a list of 85,000 tags

A blob is there once it was named: in a manifest that was served, or by `/_siege/blob?seed=S&size=N`, which answers with its
digest. Pushes are accepted and forgotten. `/_siege/counters` tells what has been asked and sent, and how many sockets are
open; questions below `/_siege/` are not counted. `/_siege/catalog`, with one name a line as body, sets the catalog.
`/_siege/keys` is the key set of an issuer, which a body sets; `keys` counts how often it was read.
"""

import asyncio
import hashlib
import json
import sys
import urllib.parse

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
MIB = 1024 * 1024
# The largest manifest that is accepted is 4,393,216 bytes long.
LARGE = 4 * MIB - 4096
HEAVY_LAYER = 64 * MIB
CLAIMED, TRULY = 94 * MIB, 300_000
PIECE, PACE = 256 * 1024, 4 * MIB
ALL_TAGS = b",".join(b'"release-%d-of-the-long-list-of-tags"' % number for number in range(85_000))


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Blob:
    """Bytes that follow from a seed, so that none of them are held."""

    def __init__(self, seed: str, size: int):
        self.size, self.seed = size, hashlib.sha256(seed.encode()).digest()
        total = hashlib.sha256()
        for piece in self.pieces(0, size):
            total.update(piece)
        self.digest = "sha256:" + total.hexdigest()

    def pieces(self, start: int, end: int):
        block = self.seed * (min(PIECE, self.size + 31) // 32)
        while start < end:
            offset = start % PIECE
            piece = block[offset : offset + end - start]
            yield piece
            start += len(piece)


class Content:
    """What is there, by digest. Manifests are made when their tag is first asked for."""

    def __init__(self):
        self.blobs: dict[str, Blob] = {}
        self.manifests: dict[str, bytes] = {}
        self.tags: dict[str, str] = {}
        self.catalog: list[str] = []
        self.keys: dict = {}

    def blob(self, seed: str, size: int) -> Blob:
        blob = Blob(seed, size)
        return self.blobs.setdefault(blob.digest, blob)

    def manifest(self, name: str, reference: str) -> bytes | None:
        if ":" in reference:
            return self.manifests.get(reference)
        place = f"{name}:{reference}"
        if place not in self.tags:
            content = self.made(name.split("/")[0], place)
            digest = digest_of(content)
            self.tags[place] = digest
            self.manifests[digest] = content
        return self.manifests[self.tags[place]]

    def made(self, kind: str, place: str) -> bytes:
        annotations = {"place": place}
        if kind.startswith("layers-"):
            layers = [entry(f"{place} {number}", 1000) for number in range(int(kind[7:]))]
        elif kind == "heavy":
            layers = [self.entry(f"{place} {number}", HEAVY_LAYER) for number in range(3)]
        elif kind == "large":
            layers, annotations = [], {"place": place.ljust(LARGE)}
        else:
            layers = [self.entry(place, 64 * 1024)]
        config = {**self.entry(f"config of {place}", 512), "mediaType": CONFIG}
        image = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, "annotations": annotations}
        return json.dumps(image, separators=(",", ":")).encode()

    def entry(self, seed: str, size: int) -> dict:
        return {"mediaType": LAYER, "digest": self.blob(seed, size).digest, "size": size}


def entry(seed: str, size: int) -> dict:
    """A layer that is nowhere."""
    return {"mediaType": LAYER, "digest": digest_of(seed.encode()), "size": size}


class Request:
    def __init__(self, head: str):
        first, *fields = head.split("\r\n")
        self.method, target, _ = first.split(" ", 2)
        self.path, _, query = target.partition("?")
        self.query = {name: values[0] for name, values in urllib.parse.parse_qs(query).items()}
        self.fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        self.body = b""

    def kind(self) -> str:
        for word in ("/manifests/", "/blobs/uploads", "/blobs/", "/tags/list", "_catalog"):
            if word in self.path:
                return f"{self.method} {word.strip('/_')}"
        return f"{self.method} {self.path}"


class Counters:
    def __init__(self):
        self.requests: dict[str, int] = {}
        self.sent = self.received = self.open = self.peak = self.keys = 0

    def opened(self, count: int) -> None:
        self.open += count
        self.peak = max(self.peak, self.open)

    def told(self) -> dict:
        asked = {"requests": self.requests, "total": sum(self.requests.values())}
        return {**asked, "sent": self.sent, "received": self.received, "open": self.open, "peak": self.peak, "keys": self.keys}


class Exchange:
    """One connection."""

    def __init__(self, content: Content, counters: Counters, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.content, self.counters, self.reader, self.writer = content, counters, reader, writer

    async def run(self) -> None:
        self.counters.opened(1)
        try:
            while True:
                head = await self.reader.readuntil(b"\r\n\r\n")
                self.request = Request(head[:-4].decode("latin-1"))
                await self.read_body()
                await self.answer()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, Left):
            pass
        finally:
            self.counters.open -= 1
            self.writer.transport.abort()

    async def read_body(self) -> None:
        fields = self.request.fields
        if fields.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if "content-length" in fields:
            self.request.body = await self.reader.readexactly(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readline(), 16):
                self.request.body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        self.counters.received += len(self.request.body)

    async def answer(self) -> None:
        request = self.request
        if request.path.startswith("/_siege/"):
            return await self.send(200, json.dumps(self.control()).encode())
        self.counters.requests[request.kind()] = self.counters.requests.get(request.kind(), 0) + 1
        if request.path == "/v2/":
            return await self.send(200, b"{}")
        if request.path == "/v2/_catalog":
            return await self.send_catalog()
        name, _, rest = request.path.removeprefix("/v2/").partition("/manifests/")
        if rest:
            return await self.send_manifest(name, rest)
        name, _, rest = request.path.removeprefix("/v2/").partition("/blobs/")
        if rest.startswith("uploads"):
            return await self.upload(name)
        if rest:
            return await self.send_blob(name, rest)
        name, _, rest = request.path.removeprefix("/v2/").partition("/tags/list")
        tags = ALL_TAGS if name.startswith("tags/") else b'"1","2"'
        await self.send(200, b'{"name":"' + name.encode() + b'","tags":[' + tags + b"]}")

    def control(self) -> dict:
        request = self.request
        if request.path == "/_siege/blob":
            return {"digest": self.content.blob(request.query["seed"], int(request.query["size"])).digest}
        if request.path == "/_siege/keys":
            if request.body:
                self.content.keys = json.loads(request.body)
            else:
                self.counters.keys += 1
            return self.content.keys
        if request.path == "/_siege/catalog":
            self.content.catalog = request.body.decode().split()
            return {}
        # This very connection is not one of the gateway's.
        return {**self.counters.told(), "open": self.counters.open - 1}

    async def send(self, status: int, body: bytes, fields: dict | None = None) -> None:
        fields = {"Content-Type": "application/json", **(fields or {})}
        self.begin(status, len(body), fields)
        if self.request.method != "HEAD":
            await self.write(body)

    def begin(self, status: int, length: int, fields: dict) -> None:
        fields = {"Content-Length": str(length), "Docker-Distribution-Api-Version": "registry/2.0", **fields}
        lines = [f"HTTP/1.1 {status} Siege", *(f"{name}: {value}" for name, value in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def write(self, piece: bytes) -> None:
        self.counters.sent += len(piece)
        self.writer.write(piece)
        await self.writer.drain()

    async def refuse(self, code: str) -> None:
        await self.send(404, json.dumps({"errors": [{"code": code, "message": "not here", "detail": None}]}).encode())

    async def send_manifest(self, name: str, reference: str) -> None:
        if self.request.method == "PUT":
            digest = digest_of(self.request.body)
            return await self.send(201, b"", {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest})
        if name.startswith("slow/"):
            await self.until_the_asker_leaves()
        content = self.content.manifest(name, reference)
        if content is None:
            return await self.refuse("MANIFEST_UNKNOWN")
        await self.send(200, content, {"Content-Type": MANIFEST, "Docker-Content-Digest": digest_of(content)})

    async def until_the_asker_leaves(self) -> None:
        await self.reader.read(1)
        raise Left

    async def send_blob(self, name: str, digest: str) -> None:
        if name.startswith("slow/"):
            await self.until_the_asker_leaves()
        if name.startswith("liar/"):
            return await self.lie()
        blob = self.content.blobs.get(digest)
        if blob is None:
            return await self.refuse("BLOB_UNKNOWN")
        status, start, end, fields = 200, 0, blob.size, {}
        if "range" in self.request.fields and not name.startswith("norange/"):
            first, _, last = self.request.fields["range"].removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or blob.size) + 1, blob.size)
            status, fields = 206, {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        if not name.startswith("norange/"):
            fields["Accept-Ranges"] = "bytes"
        fields |= {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        self.begin(status, end - start, fields)
        if self.request.method != "HEAD":
            for piece in blob.pieces(start, end):
                await self.write(piece)
                if name.startswith("paced/"):
                    await asyncio.sleep(len(piece) / PACE)

    async def lie(self) -> None:
        self.begin(200, CLAIMED, {"Content-Type": "application/octet-stream"})
        if self.request.method != "HEAD":
            await self.write(bytes(TRULY))
            await asyncio.sleep(1)
            raise Left

    async def upload(self, name: str) -> None:
        if self.request.method == "PUT":
            digest = self.request.query["digest"]
            return await self.send(201, b"", {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})
        range_ = {"Range": f"0-{max(len(self.request.body), 1) - 1}", "Docker-Upload-UUID": "1"}
        await self.send(202, b"", {"Location": f"/v2/{name}/blobs/uploads/1", **range_})

    async def send_catalog(self) -> None:
        count, last = int(self.request.query.get("n", 100)), self.request.query.get("last", "")
        names = [name for name in sorted(self.content.catalog) if name > last]
        more = {"Link": f'</v2/_catalog?n={count}&last={names[count - 1]}>; rel="next"'} if len(names) > count else {}
        await self.send(200, json.dumps({"repositories": names[:count]}).encode(), more)


class Left(Exception):
    """The asker has left, or is left alone."""


async def main() -> None:
    content, counters = Content(), Counters()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Exchange(content, counters, reader, writer).run()

    server = await asyncio.start_server(connected, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
