//! What is known of files that lie on WhatsApp's servers, beside each file: one upload serves everybody for days.
//!
//! WhatsApp does not tell how long it keeps a file. What it has dropped, a recipient's client asks for again from the
//! sender's phone.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::files::wall_time;
use crate::model::{Attachment, MediaHash, MediaKind};

/// An upload is used again for so long.
const USED_FOR: Duration = Duration::from_hours(4 * 24);
/// More than this was not written by us.
const LARGEST: u64 = 1 << 20;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// The uploads of one account.
#[derive(Debug)]
pub(super) struct Uploads {
    dir: PathBuf,
    /// Who uploads now; the others wait.
    busy: Mutex<HashMap<(MediaHash, MediaKind), Lock>>,
}

impl Uploads {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), busy: Mutex::default() }
    }

    /// What is remembered, else what `upload` gives.
    pub(super) async fn get_or<E>(
        &self,
        attachment: &Attachment,
        upload: impl Future<Output = Result<Vec<u8>, E>>,
    ) -> Result<Vec<u8>, E> {
        let key = (attachment.hash, attachment.kind);
        let lock = Arc::clone(self.busy().entry(key).or_default());
        let outcome = {
            let _alone = lock.lock().await;
            match self.remembered(attachment) {
                Some(known) => Ok(known),
                None => upload.await.inspect(|known| self.remember(attachment, known)),
            }
        };
        drop(lock);
        let mut busy = self.busy();
        if busy.get(&key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            busy.remove(&key);
        }
        drop(busy);
        outcome
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashMap<(MediaHash, MediaKind), Lock>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name and type of a document are part of what was uploaded, so they are part of the name.
    fn path(&self, attachment: &Attachment) -> PathBuf {
        let told = (&attachment.mimetype, &attachment.filename, attachment.width, attachment.seconds);
        let told = serde_json::to_vec(&told).unwrap_or_default();
        let told = format!("{:08x}", crc32fast::hash(&told));
        self.dir.join(format!("{}.{}.{told}.sent", attachment.hash, attachment.kind.as_str()))
    }

    fn remembered(&self, attachment: &Attachment) -> Option<Vec<u8>> {
        let path = self.path(attachment);
        let there = fs::metadata(&path).ok()?;
        let age = wall_time().duration_since(there.modified().ok()?).unwrap_or_default();
        if age > USED_FOR || there.len() > LARGEST {
            return None;
        }
        let (crc, known) =
            fs::read(path).ok()?.split_at_checked(4).map(|(crc, known)| (crc.to_owned(), known.to_owned()))?;
        (crc == crc32fast::hash(&known).to_le_bytes()).then_some(known)
    }

    /// Not waited for on disk: what is lost is uploaded again, and what is torn is noticed.
    fn remember(&self, attachment: &Attachment, known: &[u8]) {
        let path = self.path(attachment);
        let fresh = path.with_extension("new");
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).and_then(
            |mut file| {
                file.write_all(&crc32fast::hash(known).to_le_bytes())?;
                file.write_all(known)?;
                fs::rename(&fresh, &path)
            },
        );
        if let Err(error) = written {
            tracing::warn!(%error, "an upload cannot be remembered; the file is uploaded again next time");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn attachment(kind: MediaKind) -> Attachment {
        Attachment {
            hash: MediaHash([3; 32]),
            size: 5,
            kind,
            mimetype: "image/png".to_owned(),
            filename: None,
            width: None,
            height: None,
            seconds: None,
            pages: None,
        }
    }

    #[tokio::test]
    async fn a_file_is_uploaded_once_for_everybody_and_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(dir.path());
        let count = AtomicUsize::new(0);
        let upload = || async {
            count.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            Ok::<_, ()>(b"there".to_vec())
        };
        let image = attachment(MediaKind::Image);
        let all = futures_util::future::join_all((0..500).map(|_| uploads.get_or(&image, upload()))).await;
        assert!(all.iter().all(|known| known.as_deref() == Ok(b"there".as_slice())));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert!(uploads.busy().is_empty());
        Uploads::new(dir.path()).get_or(&image, upload()).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        uploads.get_or(&attachment(MediaKind::Document), upload()).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 2, "as something else it is another upload");
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered_and_a_torn_memory_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let uploads = Uploads::new(dir.path());
        let image = attachment(MediaKind::Image);
        assert_eq!(uploads.get_or(&image, async { Err("no") }).await, Err("no"));
        uploads.get_or(&image, async { Ok::<_, ()>(vec![1]) }).await.unwrap();
        fs::write(uploads.path(&image), b"torn!").unwrap();
        assert_eq!(uploads.get_or(&image, async { Ok::<_, ()>(vec![2]) }).await, Ok(vec![2]));
    }
}
