//! The config file: TOML, sections one level deep, every value with its line.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Found, places};

/// Reads the given file, or the profile's own if there is one.
pub(super) fn read(given: Option<&PathBuf>, profile: &str) -> Result<Vec<Found>, ConfigError> {
    let path = match given {
        Some(path) => path.clone(),
        None => match places::config_file(profile).filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(Vec::new()),
        },
    };
    let text = std::fs::read_to_string(&path).map_err(|cause| ConfigError::Unreadable { path: path.clone(), cause })?;
    parse(&path, &text)
}

/// All values of a file, in no particular order.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Found>, ConfigError> {
    let place = |span: Range<usize>| {
        let before = text.get(..span.start).unwrap_or(text);
        format!("{}:{}", path.display(), before.bytes().filter(|b| *b == b'\n').count() + 1)
    };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: place(error.span().unwrap_or(0..0)),
        message: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let origin = place(name.span());
        match value.get_ref() {
            DeValue::Table(section) => {
                for (key, value) in section {
                    let key_name = format!("{}.{}", name.get_ref(), key.get_ref());
                    found.push(entry(key_name, value.get_ref(), place(key.span()))?);
                }
            }
            value => found.push(entry(name.get_ref().to_string(), value, origin)?),
        }
    }
    Ok(found)
}

fn entry(key: String, value: &DeValue<'_>, origin: String) -> Result<Found, ConfigError> {
    match scalar(value) {
        Some(value) => Ok(Found { key, value, origin }),
        None => Err(ConfigError::Value {
            place: origin,
            key,
            value: value.type_str().to_owned(),
            expected: "a string, a number, true, false or a list of them; sections are one level deep".to_owned(),
        }),
    }
}

/// The value as the environment would write it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(|item| scalar(item.get_ref())).collect();
            Some(items?.join(","))
        }
        DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}
