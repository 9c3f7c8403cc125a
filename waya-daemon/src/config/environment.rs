//! The environment: `WAYA_<SECTION>_<KEY>`.

use std::path::PathBuf;

use super::{Found, keys};

/// For the callers of the HTTP API, who often live in the same environment.
const API_KEY: &str = "WAYA_API_KEY";

/// What the environment says.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) profile: Option<String>,
    pub(super) config: Option<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) found: Vec<Found>,
    pub(super) warnings: Vec<String>,
}

/// Sorts the `WAYA_*` variables; empty ones count as absent.
pub(super) fn read(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in variables {
        if !name.starts_with("WAYA_") || value.is_empty() {
            continue;
        }
        match name.as_str() {
            "WAYA_PROFILE" => environment.profile = Some(value),
            "WAYA_CONFIG" => environment.config = Some(value.into()),
            "WAYA_DATA_DIR" => environment.data_dir = Some(value.into()),
            "WAYA_SOCKET" => environment.socket = Some(value.into()),
            API_KEY => {}
            other => match keys::names().find(|key| variable(key) == other) {
                Some(key) => environment.found.push(Found {
                    key: key.to_owned(),
                    value,
                    origin: format!("environment variable {name}"),
                }),
                None => environment.warnings.push(format!("environment variable {name} is not one of ours; ignored")),
            },
        }
    }
    environment
}

/// `queue.delay` → `WAYA_QUEUE_DELAY`.
fn variable(key: &str) -> String {
    format!("WAYA_{}", key.replace('.', "_").to_ascii_uppercase())
}
