"""Asks a registry what the conformance suite of the distribution specification asks in its read-only mode, as for a proxy.

    read_only.py URL REPOSITORY [--login USER:PASSWORD] [--tags TAG...] [--manifests DIGEST...] [--blobs DIGEST...]
                 [--referrers DIGEST...] >results.json

Nothing is pushed: the tags, manifests and blobs are there, and what is said to have referrers has some. The cases are told
anew from the specification's text, in the order of the suite: ping, what is not there, lists, HEAD, GET, ranges, errors.
The results are a JSON object, name of the case -> "passed" or what was wrong.
"""

import argparse
import hashlib
import json
import sys

from conformance import INDEX, MANIFEST, MISSING, Registry, outcome

ACCEPT = ", ".join([
    MANIFEST, INDEX, "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
])  # fmt: skip


class Asked:
    """The repository and what is in it."""

    def __init__(self, registry, repository, options):
        self.registry, self.repository, self.options = registry, repository, options

    def ask(self, method, rest, **more):
        return self.registry.ask(method, f"/v2/{self.repository}/{rest}", **more)

    def manifest(self, method, reference):
        return self.ask(method, f"manifests/{reference}", accept=ACCEPT)


def hashed(digest, content):
    algorithm = digest.split(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def ping(asked):
    asked.registry.ask("GET", "/v2/").gives(200)


def tags_are_listed(asked):
    answer = asked.ask("GET", "tags/list").gives(200).json()
    assert answer["name"] == asked.repository, answer
    assert set(asked.options.tags) <= set(answer["tags"]), answer


def tags_are_listed_by_pages(asked):
    first = asked.ask("GET", "tags/list?n=1").gives(200).json()["tags"]
    assert len(first) == 1, first
    after = asked.ask("GET", f"tags/list?n=1&last={first[0]}").gives(200).json()["tags"]
    assert first[0] not in (after or []), after


def no_referrers(asked):
    answer = asked.ask("GET", f"referrers/{MISSING}").gives(200).has("Content-Type", INDEX)
    assert answer.json()["manifests"] == []


def has_referrers(digest):
    def run(asked):
        answer = asked.ask("GET", f"referrers/{digest}").gives(200).has("Content-Type", INDEX)
        entries = answer.json()["manifests"]
        assert entries and all(entry["digest"] and entry["size"] and entry["mediaType"] for entry in entries), entries

    return run


def head_of_manifest(reference):
    def run(asked):
        answer = asked.manifest("HEAD", reference).gives(200)
        whole = asked.manifest("GET", reference).gives(200)
        assert answer.body == b""
        answer.has("Content-Length", str(len(whole.body))).has("Content-Type", whole.headers["Content-Type"])
        answer.has("Docker-Content-Digest", hashed("sha256:", whole.body) if ":" not in reference else reference)

    return run


def get_of_manifest(reference):
    def run(asked):
        answer = asked.manifest("GET", reference).gives(200)
        digest = reference if ":" in reference else answer.headers["Docker-Content-Digest"]
        assert hashed(digest, answer.body) == digest
        answer.has("Docker-Content-Digest", digest).has("Content-Type", answer.json()["mediaType"])
        answer.has("Content-Length", str(len(answer.body)))

    return run


def head_of_blob(digest):
    def run(asked):
        answer = asked.ask("HEAD", f"blobs/{digest}").gives(200).may_have("Docker-Content-Digest", digest)
        assert answer.headers["Content-Length"] is not None and answer.body == b""

    return run


def get_of_blob(digest):
    def run(asked):
        answer = asked.ask("GET", f"blobs/{digest}").gives(200).may_have("Docker-Content-Digest", digest)
        assert hashed(digest, answer.body) == digest
        answer.has("Content-Length", str(len(answer.body)))

    return run


def length_of(asked, digest):
    return int(asked.ask("HEAD", f"blobs/{digest}").gives(200).headers["Content-Length"])


def ranges_of_blob(digest):
    """The ranges come first: for a cold cache they are the first that is asked of the blob."""

    def run(asked):
        last = length_of(asked, digest) - 1
        cases = [("500-1499", 500, 1499), ("500-", 500, last), ("-500", last - 499, last), ("2000-999999999", 2000, last)]
        parts = {}
        for text, start, end in cases:
            answer = asked.ask("GET", f"blobs/{digest}", Range=f"bytes={text}").gives(206)
            answer.has("Content-Range", f"bytes {start}-{end}/{last + 1}").has("Content-Length", str(end - start + 1))
            parts[start, end] = answer.body
        whole = asked.ask("GET", f"blobs/{digest}").gives(200).body
        for (start, end), part in parts.items():
            assert part == whole[start : end + 1], f"{start}-{end}"

    return run


def no_ranges_of_blob(digest):
    """RFC 9110 section 14.1.1 lets `500-0` be ignored, and the suite lets a registry that knows no ranges send all."""

    def run(asked):
        last = length_of(asked, digest) - 1
        asked.ask("GET", f"blobs/{digest}", Range="bytes=500-0").gives(416, 200)
        asked.ask("GET", f"blobs/{digest}", Range=f"bytes={last + 1}-{last + 10000}").gives(416)

    return run


def missing(rest, *codes):
    def run(asked):
        asked.ask("HEAD", rest, accept=ACCEPT).gives(404)
        asked.ask("GET", rest, accept=ACCEPT).gives(404).error(*codes)

    return run


def bad_digest(asked):
    asked.manifest("GET", "sha256:baddigeststring").gives(400, 404)
    asked.ask("GET", "blobs/sha256:baddigeststring").gives(400, 404)


def cases(options):
    yield "ping", ping
    yield "referrers of a missing manifest are none", no_referrers
    if options.tags:
        yield "the list of tags", tags_are_listed
        yield "the list of tags by pages", tags_are_listed_by_pages
    for digest in options.blobs:
        yield f"ranges of the blob {digest[:15]}", ranges_of_blob(digest)
        yield f"ranges that the blob {digest[:15]} has not", no_ranges_of_blob(digest)
    for reference in options.tags + options.manifests:
        yield f"HEAD of the manifest {reference[:15]}", head_of_manifest(reference)
    for digest in options.blobs:
        yield f"HEAD of the blob {digest[:15]}", head_of_blob(digest)
    for reference in options.tags + options.manifests:
        yield f"GET of the manifest {reference[:15]}", get_of_manifest(reference)
    for digest in options.blobs:
        yield f"GET of the blob {digest[:15]}", get_of_blob(digest)
    for digest in options.referrers:
        yield f"referrers of {digest[:15]}", has_referrers(digest)
    yield "a missing blob is 404", missing(f"blobs/{MISSING}", "BLOB_UNKNOWN")
    yield "a missing manifest is 404", missing(f"manifests/{MISSING}", "MANIFEST_UNKNOWN")
    yield "a missing tag is 404", missing("manifests/none", "MANIFEST_UNKNOWN")
    yield "a name that is no tag is 404", missing("manifests/.INVALID_MANIFEST_NAME", "MANIFEST_UNKNOWN", "MANIFEST_INVALID", "NAME_UNKNOWN")
    yield "a digest that is none is 404 or 400", bad_digest


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("repository")
    parser.add_argument("--login", default="")
    for name in ("tags", "manifests", "blobs", "referrers"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    options = parser.parse_args()
    asked = Asked(Registry(options.url, options.login), options.repository, options)
    json.dump({name: outcome(function, asked) for name, function in cases(options)}, sys.stdout, indent=1)


main()
