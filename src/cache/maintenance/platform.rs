//! Platforms, by which images are chosen from an index (image-spec image-index.md, "platform").

use std::fmt;

use serde_json::Value;

use crate::proto::Digest;

/// A platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// The platforms that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Platforms {
    /// Every platform, and attestations, which an index names as well.
    All,
    /// This machine's, where the operator names none.
    Here(Platform),
    /// These.
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
    pub(crate) platform: Declared,
}

/// The platform that an index declares for one of its manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Nothing at all.
    Nothing,
    /// Half a platform, an unknown one, or that it is an attestation about another manifest: it is never chosen for a
    /// platform.
    Unusable,
    /// This platform.
    Platform(Platform),
}

impl Declared {
    /// Reads a descriptor of an index.
    pub(crate) fn of(descriptor: &Value) -> Self {
        let kind = descriptor.get("annotations").and_then(|all| all.get("vnd.docker.reference.type"));
        match descriptor.get("platform") {
            _ if kind.is_some_and(|kind| kind == "attestation-manifest") => Self::Unusable,
            None | Some(Value::Null) => Self::Nothing,
            Some(platform) => Platform::of(platform).map_or(Self::Unusable, Self::Platform),
        }
    }

    fn platform(&self) -> Option<&Platform> {
        match self {
            Self::Platform(platform) => Some(platform),
            Self::Nothing | Self::Unusable => None,
        }
    }
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
        Ok(Self::new(os, architecture, variant))
    }

    /// Reads the platform of an index's entry, or of an image's configuration. `None` for half of one, and for an unknown
    /// one.
    pub(crate) fn of(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name)?.as_str().filter(|text| !text.is_empty());
        let known = |text: &&str| *text != "unknown";
        Some(Self::new(text("os").filter(known)?, text("architecture").filter(known)?, text("variant")))
    }

    fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" => "386",
            other => other,
        };
        let variant = variant.map(str::to_owned);
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// Returns the number of the variant, for architectures of which a higher variant runs images of a lower one: v7 runs v6.
    fn level(&self) -> Option<u8> {
        match (self.variant.as_deref().filter(|variant| !variant.is_empty()), self.architecture.as_str()) {
            (Some(variant), "arm" | "arm64" | "amd64") => variant.trim_start_matches('v').parse().ok(),
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
            return Ok(Self::Here(Platform::here()));
        }
        if texts.iter().any(|text| text.as_ref() == "all") {
            return Ok(Self::All);
        }
        texts.iter().map(|text| Platform::parse(text.as_ref())).collect::<Result<_, _>>().map(Self::These)
    }

    /// Returns the platforms that are wanted; none where all are.
    pub(crate) fn wanted(&self) -> &[Platform] {
        match self {
            Self::All => &[],
            Self::Here(platform) => std::slice::from_ref(platform),
            Self::These(platforms) => platforms,
        }
    }

    /// Returns those of an index's manifests that are meant, in its order. Where none of them says anything of a platform,
    /// there is nothing to choose between: all.
    pub(crate) fn choose(&self, listed: &[Listed]) -> Choice {
        let nothing_said = listed.iter().all(|one| one.platform == Declared::Nothing);
        if *self == Self::All || nothing_said {
            let chosen = listed.iter().map(|one| one.digest.clone()).collect();
            return Choice { chosen, missing: Vec::new() };
        }
        let mut chosen = vec![false; listed.len()];
        let mut missing = Vec::new();
        for platform in self.wanted() {
            let fitness = |one: &Listed| platform.fitness(one.platform.platform()?);
            let Some(best) = listed.iter().filter_map(fitness).max() else {
                missing.push(platform.clone());
                continue;
            };
            for (place, _) in listed.iter().enumerate().filter(|(_, one)| fitness(one) == Some(best)) {
                chosen[place] = true;
            }
        }
        let chosen = listed.iter().zip(chosen).filter(|(_, chosen)| *chosen);
        Choice { chosen: chosen.map(|(one, _)| one.digest.clone()).collect(), missing }
    }

    /// Returns the wanted platforms for which an image that is for one alone, `own`, is not. Where the operator has named
    /// none, such an image is what there is.
    pub(crate) fn unsuited(&self, own: &Platform) -> Vec<Platform> {
        match self {
            Self::All | Self::Here(_) => Vec::new(),
            Self::These(wanted) => wanted.iter().filter(|one| one.fitness(own).is_none()).cloned().collect(),
        }
    }
}

