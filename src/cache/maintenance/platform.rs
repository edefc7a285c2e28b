//! Platforms, by which images are chosen from an index (image-spec image-index.md, "platform").

use std::fmt;

use serde::Deserialize;

use crate::proto::Digest;

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

/// The platforms that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Platforms {
    /// Every platform, and attestations, which an index names as well.
    All,
    /// The named platforms.
    These(Vec<Platform>),
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no platform; write for example linux/amd64, linux/arm/v7 or all")]
pub(crate) struct PlatformError(String);

/// A manifest in an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) digest: Digest,
    pub(crate) platform: Option<Platform>,
}

impl Platform {
    /// Returns this machine's platform. Its OS is always `linux`: elsewhere containers run in a Linux virtual machine.
    pub(crate) fn here() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        let variant = variant.map(str::to_owned);
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Parses `OS/ARCH[/VARIANT]`. Accepts the architecture names of `uname -m` as well.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub(crate) fn parse(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let good = |part: &&str| !part.is_empty() && part.bytes().all(is_word);
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        if !parts.iter().all(good) {
            return Err(PlatformError(text.to_owned()));
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" => "386",
            other => other,
        };
        let variant = variant.map(str::to_owned);
        Ok(Self { os: os.to_owned(), architecture: architecture.to_owned(), variant })
    }

    /// Returns the number of the variant, for architectures of which a higher variant runs images of a lower one: v7 runs v6.
    fn level(&self) -> Option<u8> {
        match (self.variant.as_deref().filter(|variant| !variant.is_empty()), self.architecture.as_str()) {
            (Some(variant), "arm" | "arm64" | "amd64") => variant.strip_prefix('v')?.parse().ok(),
            (None, "arm") => Some(7),
            (None, "arm64") => Some(8),
            (None, "amd64") => Some(1),
            _ => None,
        }
    }

    /// Returns how well an image for `other` runs on this platform, higher being better; none if it does not run.
    fn fitness(&self, other: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&other.os, &other.architecture) {
            return None;
        }
        match (self.level(), other.level()) {
            (Some(here), Some(there)) => (there <= here).then_some(there),
            _ => (self.variant.is_none() || self.variant == other.variant).then_some(0),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl Platforms {
    /// Parses a list of platforms. An empty list means this machine's platform, and `all` anywhere in the list every
    /// platform.
    ///
    /// # Errors
    /// [`PlatformError`] for the first text that is no platform.
    pub(crate) fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, PlatformError> {
        if texts.is_empty() {
            return Ok(Self::These(vec![Platform::here()]));
        }
        if texts.iter().any(|text| text.as_ref() == "all") {
            return Ok(Self::All);
        }
        texts.iter().map(|text| Platform::parse(text.as_ref())).collect::<Result<_, _>>().map(Self::These)
    }

    /// Returns the index's manifests for the wanted platforms, in the order of the index. If no manifest names a platform,
    /// returns all of them.
    ///
    /// # Errors
    /// A text that names the missing platform, and those that the index has.
    pub(crate) fn choose(&self, listed: &[Listed]) -> Result<Vec<Digest>, String> {
        let wanted = match self {
            Self::These(wanted) if listed.iter().any(|one| one.platform.is_some()) => wanted,
            _ => return Ok(listed.iter().map(|one| one.digest.clone()).collect()),
        };
        let mut chosen = vec![false; listed.len()];
        for platform in wanted {
            let fitness = |one: &Listed| platform.fitness(one.platform.as_ref()?);
            let best = listed.iter().filter_map(fitness).max();
            let best = best.ok_or_else(|| missing(platform, listed))?;
            for (place, _) in listed.iter().enumerate().filter(|(_, one)| fitness(one) == Some(best)) {
                chosen[place] = true;
            }
        }
        let chosen = listed.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        Ok(chosen.map(|(one, _)| one.digest.clone()).collect())
    }
}

fn missing(wanted: &Platform, listed: &[Listed]) -> String {
    let known = listed.iter().filter_map(|one| one.platform.as_ref()).filter(|one| one.os != "unknown");
    let known: Vec<String> = known.map(Platform::to_string).collect();
    format!("no manifest for {wanted}; the index has: {}", known.join(", "))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(platforms: &[&str]) -> Vec<Listed> {
        let one = |(place, text): (usize, &&str)| Listed {
            digest: Digest::parse(&format!("sha256:{place:064x}")).unwrap(),
            platform: (!text.is_empty()).then(|| Platform::parse(text).unwrap()),
        };
        platforms.iter().enumerate().map(one).collect()
    }

    /// Returns the positions of the chosen manifests in the index.
    fn chosen(wanted: &[&str], platforms: &[&str]) -> Result<Vec<usize>, String> {
        let listed = listed(platforms);
        let place = |digest| listed.iter().position(|one| one.digest == digest).unwrap();
        Ok(Platforms::parse(wanted).unwrap().choose(&listed)?.into_iter().map(place).collect())
    }

    const ALPINE: [&str; 6] =
        ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/s390x", "unknown/unknown"];

    #[test]
    fn the_image_of_a_platform_is_chosen() {
        assert_eq!(chosen(&["linux/amd64"], &ALPINE), Ok(vec![0]));
        assert_eq!(chosen(&["linux/x86_64"], &ALPINE), Ok(vec![0]));
        assert_eq!(chosen(&["linux/arm64"], &ALPINE), Ok(vec![3]));
        assert_eq!(chosen(&["linux/arm64", "linux/amd64"], &ALPINE), Ok(vec![0, 3]));
        assert_eq!(chosen(&["all"], &ALPINE), Ok(vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn an_older_variant_will_do_and_a_newer_one_will_not() {
        assert_eq!(chosen(&["linux/arm"], &ALPINE), Ok(vec![2]));
        assert_eq!(chosen(&["linux/arm/v6"], &ALPINE), Ok(vec![1]));
        assert_eq!(chosen(&["linux/arm/v7"], &ALPINE[..2]), Ok(vec![1]));
        assert!(chosen(&["linux/arm/v5"], &ALPINE).is_err());
        assert_eq!(chosen(&["linux/amd64/v3"], &["linux/amd64", "linux/amd64/v2"]), Ok(vec![1]));
    }

    #[test]
    fn a_platform_that_is_not_there_is_named_with_those_that_are() {
        let error = chosen(&["linux/riscv64"], &ALPINE[..2]).unwrap_err();
        assert_eq!(error, "no manifest for linux/riscv64; the index has: linux/amd64, linux/arm/v6");
    }

    #[test]
    fn all_versions_of_windows_are_one_platform() {
        assert_eq!(
            chosen(&["windows/amd64"], &["linux/amd64", "windows/amd64", "windows/amd64"]),
            Ok(vec![1, 2])
        );
    }

    #[test]
    fn an_index_of_no_platforms_leaves_no_choice() {
        assert_eq!(chosen(&["linux/amd64"], &["", ""]), Ok(vec![0, 1]));
    }

    #[test]
    fn malformed_platforms_are_refused() {
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "all/"] {
            assert!(Platform::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(Platform::parse(&Platform::here().to_string()), Ok(Platform::here()));
    }
}
