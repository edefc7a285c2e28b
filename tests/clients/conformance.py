"""Asks a registry what the OCI distribution specification 1.1 demands, in its four categories.

    conformance.py URL REPOSITORY OTHER-REPOSITORY [--login USER:PASSWORD] [--only pull,push,...] >results.json

The cases are those of the specification's own conformance suite, told anew from the specification's text, with a few of its
later edition: ranges, empty blobs, cancelled uploads. The results are a JSON object, name of the case -> "passed" or what
was wrong. Certificates are verified against SSL_CERT_FILE.
"""

import argparse
import base64
import hashlib
import http.client
import json
import random
import ssl
import sys
from urllib.parse import urlencode, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
BYTES = "application/octet-stream"
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
    "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip


class Answer:
    """A status, headers and a body, with the demands that are made of them."""

    def __init__(self, response, path):
        self.status, self.path = response.status, path
        self.headers, self.body = response.headers, response.read()

    def gives(self, *statuses):
        assert self.status in statuses, f"{self.path}: status {self.status}, not {statuses}: {self.body[:200]!r}"
        return self

    def has(self, name, value):
        found = self.headers.get(name)
        assert found == value, f"{self.path}: {name} is {found!r}, not {value!r}"
        return self

    def may_have(self, name, value):
        return self if self.headers.get(name) is None else self.has(name, value)

    def location(self, beginning):
        """The path and query of Location, which has to begin like that."""
        parts = urlsplit(self.headers.get("Location", ""))
        assert parts.path.startswith(beginning), f"{self.path}: Location {parts.path!r} does not begin with {beginning!r}"
        return parts.path + ("?" + parts.query if parts.query else "")

    def json(self):
        return json.loads(self.body)

    def error(self, *codes):
        errors = self.json()["errors"]
        assert errors and errors[0]["code"] in (codes or CODES), f"{self.path}: errors {errors}"


class Registry:
    def __init__(self, url, login):
        self.parts = urlsplit(url)
        self.authorization = "Basic " + base64.b64encode(login.encode()).decode() if login else None

    def ask(self, method, path, body=None, accept=None, **headers):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.authorization:
            sent["Authorization"] = self.authorization
        if accept:
            sent["Accept"] = accept
        connection = self.connect()
        connection.request(method, path, body=body, headers=sent, encode_chunked="Transfer-Encoding" in sent)
        return Answer(connection.getresponse(), f"{method} {path}")

    def connect(self):
        host, port = self.parts.hostname, self.parts.port
        if self.parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=30, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=30)


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def descriptor(media_type, content, **more):
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)} | more


def document(**keys):
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST} | keys, indent=1).encode()


def queried(location, **query):
    return location + ("&" if "?" in location else "?") + urlencode(query)


CASES = []


def case(category, name):
    def register(function):
        CASES.append((category, f"{category}: {name}", function))
        return function

    return register


class World:
    """The repositories and the content that the cases share."""

    def __init__(self, registry, name, other, noise):
        self.registry, self.name, self.other, self.noise = registry, name, other, noise
        self.ask = registry.ask
        self.config = json.dumps({"architecture": "amd64", "os": "linux", "author": noise.randbytes(8).hex(),
                                  "rootfs": {"type": "layers", "diff_ids": []}}).encode()  # fmt: skip
        self.layer = noise.randbytes(2048)
        self.manifest = document(config=descriptor(CONFIG, self.config), layers=[descriptor(LAYER, self.layer)])

    def v2(self, rest, name=None):
        return f"/v2/{name or self.name}/{rest}"

    def start(self, name=None, query=""):
        answer = self.ask("POST", self.v2("blobs/uploads/" + query, name), body=b"").gives(202)
        return answer.location(self.v2("blobs/uploads/", name))

    def push_blob(self, content):
        location = queried(self.start(), digest=sha256(content))
        return self.ask("PUT", location, body=content, Content_Type=BYTES).gives(201)

    def push_manifest(self, reference, content, media_type=MANIFEST):
        return self.ask("PUT", self.v2(f"manifests/{reference}"), body=content, Content_Type=media_type).gives(201)

    def push_image(self, tag):
        self.push_blob(self.config)
        self.push_blob(self.layer)
        self.push_manifest(tag, self.manifest)

    def patch(self, location, chunk, start):
        end = start + len(chunk) - 1
        return self.ask("PATCH", location, body=chunk, Content_Type=BYTES, Content_Range=f"{start}-{end}")

    def blob(self, digest, method="GET", **more):
        return self.ask(method, self.v2(f"blobs/{digest}"), **more)

    def get_manifest(self, reference, method="GET"):
        return self.ask(method, self.v2(f"manifests/{reference}"), accept=f"{MANIFEST}, {INDEX}")

    def tags(self, query=""):
        return self.ask("GET", self.v2("tags/list" + query)).gives(200).json()["tags"]

    def referrers(self, digest, query=""):
        answer = self.ask("GET", self.v2(f"referrers/{digest}" + query)).gives(200)
        return answer.has("Content-Type", INDEX), answer.json()["manifests"]


