#!/usr/bin/env python3
"""A registry whose line is limited, in a process of its own, so that its load is not that of the clients.

    upstream.py ADDRESS:PORT BYTES_PER_SECOND    listens there until it is killed; 0: no limit

`/_fleet/blob?seed=S&size=N` makes a blob and answers with its digest; `/_fleet/tag?name=T` makes a manifest of a tag.
`/_fleet/counters` has the bytes of blobs that were sent, and the requests by method and kind; `/_fleet/forget` sets them to 0.
"""

import asyncio
import hashlib
import json
import random
import sys
import time
import urllib.parse

MANIFEST = "application/vnd.oci.image.index.v1+json"
PIECE = 64 * 1024


def noise(seed: str, size: int) -> bytes:
    """The bytes of a blob. Python makes less than 256 MiB of them at a time."""
    source, piece = random.Random(seed), 1 << 26
    return b"".join(source.randbytes(min(piece, size - at)) for at in range(0, size, piece))


class Line:
    """A limit for all connections together: each piece is sent once its turn has come."""

    def __init__(self, rate: int) -> None:
        self.rate, self.free_at = rate, 0.0

    async def take(self, length: int) -> None:
        if not self.rate:
            return
        now = time.monotonic()
        # A tenth of a second may come at once, so that timers need not be exact.
        self.free_at = max(self.free_at, now - 0.1) + length / self.rate
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)


class Registry:
    def __init__(self, rate: int) -> None:
        self.line, self.blobs, self.manifests = Line(rate), {}, {}
        self.forget()

    def forget(self) -> None:
        self.sent, self.requests = 0, {}

    def control(self, path: str) -> bytes:
        url = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(url.query))
        match url.path:
            case "/_fleet/blob":
                blob = noise(query["seed"], int(query["size"]))
                digest = "sha256:" + hashlib.sha256(blob).hexdigest()
                self.blobs[digest] = blob
                return digest.encode()
            case "/_fleet/tag":
                mark = {"schemaVersion": 2, "mediaType": MANIFEST, "manifests": [], "annotations": query}
                manifest = json.dumps(mark).encode()
                digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
                self.manifests[digest] = self.manifests[query["name"]] = (digest, manifest)
                return digest.encode()
            case "/_fleet/forget":
                self.forget()
                return b""
        return json.dumps({"sent": self.sent, "requests": self.requests}).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, headers = parse(head)
                if path.startswith("/_fleet/"):
                    await answer(writer, 200, {}, self.control(path))
                else:
                    await self.registry(writer, method, path, headers)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def registry(self, writer, method: str, path: str, headers: dict) -> None:
        kind, name = path.rsplit("/", 2)[1:] if path.count("/") > 3 else ("", "")
        key = f"{method} {kind}"
        self.requests[key] = self.requests.get(key, 0) + 1
        if kind == "manifests" and name in self.manifests:
            digest, manifest = self.manifests[name]
            fields = {"Content-Type": MANIFEST, "Docker-Content-Digest": digest}
            await answer(writer, 200, fields, manifest, method == "HEAD")
        elif kind == "blobs" and name in self.blobs:
            await self.blob(writer, method, self.blobs[name], headers.get("range"))
        else:
            await answer(writer, 200 if path == "/v2/" else 404, {}, b"{}")

    async def blob(self, writer, method: str, blob: bytes, asked: str | None) -> None:
        first, end, status = 0, len(blob), 200
        fields = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        if asked:
            begin, _, last = asked.removeprefix("bytes=").partition("-")
            first, end, status = int(begin), min(int(last) + 1 if last else len(blob), len(blob)), 206
            fields["Content-Range"] = f"bytes {first}-{end - 1}/{len(blob)}"
        writer.write(head_of(status, fields, end - first))
        if method == "HEAD":
            return await writer.drain()
        for at in range(first, end, PIECE):
            piece = blob[at : min(at + PIECE, end)]
            await self.line.take(len(piece))
            writer.write(piece)
            await writer.drain()
            self.sent += len(piece)


def parse(head: bytes) -> tuple[str, str, dict]:
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    fields = (line.split(":", 1) for line in lines[1:] if ":" in line)
    return method, path, {name.lower(): value.strip() for name, value in fields}


def head_of(status: int, fields: dict, length: int) -> bytes:
    lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def answer(writer, status: int, fields: dict, body: bytes, head: bool = False) -> None:
    writer.write(head_of(status, fields, len(body)) + (b"" if head else body))
    await writer.drain()


async def main() -> None:
    registry = Registry(int(sys.argv[2]))
    address, port = sys.argv[1].rsplit(":", 1)
    server = await asyncio.start_server(registry.serve, address, int(port), limit=PIECE)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
