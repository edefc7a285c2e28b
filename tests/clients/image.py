"""Writes an OCI image layout: image.py DIR [MIB [SEED]]. Its layers are small, 1 MiB and MIB (64), the last half zeros, half
noise. Images of different seeds have no blob in common.
"""

import gzip
import hashlib
import io
import json
import pathlib
import random
import sys
import tarfile

MIB = 1 << 20
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def tar(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def write(layout: pathlib.Path, media_type: str, content: bytes) -> dict:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def main(directory: str, size: int = 64, seed: int = 1) -> None:
    layout = pathlib.Path(directory)
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed)
    tars = [
        tar("hello.txt", b"hello\n" * seed),
        tar("noise", noise.randbytes(MIB)),
        tar("large", bytes(size // 2 * MIB) + noise.randbytes(size // 2 * MIB)),
    ]
    # Level 0: gzip by name, since some clients compress plain tars on their way, and as large on the wire as it is here.
    layers = [write(layout, LAYER, gzip.compress(t, 0, mtime=0)) for t in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(t).hexdigest() for t in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": write(layout, "application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": layers,
    }
    entry = write(layout, manifest["mediaType"], json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


main(sys.argv[1], *map(int, sys.argv[2:]))