## Pull

MISSING = "sha256:" + "0123456789abcdef" * 4


@case("pull", "an image is pushed to be pulled")
def _(w):
    w.push_image("pull")


@case("pull", "HEAD of a missing blob is 404")
def _(w):
    w.blob(MISSING, "HEAD").gives(404)


@case("pull", "HEAD of a blob is 200 with its digest and length")
def _(w):
    answer = w.blob(sha256(w.layer), "HEAD").gives(200).may_have("Docker-Content-Digest", sha256(w.layer))
    answer.has("Content-Length", str(len(w.layer)))


@case("pull", "GET of a missing blob is 404")
def _(w):
    w.blob(MISSING).gives(404).error("BLOB_UNKNOWN")


@case("pull", "GET of a blob gives its bytes")
def _(w):
    assert w.blob(sha256(w.layer)).gives(200).body == w.layer


@case("pull", "GET of ranges of a blob")
def _(w):
    for asked, first, last in (("500-1499", 500, 1499), ("500-", 500, 2047), ("-500", 1548, 2047), ("2000-5000", 2000, 2047)):
        answer = w.blob(sha256(w.layer), Range=f"bytes={asked}").gives(206)
        answer.has("Content-Range", f"bytes {first}-{last}/2048")
        assert answer.body == w.layer[first : last + 1], asked
    w.blob(sha256(w.layer), Range="bytes=5000-10000").gives(416)


@case("pull", "HEAD of a manifest name that is not one is 404")
def _(w):
    w.get_manifest(".INVALID_MANIFEST_NAME", "HEAD").gives(404)


@case("pull", "GET of a manifest name that is not one is 404")
def _(w):
    w.get_manifest(".INVALID_MANIFEST_NAME").gives(404)


def one_manifest(reference_of, method):
    def run(w):
        answer = w.get_manifest(reference_of(w), method).gives(200).has("Content-Type", MANIFEST)
        answer.may_have("Docker-Content-Digest", sha256(w.manifest)).has("Content-Length", str(len(w.manifest)))
        assert method == "HEAD" or answer.body == w.manifest

    return run


for method in ("HEAD", "GET"):
    case("pull", f"{method} of a manifest by digest is 200")(one_manifest(lambda w: sha256(w.manifest), method))
    case("pull", f"{method} of a manifest by tag is 200")(one_manifest(lambda w: "pull", method))


@case("pull", "a 400 has an error body")
def _(w):
    path = w.v2("manifests/sha256:totallywrong")
    answer = w.ask("PUT", path, body=b"blablabla", Content_Type=MANIFEST).gives(400, 404)
    answer.status != 400 or answer.error()


## Push


@case("push", "a streamed upload: POST, PATCH without a range, PUT")
def _(w):
    content = w.noise.randbytes(3000)
    answer = w.ask("PATCH", w.start(), body=iter([content]), Content_Type=BYTES, Transfer_Encoding="chunked").gives(202)
    location = queried(answer.location(w.v2("blobs/uploads/")), digest=sha256(content))
    w.ask("PUT", location, body=b"").gives(201).location(w.v2("blobs/"))
    assert w.blob(sha256(content)).gives(200).body == content


@case("push", "POST with a digest and the whole blob is 201, or 202 and goes on")
def _(w):
    content = w.noise.randbytes(3000)
    answer = w.ask("POST", queried(w.v2("blobs/uploads/"), digest=sha256(content)), body=content, Content_Type=BYTES)
    if answer.gives(201, 202).status == 202:
        location = queried(answer.location(w.v2("blobs/uploads/")), digest=sha256(content))
        w.ask("PUT", location, body=content, Content_Type=BYTES).gives(201)
    assert w.blob(sha256(content)).gives(200).body == content


