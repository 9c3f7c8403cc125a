//! The socket's file: bound so that nobody else can ever connect, replaced only when stale, removed at the end.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::Stream;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};
use waya_proto::paths::MAX_SOCKET_PATH;

/// How many clients may wait to be let in.
const BACKLOG: i32 = 1024;
/// How long to leave the listener alone when the system has no more files to give.
const REST: Duration = Duration::from_millis(50);

/// Who may use the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Permission bits of the file. Beyond `0600`, the bits alone decide who may connect.
    pub mode: u32,
    /// The group the file belongs to, by name or number; absent leaves the process's own.
    pub group: Option<String>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { mode: 0o600, group: None }
    }
}

/// The socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The system has a limit.
    #[error(
        "the socket's path has {bytes} bytes, at most {MAX_SOCKET_PATH} fit: {path}; give a shorter one with --socket"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Somebody answers there.
    #[error("another daemon answers on the socket {0}; stop it, or use another --profile or --socket")]
    InUse(PathBuf),
    /// Not a socket at all.
    #[error("{0} is in the way and is no socket; move it, or give another path with --socket")]
    InTheWay(PathBuf),
    /// No such group.
    #[error("there is no group {0:?} for the socket; give another name, or a number, in socket.group")]
    NoGroup(String),
    /// The system refused.
    #[error("cannot bind the socket {path}: {cause}; check the folder's owner and permissions, or give --socket PATH")]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// A socket that clients can connect to already; they wait until it is served. Its file goes when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: StdListener,
    file: SocketFile,
    /// Only this user and root are let in.
    private: bool,
}

/// Binds `path`. A live socket is never replaced; one that refuses connections is.
///
/// # Errors
/// [`SocketError`] says what to do.
pub fn bind(path: &Path, options: &SocketOptions) -> Result<BoundSocket, SocketError> {
    let bytes = path.as_os_str().len();
    if bytes > MAX_SOCKET_PATH {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes });
    }
    let io = |cause| SocketError::Io { path: path.to_owned(), cause };
    let group = options.group.as_deref().map(group_id).transpose()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
        _ => {}
    }
    // Of two daemons that find the same stale socket, one looks, removes and binds before the other looks.
    let turn = File::open(folder).map_err(io)?;
    turn.lock().map_err(io)?;
    remove_stale(path)?;

    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(io)?;
    socket.bind(&SockAddr::unix(path).map_err(io)?).map_err(io)?;
    let file = SocketFile::new(path).map_err(io)?;
    // Until it listens nobody can connect, whatever the umask left open.
    fs::set_permissions(path, Permissions::from_mode(options.mode)).map_err(io)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(io)?;
    }
    socket.listen(BACKLOG).map_err(io)?;
    socket.set_nonblocking(true).map_err(io)?;
    let listener = StdListener::from(OwnedFd::from(socket));
    let for_others = options.mode & 0o077;
    Ok(BoundSocket { listener, file, private: for_others == 0 })
}

/// Makes room where nobody answers any more.
fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let io = |cause| SocketError::Io { path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(SocketError::InTheWay(path.to_owned())),
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(io),
        // Too busy to take another client is alive too.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(io(error)),
    }
}

/// A group's number, from `/etc/group` when it is a name.
fn group_id(group: &str) -> Result<u32, SocketError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    number.ok_or_else(|| SocketError::NoGroup(group.to_owned()))
}

/// The file, removed when dropped, unless somebody else's stands there by then.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}

impl BoundSocket {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The clients that may come in, one after the other. Dropped, nobody can connect any more, and the file is gone.
    pub(super) fn into_clients(self) -> io::Result<impl Stream<Item = Result<UnixStream, io::Error>>> {
        let listener = UnixListener::from_std(self.listener)?;
        let private = self.private;
        // In this order, so that the file never outlives the listener as something to wait at.
        let state = (listener, self.file);
        Ok(futures_util::stream::unfold(state, move |state| async move {
            let client = accept(&state.0, private).await;
            Some((Ok(client), state))
        }))
    }
}

/// The next client that may come in.
async fn accept(listener: &UnixListener, private: bool) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((client, _)) if may_enter(&client, private) => return client,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "no client could be let in");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

fn may_enter(client: &UnixStream, private: bool) -> bool {
    if !private {
        return true;
    }
    match client.peer_cred() {
        Ok(peer) if is_allowed(peer.uid(), rustix::process::geteuid().as_raw()) => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "a client of another user was turned away");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "a client that nobody can tell the user of was turned away");
            false
        }
    }
}

const fn is_allowed(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_socket_is_private_unless_widened_and_goes_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/waya.sock");
        let bound = bind(&path, &SocketOptions::default()).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(bound.private);
        StdStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());

        let own_group = rustix::process::getgid().as_raw();
        let options = SocketOptions { mode: 0o660, group: Some(own_group.to_string()) };
        let bound = bind(&path, &options).unwrap();
        assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (0o660, own_group));
        assert!(!bound.private);
    }

    #[test]
    fn a_live_socket_is_kept_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waya.sock");
        let live = bind(&path, &SocketOptions::default()).unwrap();
        let refused = bind(&path, &SocketOptions::default()).unwrap_err();
        assert!(matches!(&refused, SocketError::InUse(found) if *found == path), "{refused}");
        StdStream::connect(&path).unwrap();
        drop(live);

        // What a killed daemon leaves behind.
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists() && StdStream::connect(&path).is_err());
        let _bound = bind(&path, &SocketOptions::default()).unwrap();
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn somebody_elses_socket_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waya.sock");
        let bound = bind(&path, &SocketOptions::default()).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _other = StdListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn of_many_that_find_a_stale_socket_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("waya.sock");
        drop(StdListener::bind(&path).unwrap());
        let bound: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| bind(&path, &SocketOptions::default()))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|one| one.is_ok()).count(), 1);
        StdStream::connect(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_bound_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path, group: Option<&str>| {
            let options = SocketOptions { group: group.map(str::to_owned), ..SocketOptions::default() };
            bind(path, &options).unwrap_err().to_string()
        };
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        assert!(error(&file, None).contains("is in the way and is no socket"));
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        let long = folder.path().join("x".repeat(107));
        assert!(error(&long, None).contains("at most 107 fit"));
        assert!(error(&folder.path().join("no/such/waya.sock"), None).starts_with("cannot bind the socket"));
        assert!(error(&folder.path().join("a.sock"), Some("no-such-group")).contains("socket.group"));
    }

    #[test]
    fn only_the_same_user_and_root_come_in() {
        assert!(is_allowed(1000, 1000));
        assert!(is_allowed(0, 1000));
        assert!(!is_allowed(1001, 1000));
        assert!(!is_allowed(1000, 0));
    }
}
