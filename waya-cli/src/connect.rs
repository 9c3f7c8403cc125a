//! Finds the daemon's socket and connects to it, or says where it looked and how to start one.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use waya_proto::paths;

use crate::args::GlobalArgs;
use crate::error::CliError;
use crate::exit_code::ExitCode;

/// The longest answer, in bytes. The daemon is the user's own: this is against accidents, and far above the thousand
/// longest texts that one page may hold.
pub const MAX_ANSWER: usize = 1 << 30;

/// Where the daemon may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    profile: String,
    /// The socket as the user gave it.
    socket: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    uid: u32,
    data_dir: Option<PathBuf>,
    /// The user named the data folder: then the daemon on it is meant, and no other of the same profile.
    data_dir_given: bool,
}

impl Places {
    /// From flags and environment; empty variables count as unset.
    pub fn new(global: &GlobalArgs, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, CliError> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let profile = match (&global.profile, variable("WAYA_PROFILE")) {
            (Some(name), _) => name.clone(),
            (None, Some(name)) => name.to_string_lossy().into_owned(),
            (None, None) => paths::DEFAULT_PROFILE.to_owned(),
        };
        if !paths::is_profile(&profile) {
            return Err(CliError::usage(
                format!("{profile:?} is no profile name"),
                "use letters, digits, - and _, at most 32",
            ));
        }
        let given: Option<PathBuf> = variable("WAYA_DATA_DIR").map(PathBuf::from);
        Ok(Self {
            socket: global.socket.clone().or_else(|| variable("WAYA_SOCKET").map(PathBuf::from)),
            runtime_dir: variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            uid: rustix::process::getuid().as_raw(),
            data_dir_given: given.is_some(),
            data_dir: given.or_else(|| paths::data_dir(&profile)),
            profile,
        })
    }

    /// The sockets to try, in order.
    fn candidates(&self) -> Result<Vec<PathBuf>, CliError> {
        if let Some(socket) = &self.socket {
            check_length(socket)?;
            return Ok(vec![socket.clone()]);
        }
        let mut places = paths::sockets(&self.profile, self.runtime_dir.as_deref(), self.uid, self.data_dir.as_deref());
        let recorded = self.data_dir.as_deref().and_then(recorded);
        places.retain(|place| recorded.as_ref() != Some(place));
        match recorded {
            Some(recorded) if self.data_dir_given => places.insert(0, recorded),
            Some(recorded) => places.push(recorded),
            None => {}
        }
        // Nothing can be bound there, so there is nothing to find.
        places.retain(|place| check_length(place).is_ok());
        Ok(places)
    }

    /// Connects to the first daemon that answers.
    pub async fn connect(&self) -> Result<Channel, CliError> {
        let candidates = self.candidates()?;
        let mut denied = None;
        for path in &candidates {
            match UnixStream::connect(path).await {
                Ok(stream) => return channel(stream).await,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied = denied.or(Some(path)),
                // Nobody there, or left behind by one that is gone.
                Err(_) => {}
            }
        }
        Err(denied.map_or_else(|| self.unreachable(&candidates), |path| not_allowed(path)))
    }

    fn unreachable(&self, candidates: &[PathBuf]) -> CliError {
        let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        let profile = match self.profile.as_str() {
            paths::DEFAULT_PROFILE => String::new(),
            name => format!(" --profile {name}"),
        };
        let message = format!("no waya daemon answers; tried {}", tried.join(", "));
        let hint = format!(
            "start it with `waya-daemon{profile}` (or `waya-sandbox` to try it without a phone); \
             if it runs elsewhere, give --socket PATH or WAYA_SOCKET"
        );
        CliError::new(ExitCode::Unreachable, message, hint)
    }
}

fn not_allowed(path: &Path) -> CliError {
    CliError::new(
        ExitCode::Unreachable,
        format!("the socket {} may not be used by this user", path.display()),
        "run as the user of the daemon, or widen `socket.mode` and `socket.group` in its config",
    )
}

/// The path that the daemon on this data folder wrote down.
fn recorded(data_dir: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(data_dir.join(paths::SOCKET_PATH_FILE)).ok()?;
    let path = text.trim_end_matches('\n');
    (!path.is_empty()).then(|| PathBuf::from(path))
}