@case("push", "POST, then PUT with the whole blob")
def _(w):
    content = w.noise.randbytes(3000)
    w.blob(sha256(content)).gives(404)
    path = urlsplit(w.push_blob(content).location(w.v2("blobs/"))).path
    assert w.ask("GET", path).gives(200).body == content


@case("push", "PUT of a blob under a wrong digest is 400")
def _(w):
    location = queried(w.start(), digest=MISSING)
    w.ask("PUT", location, body=b"something else", Content_Type=BYTES).gives(400).error("DIGEST_INVALID")


@case("push", "empty blobs")
def _(w):
    for content in (b"", b"{}"):
        w.push_blob(content)
        assert w.blob(sha256(content)).gives(200).body == content


@case("push", "a chunk out of order is 416")
def _(w):
    w.patch(w.start(), b"0123456789", 10).gives(416)


@case("push", "chunks in order, one of them twice")
def _(w):
    first, second = w.noise.randbytes(1000), w.noise.randbytes(500)
    start = w.start()
    answer = w.patch(start, first, 0).gives(202).has("Range", "0-999")
    location = answer.location(w.v2("blobs/uploads/"))
    w.patch(location, first, 0).gives(416)
    state = w.ask("GET", location).gives(204).has("Range", "0-999")
    answer = w.patch(state.location(w.v2("blobs/uploads/")), second, 1000).gives(202).has("Range", "0-1499")
    location = queried(answer.location(w.v2("blobs/uploads/")), digest=sha256(first + second))
    w.ask("PUT", location, body=b"").gives(201)
    assert w.blob(sha256(first + second)).gives(200).body == first + second


@case("push", "the last chunk comes with the PUT")
def _(w):
    first, last = w.noise.randbytes(1000), w.noise.randbytes(500)
    location = w.patch(w.start(), first, 0).gives(202).location(w.v2("blobs/uploads/"))
    location = queried(location, digest=sha256(first + last))
    w.ask("PUT", location, body=last, Content_Type=BYTES, Content_Range="1000-1499").gives(201)
    assert w.blob(sha256(first + last)).gives(200).body == first + last


@case("push", "a cancelled upload is gone")
def _(w):
    location = w.start()
    w.ask("DELETE", location).gives(204)
    w.ask("GET", location).gives(404)


@case("push", "an upload that never was is 404")
def _(w):
    w.ask("PUT", queried(w.v2("blobs/uploads/none"), digest=MISSING), body=b"x").gives(404, 400)


def mounted(w, answer, digest):
    if answer.gives(201, 202).status == 202:
        return answer.location(w.v2("blobs/uploads/", w.other)) and False
    return answer.location(w.v2("blobs/", w.other)) == w.v2(f"blobs/{digest}", w.other)


@case("push", "a mount of an unknown blob is 202 and an upload")
def _(w):
    path = queried(w.v2("blobs/uploads/", w.other), mount=MISSING, **{"from": w.name})
    answer = w.ask("POST", path, body=b"").gives(202)
    content = w.noise.randbytes(100)
    location = queried(answer.location(w.v2("blobs/uploads/", w.other)), digest=sha256(content))
    w.ask("PUT", location, body=content, Content_Type=BYTES).gives(201)


@case("push", "a mount without a source is 201 or 202")
def _(w):
    content = w.noise.randbytes(700)
    w.push_blob(content)
    answer = w.ask("POST", queried(w.v2("blobs/uploads/", w.other), mount=sha256(content)), body=b"")
    assert mounted(w, answer, sha256(content)) or answer.status == 202


@case("push", "a mount from the other repository")
def _(w):
    content = w.noise.randbytes(700)
    w.push_blob(content)
    path = queried(w.v2("blobs/uploads/", w.other), mount=sha256(content), **{"from": w.name})
    if mounted(w, w.ask("POST", path, body=b""), sha256(content)):
        assert w.ask("GET", w.v2(f"blobs/{sha256(content)}", w.other)).gives(200).body == content


@case("push", "GET of a missing manifest is 404")
def _(w):
    w.get_manifest(MISSING).gives(404).error("MANIFEST_UNKNOWN")


