//! Where things are when nobody says otherwise.

use std::path::{Path, PathBuf};

use waya_proto::paths;

use super::ConfigError;

/// `<data>/waya/<profile>`.
pub(super) fn data_dir(profile: &str) -> Result<PathBuf, ConfigError> {
    paths::data_dir(profile).ok_or(ConfigError::NoHome)
}

/// `<config>/waya/<profile>.toml`, when there is a home folder at all.
pub(super) fn config_file(profile: &str) -> Option<PathBuf> {
    let folders = directories::ProjectDirs::from("", "", "waya")?;
    Some(folders.config_dir().join(format!("{profile}.toml")))
}

/// The folder as an absolute path, since the daemon writes it down for the command line.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|cause| ConfigError::NoCurrentFolder { path: path.to_owned(), cause })
}

/// A profile's name becomes a file's name.
pub(super) fn profile(name: &str, place: &str) -> Result<String, ConfigError> {
    if paths::is_profile(name) {
        Ok(name.to_owned())
    } else {
        Err(ConfigError::Profile { place: place.to_owned(), name: name.to_owned() })
    }
}
