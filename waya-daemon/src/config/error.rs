//! What can be wrong with what the process is told, in words that name the place.

use std::path::PathBuf;

use crate::net::{BadProxy, Proxy};

/// The start is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, though it was asked for, or cannot be read.
    #[error("cannot read the config file {path}: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// `FILE:LINE`.
        place: String,
        /// What the parser said.
        message: String,
    },
    /// A key nobody reads.
    #[error("{place}: unknown key {key:?}{hint}")]
    UnknownKey {
        /// `FILE:LINE`.
        place: String,
        /// The key.
        key: String,
        /// What may have been meant.
        hint: String,
    },
    /// A value that does not fit.
    #[error("{place}: {key} = {value:?}: expected {expected}")]
    Value {
        /// `FILE:LINE`, a flag or a variable.
        place: String,
        /// The key.
        key: String,
        /// What was found.
        value: String,
        /// What would fit.
        expected: String,
    },
    /// A proxy that is none. The value is left out: it may hold a password.
    #[error("{place}: {key} (not shown, for it may hold a password): {cause}; expected {}", Proxy::EXPECTED)]
    Proxy {
        /// `FILE:LINE` or a variable.
        place: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        cause: BadProxy,
    },
    /// A profile's name goes into paths.
    #[error("{place}: {name:?} is no profile name: use letters, digits, - and _, at most 32")]
    Profile {
        /// A flag or a variable.
        place: String,
        /// What was found.
        name: String,
    },
    /// No home folder, hence no default places.
    #[error("there is no home folder to put the data in; give --data-dir")]
    NoHome,
    /// A relative path with no current folder to start from.
    #[error("cannot make {path} absolute: {cause}")]
    NoCurrentFolder {
        /// The path.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A variable whose value is not UTF-8.
    #[error("environment variable {0} is not valid UTF-8")]
    NotUnicode(String),
}