@case("push", "PUT of a manifest under tags and its digest")
def _(w):
    w.push_blob(w.config)
    w.push_blob(w.layer)
    for reference in ("push0", "push1", "push2", "push3", sha256(w.manifest)):
        w.push_manifest(reference, w.manifest).may_have("Docker-Content-Digest", sha256(w.manifest)).location(w.v2("manifests/"))
    assert w.get_manifest(sha256(w.manifest)).gives(200).body == w.manifest


@case("push", "PUT of a manifest under a wrong digest is 400")
def _(w):
    w.ask("PUT", w.v2(f"manifests/{MISSING}"), body=w.manifest, Content_Type=MANIFEST).gives(400).error("DIGEST_INVALID")


@case("push", "a manifest without layers")
def _(w):
    w.push_blob(w.config)
    w.push_manifest("emptylayers", document(config=descriptor(CONFIG, w.config), layers=[]))


@case("push", "an index")
def _(w):
    content = document(mediaType=INDEX, manifests=[descriptor(MANIFEST, w.manifest)])
    w.push_manifest("index", content, INDEX)
    assert w.get_manifest("index").gives(200).has("Content-Type", INDEX).body == content


@case("push", "a manifest of almost 4 MB")
def _(w):
    padding = {f"pad{i}": "x" * 10000 for i in range(390)}
    content = document(config=descriptor(CONFIG, w.config), layers=[descriptor(LAYER, w.layer)], annotations=padding)
    w.push_manifest("large", content)
    assert w.get_manifest("large").gives(200).body == content


## Discovery

SUBJECT_KIND, OTHER_KIND = "application/vnd.nhl.peanut.butter.bagel", "application/vnd.nba.strawberry.jam.croissant"


@case("discovery", "tags are pushed")
def _(w):
    w.push_image("test0")
    for tag in ("test1", "test2", "test3"):
        w.push_manifest(tag, w.manifest)


@case("discovery", "the list of tags")
def _(w):
    assert {"test0", "test1", "test2", "test3"} <= set(w.tags())


@case("discovery", "n limits the list of tags")
def _(w):
    wanted = len(w.tags()) // 2
    found = w.tags(f"?n={wanted}")
    assert len(found) == wanted, f"{found} are not {wanted}"


@case("discovery", "last says where the list of tags goes on")
def _(w):
    wanted = len(w.tags()) // 2
    last = w.tags(f"?n={wanted}")[-1]
    following = w.tags(f"?n={wanted}&last={last}")
    assert len(following) <= wanted and last not in following, f"{following} after {last}"


@case("discovery", "the pages of tags are linked and together complete")
def _(w):
    path, found = w.v2("tags/list?n=2"), []
    while path:
        answer = w.ask("GET", path).gives(200)
        found += answer.json()["tags"]
        link = answer.headers.get("Link", "")
        path = link[link.index("<") + 1 : link.index(">")] if link else None
        path = path and urlsplit(path).path + "?" + urlsplit(path).query
    assert sorted(found) == sorted(w.tags()), found


@case("discovery", "referrers of a missing manifest are none")
def _(w):
    assert w.referrers(MISSING)[1] == []


def referrer(w, number, kind, subject, by_config=False):
    """A manifest that refers to a subject: its kind is in artifactType, or in the config's media type as in 1.0."""
    note = {"org.opencontainers.conformance.test": f"test {number}"}
    if by_config:
        return document(config=descriptor(kind, b"{}"), layers=[descriptor(BYTES, w.layer)], subject=subject, annotations=note)
    return document(artifactType=kind, config=descriptor(EMPTY, b"{}"), layers=[descriptor(BYTES, w.layer)],
                    subject=subject, annotations=note)  # fmt: skip


def index_referrer(w, number, kind, subject):
    note = {"org.opencontainers.conformance.test": f"test {number}"}
    return document(mediaType=INDEX, artifactType=kind, manifests=[descriptor(MANIFEST, w.manifest)], subject=subject, annotations=note)


def subject_of(w, number):
    return document(config=descriptor(CONFIG, w.config), layers=[descriptor(LAYER, w.layer)], annotations={"subject": f"{number}"})


