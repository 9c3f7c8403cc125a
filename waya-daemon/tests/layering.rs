//! The direction of the arrows: reads every `crate::…` path in the sources and fails on one that must not be.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who may import whom, `(module, what it may name)`; the module itself is always allowed, anything absent is not.
const ALLOWED: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("clock", &["model"]),
    ("bus", &["model"]),
    ("store", &["model"]),
    ("net", &[]),
    ("media", &["model", "net", "preview"]),
    ("preview", &["net"]),
    ("session", &["model", "clock", "data_dir", "net"]),
    // What `network.*` may say is read by those who hold to it.
    ("settings", &["model", "net", "store"]),
    // Rows and their files; the HTTP door hands over what passed.
    ("requests", &["model"]),
    ("queue", &["model", "clock", "bus", "store", "media", "session", "settings"]),
    // The journal says what is to be fetched, the session where from, the setting whether.
    ("intake", &["model", "clock", "store", "media", "session", "settings"]),
    // Of `session` the link alone: who is linked stands in each delivery, and an alert may be about it.
    ("deliver", &["model", "clock", "store", "net", "session", "settings"]),
    // The settings say which words it listens for.
    ("dispatch", &["model", "clock", "bus", "store", "queue", "session", "settings"]),
    // `deliver` as `queue`: use cases steer it, and what it tells looks as answers do. Of `intake` the one way to load a
    // file.
    (
        "api",
        &["model", "clock", "bus", "store", "media", "queue", "session", "settings", "deliver", "intake", "requests"],
    ),
    ("http", &["api", "model"]),
    ("grpc", &["api", "model"]),
    ("args", &[]),
    ("config", &["args", "net", "settings"]),
    ("logging", &["config"]),
    ("data_dir", &["model"]),
    // The only wiring.
    ("account", &["*"]),
    ("daemon", &["*"]),
    ("repair", &["config", "data_dir", "model", "store"]),
    ("process", &["config", "daemon", "logging", "model", "repair"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The modules a text names by `crate::`, also in braces (`use crate::{a, b::C};`).
fn named(text: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => modules.push(std::mem::take(&mut item)),
                        _ if depth == 0 => item.push(c),
                        _ => {}
                    }
                }
                modules.push(item);
            }
            None => modules.push(rest.to_owned()),
        }
    }
    let word = |text: String| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    modules.into_iter().map(word).filter(|word| word.chars().next().is_some_and(char::is_lowercase)).collect()
}

/// Tests stand on whatever they need.
fn is_test(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_str().unwrap();
    let folders = ["tests", "conformance"];
    name == "testing.rs"
        || name.ends_with("tests.rs")
        || name == "conformance.rs"
        || file.components().any(|part| folders.contains(&part.as_os_str().to_str().unwrap()))
}

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut wrong = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(may) = allowed.get(module) else {
            wrong.push(format!("{}: module {module} has no row in ALLOWED", relative.display()));
            continue;
        };
        if is_test(relative) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for name in named(code) {
            if name != module && !may.contains(&name.as_str()) && !may.contains(&"*") {
                wrong.push(format!("{}: {module} must not import {name}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_adapter_names_the_client_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let wrong: Vec<String> = files
        .iter()
        .filter(|file| !file.to_str().unwrap().contains("session/whatsapp_rs"))
        .filter(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or("");
                ["whatsapp_rust::", "wacore::", "wacore_binary::", "waproto::"].iter().any(|name| code.contains(name))
            })
        })
        .map(|file| file.display().to_string())
        .collect();
    assert!(wrong.is_empty(), "the client crate is named outside its adapter: {wrong:?}");
}
