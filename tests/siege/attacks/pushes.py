"""Pushes that reserve room and bring nothing."""

import json
import time

from attack import LOGIN, MIB, Attack
from upstream import MANIFEST
from wire import address


class EmptyManifests(Attack):
    """Manifests of 4 MiB that are announced and do not come, beside a push of some bytes."""

    name = "empty manifest pushes"
    pushes = 40
    seconds = 4

    def attack(self):
        self.at_once(self.pushes, self.announce)
        begun = time.monotonic()
        client = self.keep(self.gateway.client("127.0.0.8", timeout=60))
        small = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"a": "b" * 300}}).encode()
        answer = client.ask("PUT", "/v2/direct/app/small/manifests/1", {**LOGIN, "Content-Type": MANIFEST}, small)
        self.small = answer.status, time.monotonic() - begun
        self.rest(60)

    def announce(self, turn):
        client = self.keep(self.gateway.client(address(turn % 2)))
        fields = {**LOGIN, "Content-Type": MANIFEST, "Content-Length": str(4 * MIB)}
        client.send("PUT", f"/v2/direct/app/empty/manifests/{turn}", fields)

    def findings(self):
        status, took = self.small
        return [("a small push is not held up", status == 201 and took < 1, f"{status} in {took:.2f} s")]


class AbandonedUploads(Attack):
    """Uploads that are begun and never finished."""

    name = "abandoned uploads"
    quick = False

    def attack(self):
        self.again(4, self.begin)

    def begin(self, turn):
        client = self.gateway.client(address(turn))
        answer = client.ask("POST", f"/v2/direct/app/begun-{turn}/blobs/uploads/", LOGIN)
        self.count(f"status {answer.status}")
        place = answer.fields["location"].removeprefix(f"https://{client.host}")
        client.send("PATCH", place, {**LOGIN, "Content-Length": str(MIB), "Content-Type": "application/octet-stream"}, b"x" * 1000)
        self.rest(0.01)
        client.close()


ALL = [EmptyManifests, AbandonedUploads]