@case("discovery", "manifests that refer to another are answered with OCI-Subject")
def _(w):
    w.push_blob(b"{}")
    w.push_image("test0")
    known, unknown = subject_of(w, 1), subject_of(w, 2)
    w.push_manifest("subject", known)
    target, nowhere = descriptor(MANIFEST, known), descriptor(MANIFEST, unknown)
    w.expected = [
        (referrer(w, 1, SUBJECT_KIND, target, True), MANIFEST), (referrer(w, 2, SUBJECT_KIND, target), MANIFEST),
        (referrer(w, 3, OTHER_KIND, target, True), MANIFEST), (referrer(w, 4, OTHER_KIND, target), MANIFEST),
        (index_referrer(w, 5, OTHER_KIND, target), INDEX),
    ]  # fmt: skip
    for content, media_type in w.expected:
        w.push_manifest(sha256(content), content, media_type).has("OCI-Subject", target["digest"])
    w.orphan = referrer(w, 6, SUBJECT_KIND, nowhere)
    w.push_manifest(sha256(w.orphan), w.orphan).has("OCI-Subject", nowhere["digest"])


@case("discovery", "referrers have kind, size and annotations")
def _(w):
    _, found = w.referrers(sha256(subject_of(w, 1)))
    assert {entry["digest"] for entry in found} == {sha256(content) for content, _ in w.expected}, found
    for content, media_type in w.expected:
        entry = next(entry for entry in found if entry["digest"] == sha256(content))
        assert (entry["size"], entry["mediaType"]) == (len(content), media_type), entry
        assert entry["annotations"] == json.loads(content)["annotations"], entry
        assert entry["artifactType"] in (SUBJECT_KIND, OTHER_KIND), entry


@case("discovery", "referrers of one kind")
def _(w):
    answer, found = w.referrers(sha256(subject_of(w, 1)), "?" + urlencode({"artifactType": SUBJECT_KIND}))
    filtered = answer.headers.get("OCI-Filters-Applied") is not None
    answer.may_have("OCI-Filters-Applied", "artifactType")
    assert len(found) == (2 if filtered else 5), found


@case("discovery", "referrers of a subject that was never pushed")
def _(w):
    _, found = w.referrers(sha256(subject_of(w, 2)))
    assert [entry["digest"] for entry in found] == [sha256(w.orphan)], found


@case("discovery", "referrers of a digest that is not one are 400")
def _(w):
    w.ask("GET", w.v2("referrers/sha256:none")).gives(400, 404)


## Management


@case("management", "an image is pushed to be deleted")
def _(w):
    w.config += b" "
    w.manifest = document(config=descriptor(CONFIG, w.config), layers=[descriptor(LAYER, w.layer)])
    w.push_image("tagtest0")


@case("management", "DELETE of a tag is 202, or refused")
def _(w):
    answer = w.ask("DELETE", w.v2("manifests/tagtest0")).gives(202, 400, 404, 405)
    answer.status != 400 or answer.error("UNSUPPORTED")


@case("management", "DELETE of a manifest is 202")
def _(w):
    w.ask("DELETE", w.v2(f"manifests/{sha256(w.manifest)}")).gives(202, 404)


@case("management", "a deleted manifest is 404")
def _(w):
    w.get_manifest(sha256(w.manifest)).gives(404)


@case("management", "the list of tags shows the deletion")
def _(w):
    answer = w.ask("GET", w.v2("tags/list")).gives(200, 404)
    assert answer.status == 404 or "tagtest0" not in answer.json()["tags"]


@case("management", "DELETE of a blob is 202")
def _(w):
    w.blob(sha256(w.config), "DELETE").gives(202)


@case("management", "a deleted blob is 404")
def _(w):
    w.blob(sha256(w.config)).gives(404)


@case("management", "DELETE of a missing blob is 404")
def _(w):
    w.blob(MISSING, "DELETE").gives(404)


def outcome(function, world):
    try:
        function(world)
    except Exception as error:  # whatever it was, it is this case's result
        return f"{type(error).__name__}: {error}"
    return "passed"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("repository")
    parser.add_argument("other")
    parser.add_argument("--login", default="")
    parser.add_argument("--only", default="pull,push,discovery,management")
    asked = parser.parse_args()
    world = World(Registry(asked.url, asked.login), asked.repository, asked.other, random.Random())
    wanted = asked.only.split(",")
    json.dump({name: outcome(function, world) for category, name, function in CASES if category in wanted}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
