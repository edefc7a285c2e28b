//! The configuration file: where it is looked for, and its text.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::environment::Environment;
use crate::config::limits::CONFIGURATION_BYTES;
use crate::config::mistake::{ConfigErrors, Mistake, Place};

/// A configuration file, read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The default paths of the configuration.
pub(super) const PLACES: [&str; 2] = ["dockgate.toml", "/etc/dockgate/dockgate.toml"];

/// Returns the file that is named, by the command line or by `DOCKGATE_CONFIG`, else the first of [`PLACES`] that is
/// there.
pub(super) fn find(named: Option<&Path>, environment: &Environment) -> Result<Option<Source>, ConfigErrors> {
    let variable = environment.get("DOCKGATE_CONFIG").filter(|value| !value.is_empty());
    let found = || PLACES.iter().map(Path::new).find(|path| path.exists());
    let path = named.or_else(|| variable.map(Path::new)).or_else(found);
    path.map(Source::read).transpose()
}

impl Source {
    /// Returns the folder that relative paths in it begin at.
    pub(super) fn folder(&self) -> PathBuf {
        self.path.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let wrong = |text| {
            let place = Place::File(path.display().to_string().into());
            ConfigErrors::sorted(vec![Mistake { place, key: String::new(), text }])
        };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(CONFIGURATION_BYTES + 1).read_to_string(&mut text))
            .map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if text.len() as u64 > CONFIGURATION_BYTES {
            return Err(wrong(format!("is longer than {CONFIGURATION_BYTES} bytes")));
        }
        Ok(Self { path: path.to_path_buf(), text })
    }
}
