//! The emulator plays the other side: it knows nothing of ours. Reads the sources and fails on a name that must not be
//! there.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// What only the binary may name.
const OURS: [&str; 3] = ["waya_daemon", "waya_proto", "waya_cli"];
/// The binary's own files.
const BINARY: [&str; 6] = ["args.rs", "grpc.rs", "main.rs", "own.rs", "serve.rs", "with_daemon.rs"];

/// Every source below a folder, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn emulator_and_people_name_no_crate_of_ours() {
    let root = root();
    let library: Vec<_> =
        sources(&root).into_iter().filter(|(path, _)| !BINARY.iter().any(|file| *path == root.join(file))).collect();
    let emulator = library.iter().filter(|(path, _)| path.starts_with(root.join("emulator"))).count();
    assert!(emulator > 50, "the sources were not found");
    let wrong: Vec<_> = library.iter().filter(|(_, text)| OURS.iter().any(|name| text.contains(name))).collect();
    assert!(wrong.is_empty(), "not for the library: {:?}", wrong.iter().map(|(path, _)| path).collect::<Vec<_>>());
    // What only the binary names is there at all.
    assert!(sources(&root).iter().any(|(_, text)| text.contains(OURS[0])));
}

#[test]
fn the_emulator_names_nothing_of_this_crate_but_itself() {
    for (path, text) in sources(&root().join("emulator")) {
        let others =
            text.match_indices("crate::").filter(|(at, found)| !text[at + found.len()..].starts_with("emulator"));
        let lines: Vec<_> = others.map(|(at, _)| text[at..].lines().next().unwrap_or_default()).collect();
        assert!(lines.is_empty(), "{}: {lines:?}", path.display());
    }
}
