//! The small image that the demo's registry holds from the start: one file, `/hello.txt`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::demo::registry;
use crate::demo::registry::{Refusal, Registry};
use crate::proto::Digest;

/// The repository that [`seed`] fills.
pub(crate) const REPOSITORY: &str = "hello";

/// The content of `/hello.txt` in the image.
pub(crate) const GREETING: &str = "Hello from dockgate.\n";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The platforms of `hello:multi`, in Go's words.
const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

/// Pushes `hello:latest` and `hello:1.0`, for this machine's platform, and `hello:multi`, an index of two.
///
/// The bytes are the same on every start, so a client that has the image already finds it unchanged.
/// Fails only when the registry has no room left.
pub fn seed(registry: &Registry) -> Result<(), Refusal> {
    let archive = tar("hello.txt", GREETING.as_bytes());
    let diff_id = registry::sha256(&archive);
    let layer = Bytes::from(gzip(&archive));
    let layer_digest = registry.push_blob(REPOSITORY, layer.clone())?;
    let mut children = Vec::new();
    for architecture in PLATFORMS {
        let config = Bytes::from(config(architecture, &diff_id).to_string());
        let config_digest = registry.push_blob(REPOSITORY, config.clone())?;
        let manifest = manifest((&config_digest, config.len()), (&layer_digest, layer.len()));
        children.push(push_platform(registry, architecture, &manifest.to_string())?);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
    registry.push_manifest(REPOSITORY, "multi", INDEX, Bytes::from(index.to_string()))?;
    Ok(())
}

/// Gives the platform's entry in the index.
fn push_platform(registry: &Registry, architecture: &str, manifest: &str) -> Result<Value, Refusal> {
    let push =
        |tag: &str| registry.push_manifest(REPOSITORY, tag, MANIFEST, Bytes::from(manifest.to_owned()));
    let digest = push(&format!("1.0-{architecture}"))?;
    if architecture == native() {
        push("latest")?;
        push("1.0")?;
    }
    let platform = json!({"architecture": architecture, "os": "linux"});
    let entry = descriptor(MANIFEST, &digest, manifest.len());
    Ok(merged(entry, "platform", platform))
}

/// Builds the image's configuration (image-spec, "Image Configuration"); a diff id is the digest of a layer before it
/// is compressed.
fn config(architecture: &str, diff_id: &Digest) -> Value {
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/hello.txt"], "Labels": {"org.opencontainers.image.title": "hello"}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id.as_str()]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "dockgate demo"}],
    })
}

fn manifest(config: (&Digest, usize), layer: (&Digest, usize)) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config.0, config.1),
        "layers": [descriptor(LAYER, layer.0, layer.1)],
    })
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest.as_str(), "size": size})
}

fn merged(mut object: Value, key: &str, value: Value) -> Value {
    object[key] = value;
    object
}

/// This machine's architecture in Go's words. Docker refuses a single manifest of another's, so a machine
/// that is neither of the two has to take `hello:multi` with a `--platform`; it gets amd64 as latest.
fn native() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

const BLOCK: usize = 512;

/// Returns a tar archive of one file, readable by all, owned by root, dated at the epoch.
fn tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = header(name, content.len()).to_vec();
    archive.extend_from_slice(content);
    let padded = archive.len().next_multiple_of(BLOCK);
    archive.resize(padded + 2 * BLOCK, 0); // two blocks of zeros end an archive
    archive
}

/// Builds a ustar header (POSIX.1-1988): fixed fields, numbers in octal, and the sum of all bytes with the sum's own
/// field blank.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    put(265, b"root");
    put(297, b"root");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// RFC 1952 around one block that is stored as it is (RFC 1951 section 3.2.4), which is right for up to 65,535
/// bytes. Some tools take every layer for a gzip, so a plain tar would not do.
fn gzip(content: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    const LAST_AND_STORED: u8 = 1;
    let length = content.len() as u16;
    let mut file = HEAD.to_vec();
    file.push(LAST_AND_STORED);
    file.extend(length.to_le_bytes());
    file.extend((!length).to_le_bytes());
    file.extend_from_slice(content);
    file.extend(crc32(content).to_le_bytes());
    file.extend(u32::from(length).to_le_bytes());
    file
}

/// Computes the CRC of RFC 1952 section 8, bit by bit: the content is small.
fn crc32(content: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !content.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeded() -> Registry {
        let registry = Registry::new();
        seed(&registry).unwrap();
        registry
    }

    #[test]
    fn the_image_is_there_under_its_tags() {
        let tags = seeded().tags(REPOSITORY);
        assert_eq!(tags, ["1.0", "1.0-amd64", "1.0-arm64", "latest", "multi"]);
    }

    #[test]
    fn the_diff_id_is_the_digest_of_the_archive_in_the_layer() {
        let registry = seeded();
        let (_, _, manifest) = registry.manifest(REPOSITORY, "latest").unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let fetch =
            |digest: &Value| registry.blob(&Digest::parse(digest.as_str().unwrap()).unwrap()).unwrap();
        let layer = fetch(&manifest["layers"][0]["digest"]);
        assert_eq!(layer.len(), manifest["layers"][0]["size"]);
        let config: Value = serde_json::from_slice(&fetch(&manifest["config"]["digest"])).unwrap();
        let archive = &layer[15..layer.len() - 8];
        assert_eq!(config["rootfs"]["diff_ids"][0], registry::sha256(archive).as_str());
        assert_eq!(&archive[BLOCK..BLOCK + GREETING.len()], GREETING.as_bytes());
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn the_archive_is_whole_blocks_and_its_sum_holds() {
        let archive = tar("hello.txt", GREETING.as_bytes());
        assert_eq!(archive.len(), 4 * BLOCK);
        let written = u32::from_str_radix(std::str::from_utf8(&archive[148..154]).unwrap(), 8).unwrap();
        let others: u32 =
            archive[..148].iter().chain(&archive[156..BLOCK]).map(|byte| u32::from(*byte)).sum();
        assert_eq!(written, others + 8 * u32::from(b' '));
    }

    #[test]
    fn the_bytes_are_the_same_on_every_start() {
        let digest = |registry: &Registry| registry.manifest(REPOSITORY, "multi").unwrap().0;
        assert_eq!(digest(&seeded()), digest(&seeded()));
    }
}
