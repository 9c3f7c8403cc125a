//! The files: whole ones under their hash, and what came so far of those that are still on their way.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::emulator::lock;

/// SHA-256 of a file as it is uploaded: encrypted, with its authentication code.
pub(super) type Hash = [u8; 32];

#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    /// Whose part is being written.
    busy: Arc<Mutex<HashSet<Hash>>>,
}

/// How an upload ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Whole,
    /// The bytes are not those the hash is of; they are gone.
    WrongHash,
}

impl Files {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), busy: Arc::default() })
    }

    /// Where the whole file lies, or would.
    pub(super) fn path(&self, hash: &Hash) -> PathBuf {
        self.folder.join(URL_SAFE_NO_PAD.encode(hash))
    }

    fn part(&self, hash: &Hash) -> PathBuf {
        self.path(hash).with_extension("part")
    }

    pub(super) fn is_whole(&self, hash: &Hash) -> bool {
        self.path(hash).is_file()
    }

    /// How many bytes of an unfinished upload are here; none while somebody is at it.
    pub(super) fn received(&self, hash: &Hash) -> u64 {
        if lock::mutex(&self.busy).contains(hash) {
            return 0;
        }
        fs::metadata(self.part(hash)).map_or(0, |metadata| metadata.len())
    }

    /// Puts a whole file there.
    pub(super) fn keep(&self, hash: &Hash, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path(hash).with_extension(format!("part-{:016x}", rand::random::<u64>()));
        fs::write(&fresh, bytes)?;
        fs::rename(fresh, self.path(hash))
    }

    /// Goes on with an upload at `offset`, up to which its bytes must be here.
    pub(super) fn receive(&self, hash: Hash, offset: u64) -> io::Result<Upload> {
        let alone = lock::mutex(&self.busy).insert(hash);
        let part = if alone {
            self.part(&hash)
        } else {
            // Two upload the same at once: the second one cannot be gone on with.
            self.path(&hash).with_extension(format!("part-{:016x}", rand::random::<u64>()))
        };
        let mut upload =
            Upload { whole: self.path(&hash), hash, resumable: alone.then(|| self.busy.clone()), file: None, part };
        upload.file = Some(tokio::fs::File::from_std(open(&upload.part, offset)?));
        Ok(upload)
    }
}

/// A part, to be written on at `offset`.
fn open(part: &Path, offset: u64) -> io::Result<File> {
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(part)?;
    let here = file.metadata()?.len();
    if here < offset {
        let missing = format!("it cannot go on at byte {offset}: {here} are here");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, missing));
    }
    file.set_len(offset)?;
    file.seek(io::SeekFrom::End(0))?;
    Ok(file)
}

/// An upload on its way. Dropped before it is whole, its bytes stay for the next try.
pub(super) struct Upload {
    whole: PathBuf,
    part: PathBuf,
    hash: Hash,
    resumable: Option<Arc<Mutex<HashSet<Hash>>>>,
    file: Option<tokio::fs::File>,
}

impl Upload {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).await,
            None => Ok(()),
        }
    }

    /// Keeps what came, for the next try.
    pub(super) async fn pause(mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush().await,
            None => Ok(()),
        }
    }

    /// All bytes came: they become the file if they are the right ones.
    pub(super) async fn finish(mut self) -> io::Result<Received> {
        let Some(mut file) = self.file.take() else { return Ok(Received::WrongHash) };
        file.flush().await?;
        let mut file = file.into_std().await;
        tokio::task::spawn_blocking(move || {
            if digest(&mut file)? != self.hash {
                fs::remove_file(&self.part)?;
                return Ok(Received::WrongHash);
            }
            file.sync_all()?;
            fs::rename(&self.part, &self.whole)?;
            Ok(Received::Whole)
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        match &self.resumable {
            Some(busy) => drop(lock::mutex(busy).remove(&self.hash)),
            None => drop(fs::remove_file(&self.part)),
        }
    }
}

fn digest(file: &mut File) -> io::Result<Hash> {
    file.rewind()?;
    let (mut hasher, mut chunk) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> Hash {
        Sha256::digest(bytes).into()
    }

    #[tokio::test]
    async fn what_is_cut_off_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let hash = hash(b"one two three");
        let mut upload = files.receive(hash, 0).unwrap();
        upload.write(b"one two").await.unwrap();
        assert_eq!(files.received(&hash), 0, "somebody is at it");
        upload.pause().await.unwrap();
        assert_eq!((files.received(&hash), files.is_whole(&hash)), (7, false));

        assert!(files.receive(hash, 8).is_err(), "it went on behind the end");
        let mut upload = files.receive(hash, 4).unwrap();
        upload.write(b"two three").await.unwrap();
        assert_eq!(upload.finish().await.unwrap(), Received::Whole);
        assert_eq!(fs::read(files.path(&hash)).unwrap(), b"one two three");
        assert_eq!(files.received(&hash), 0);
    }

    #[tokio::test]
    async fn other_bytes_than_announced_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let hash = hash(b"right");
        let mut upload = files.receive(hash, 0).unwrap();
        upload.write(b"wrong").await.unwrap();
        assert_eq!(upload.finish().await.unwrap(), Received::WrongHash);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn two_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let hash = hash(b"the same");
        let (mut one, mut two) = (files.receive(hash, 0).unwrap(), files.receive(hash, 0).unwrap());
        one.write(b"the ").await.unwrap();
        two.write(b"the same").await.unwrap();
        assert_eq!(two.finish().await.unwrap(), Received::Whole);
        one.write(b"same").await.unwrap();
        assert_eq!(one.finish().await.unwrap(), Received::Whole);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
