//! Where the daemon and its command line meet: the rules for profiles, data folders and the socket.
//!
//! Both sides must come to the same paths, so they are written once. Reads nothing but the home folder's place.

use std::path::{Path, PathBuf};

/// The profile when none is named.
pub const DEFAULT_PROFILE: &str = "default";
/// The longest path a Unix socket can have, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;
/// The file in the data folder that holds the path of the socket in use.
pub const SOCKET_PATH_FILE: &str = "socket-path";

/// Whether a text can be a profile's name: it becomes a file's name.
#[must_use]
pub fn is_profile(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 32
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// `<data>/waya/<profile>`; `None` without a home folder.
#[must_use]
pub fn data_dir(profile: &str) -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "waya").map(|folders| folders.data_dir().join(profile))
}

/// The places of a profile's socket when none is given, in the order both sides try them.
///
/// `runtime_dir` is `$XDG_RUNTIME_DIR` (an empty or relative one counts as unset), `uid` the user's number.
#[must_use]
pub fn sockets(profile: &str, runtime_dir: Option<&Path>, uid: u32, data_dir: Option<&Path>) -> Vec<PathBuf> {
    let file = format!("{profile}.sock");
    let mut places: Vec<PathBuf> = Vec::with_capacity(4);
    places.extend(runtime_dir.filter(|dir| dir.is_absolute()).map(|dir| dir.join("waya").join(&file)));
    let session = PathBuf::from(format!("/run/user/{uid}/waya")).join(&file);
    if !places.contains(&session) {
        places.push(session);
    }
    places.push(Path::new("/run/waya").join(&file));
    places.extend(data_dir.map(|dir| dir.join("waya.sock")));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(places: &[PathBuf]) -> Vec<&str> {
        places.iter().filter_map(|path| path.to_str()).collect()
    }

    #[test]
    fn the_places_come_in_order() {
        let places = sockets("work", Some(Path::new("/tmp/run")), 1000, Some(Path::new("/data/work")));
        assert_eq!(
            shown(&places),
            ["/tmp/run/waya/work.sock", "/run/user/1000/waya/work.sock", "/run/waya/work.sock", "/data/work/waya.sock"]
        );
    }

    #[test]
    fn an_unset_or_usual_runtime_folder_gives_no_place_twice() {
        let usual = ["/run/user/7/waya/default.sock", "/run/waya/default.sock"];
        assert_eq!(shown(&sockets("default", None, 7, None)), usual);
        assert_eq!(shown(&sockets("default", Some(Path::new("")), 7, None)), usual);
        assert_eq!(shown(&sockets("default", Some(Path::new("/run/user/7")), 7, None)), usual);
    }

    #[test]
    fn a_profile_cannot_leave_its_folder() {
        assert!(is_profile("shop-2_b"));
        for name in ["", "..", "a/b", "a b", "ü", &"x".repeat(33)] {
            assert!(!is_profile(name), "{name}");
        }
    }
}
