//! Where things are when nobody says otherwise.

use std::path::{Path, PathBuf};

use super::ConfigError;

/// The platform's folders for this program; the profile's own are below them.
fn folders() -> Result<directories::ProjectDirs, ConfigError> {
    directories::ProjectDirs::from("", "", "waya").ok_or(ConfigError::NoHome)
}

/// `<data>/waya/<profile>`.
pub(super) fn data_dir(profile: &str) -> Result<PathBuf, ConfigError> {
    Ok(folders()?.data_dir().join(profile))
}

/// `<config>/waya/<profile>.toml`, when there is a home folder at all.
pub(super) fn config_file(profile: &str) -> Option<PathBuf> {
    folders().ok().map(|folders| folders.config_dir().join(format!("{profile}.toml")))
}

/// The folder as an absolute path, since the daemon writes it down for the command line.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|cause| ConfigError::NoCurrentFolder { path: path.to_owned(), cause })
}

/// A profile's name becomes a file's name.
pub(super) fn profile(name: &str, place: &str) -> Result<String, ConfigError> {
    let fits = !name.is_empty()
        && name.len() <= 32
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits {
        Ok(name.to_owned())
    } else {
        Err(ConfigError::Profile { place: place.to_owned(), name: name.to_owned() })
    }
}