fn check_length(path: &Path) -> Result<(), CliError> {
    let bytes = path.as_os_str().len();
    if bytes <= paths::MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(CliError::usage(
        format!("the socket's path has {bytes} bytes, at most {} fit: {}", paths::MAX_SOCKET_PATH, path.display()),
        "give a shorter one with --socket",
    ))
}

/// A channel on a connection that stands already; it is not made anew when it breaks, since a command is one call.
async fn channel(stream: UnixStream) -> Result<Channel, CliError> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection is gone"));
        async move { stream }
    });
    Endpoint::from_static("http://waya").connect_with_connector(connector).await.map_err(|error| {
        CliError::new(
            ExitCode::Unreachable,
            format!("the daemon does not answer: {error}"),
            "it may be stopping; try again, and see its log",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn places(global: &GlobalArgs, variables: &[(&str, &str)]) -> Result<Places, CliError> {
        let variables: HashMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        Places::new(global, |name| variables.get(name).cloned())
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_empty_counts_as_unset() {
        let flag = GlobalArgs { socket: Some("/tmp/a.sock".into()), ..GlobalArgs::default() };
        let found = places(&flag, &[("WAYA_SOCKET", "/tmp/b.sock")]).unwrap().candidates().unwrap();
        assert_eq!(found, [PathBuf::from("/tmp/a.sock")]);
        let found = places(&GlobalArgs::default(), &[("WAYA_SOCKET", "/tmp/b.sock")]).unwrap().candidates().unwrap();
        assert_eq!(found, [PathBuf::from("/tmp/b.sock")]);
        let found =
            places(&GlobalArgs::default(), &[("WAYA_SOCKET", ""), ("WAYA_PROFILE", ""), ("WAYA_DATA_DIR", "/d")]);
        assert_eq!(found.unwrap().candidates().unwrap().last(), Some(&PathBuf::from("/d/waya.sock")));
    }

    #[test]
    fn what_the_daemon_wrote_down_is_tried_last_or_first_when_its_folder_was_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(paths::SOCKET_PATH_FILE), "/tmp/elsewhere.sock\n").unwrap();
        let mut places = places(&GlobalArgs::default(), &[("XDG_RUNTIME_DIR", "/run/x")]).unwrap();
        places.data_dir = Some(dir.path().to_owned());
        let found = places.candidates().unwrap();
        assert_eq!(found.first(), Some(&PathBuf::from("/run/x/waya/default.sock")));
        assert_eq!(found.last(), Some(&PathBuf::from("/tmp/elsewhere.sock")));
        places.data_dir_given = true;
        assert_eq!(places.candidates().unwrap().first(), Some(&PathBuf::from("/tmp/elsewhere.sock")));
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_a_clear_error() {
        let long = GlobalArgs { socket: Some(format!("/{}", "x".repeat(107)).into()), ..GlobalArgs::default() };
        let error = places(&long, &[]).unwrap().candidates().unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Usage);
        assert!(error.to_string().starts_with("the socket's path has 108 bytes, at most 107 fit: /xxx"), "{error}");
    }

    #[test]
    fn a_profile_is_no_path() {
        let global = GlobalArgs { profile: Some("../x".to_owned()), ..GlobalArgs::default() };
        assert_eq!(places(&global, &[]).unwrap_err().exit_code(), ExitCode::Usage);
        assert!(places(&GlobalArgs::default(), &[("WAYA_PROFILE", "a/b")]).is_err());
    }

    #[tokio::test]
    async fn without_a_daemon_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("none.sock");
        let global =
            GlobalArgs { socket: Some(socket.clone()), profile: Some("shop".to_owned()), ..GlobalArgs::default() };
        let error = places(&global, &[]).unwrap().connect().await.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Unreachable);
        assert!(error.to_string().contains(socket.to_str().unwrap()), "{error}");
        assert!(error.hint().unwrap().contains("`waya-daemon --profile shop`"), "{error:?}");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("stale.sock");
        drop(tokio::net::UnixListener::bind(&socket).unwrap());
        assert!(socket.exists());
        let global = GlobalArgs { socket: Some(socket), ..GlobalArgs::default() };
        let error = places(&global, &[]).unwrap().connect().await.unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Unreachable);
    }
}