/// The manifests of an index that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) chosen: Vec<Digest>,
    /// Wanted platforms that the index has nothing for.
    pub(crate) missing: Vec<Platform>,
}

/// Returns a text that names a missing platform, and those that the index has.
pub(crate) fn missing(wanted: &Platform, listed: &[Listed]) -> String {
    let known: Vec<String> =
        listed.iter().filter_map(|one| one.platform.platform()).map(Platform::to_string).collect();
    match known.as_slice() {
        [] => format!("no manifest for {wanted}: no entry of the index names a platform"),
        known => format!("no manifest for {wanted}; the index has: {}", known.join(", ")),
    }
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
            platform: match *text {
                "" => Declared::Nothing,
                "?" => Declared::Unusable,
                text => Declared::Platform(Platform::parse(text).unwrap()),
            },
        };
        platforms.iter().enumerate().map(one).collect()
    }

    /// The places in the index of what is chosen, if nothing is missing.
    fn chosen(wanted: &[&str], platforms: &[&str]) -> Result<Vec<usize>, String> {
        let listed = listed(platforms);
        let place = |digest| listed.iter().position(|one| one.digest == digest).unwrap();
        let choice = Platforms::parse(wanted).unwrap().choose(&listed);
        match choice.missing.first() {
            Some(platform) => Err(missing(platform, &listed)),
            None => Ok(choice.chosen.into_iter().map(place).collect()),
        }
    }

    const ALPINE: [&str; 6] =
        ["linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/s390x", "?"];

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
    fn a_platform_that_is_not_there_spoils_no_other() {
        let listed = listed(&["linux/amd64", "?", "", "linux/arm64"]);
        let choice =
            Platforms::parse(&["linux/riscv64", "linux/arm64", "plan9/amd64"]).unwrap().choose(&listed);
        assert_eq!(choice.chosen, [listed[3].digest.clone()]);
        assert_eq!(
            choice.missing.iter().map(Platform::to_string).collect::<Vec<_>>(),
            ["linux/riscv64", "plan9/amd64"]
        );
    }

    #[test]
    fn entries_of_half_a_platform_are_never_chosen() {
        let error = chosen(&["linux/amd64"], &["?", ""]).unwrap_err();
        assert_eq!(error, "no manifest for linux/amd64: no entry of the index names a platform");
        assert_eq!(chosen(&["linux/amd64"], &["?", "linux/amd64", ""]), Ok(vec![1]));
        assert_eq!(chosen(&["all"], &["?", "linux/amd64", ""]), Ok(vec![0, 1, 2]));
    }

    #[test]
    fn the_platform_of_a_descriptor_is_read() {
        let declared = |text: &str| Declared::of(&serde_json::from_str(text).unwrap());
        let arm = Declared::Platform(Platform::parse("linux/arm/v7").unwrap());
        assert_eq!(
            declared(r#"{"platform":{"os":"linux","architecture":"arm","variant":"v7","os.version":"1"}}"#),
            arm
        );
        for unusable in [
            r#"{"platform":{}}"#,
            r#"{"platform":{"os":"linux"}}"#,
            r#"{"platform":{"os":"","architecture":"amd64"}}"#,
            r#"{"platform":{"os":"unknown","architecture":"unknown"}}"#,
            r#"{"platform":[]}"#,
            r#"{"platform":{"os":"linux","architecture":"amd64"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}"#,
        ] {
            assert_eq!(declared(unusable), Declared::Unusable, "{unusable}");
        }
        assert_eq!(
            (declared("{}"), declared(r#"{"platform":null}"#)),
            (Declared::Nothing, Declared::Nothing)
        );
    }

    #[test]
    fn an_image_for_one_platform_is_not_for_others() {
        let own = Platform::parse("linux/arm/v6").unwrap();
        let unsuited = |wanted: &[&str]| Platforms::parse(wanted).unwrap().unsuited(&own).len();
        assert_eq!([unsuited(&[]), unsuited(&["all"]), unsuited(&["linux/arm/v7"])], [0, 0, 0]);
        assert_eq!([unsuited(&["linux/arm/v5"]), unsuited(&["linux/amd64", "linux/arm"])], [1, 1]);
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
