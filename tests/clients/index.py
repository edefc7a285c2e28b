"""Makes an OCI layout of several into one image for several platforms: index.py DIR ARCHITECTURE=LAYOUT...

Each LAYOUT is one of image.py's. Its config is written anew for the architecture, and DIR gets an index with the tag `1`.
"""

import hashlib
import json
import pathlib
import shutil
import sys

INDEX = "application/vnd.oci.image.index.v1+json"


def write(layout: pathlib.Path, media_type: str, value: dict) -> dict:
    content = json.dumps(value).encode()
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def read(layout: pathlib.Path, descriptor: dict) -> dict:
    return json.loads((layout / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes())


def image(layout: pathlib.Path, architecture: str, source: pathlib.Path) -> dict:
    """Copies the layers of `source`; the descriptor of its manifest for that architecture."""
    manifest = read(source, json.loads((source / "index.json").read_text())["manifests"][0])
    for layer in manifest["layers"]:
        blob = pathlib.Path("blobs") / layer["digest"].replace(":", "/")
        shutil.copy(source / blob, layout / blob)
    config = read(source, manifest["config"]) | {"architecture": architecture}
    manifest["config"] = write(layout, manifest["config"]["mediaType"], config)
    platform = {"architecture": architecture, "os": "linux"}
    return write(layout, manifest["mediaType"], manifest) | {"platform": platform}


def main(directory: str, *images: str) -> None:
    layout = pathlib.Path(directory)
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    entries = [image(layout, name, pathlib.Path(source)) for name, source in (entry.split("=", 1) for entry in images)]
    index = write(layout, INDEX, {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
    index["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [index]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


main(*sys.argv[1:])
