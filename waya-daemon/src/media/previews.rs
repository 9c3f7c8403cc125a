//! Previews of links, kept for a while: a blast names one page to many people.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Media, blocking, picture};
use crate::preview::{Preview, first_link, preview};

/// A page is believed for so long, also when it had nothing to show.
const BELIEVED: Duration = Duration::from_mins(10);
/// More pages than this are not kept.
const KEPT: usize = 200;

/// What a link shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown {
    /// The link, as it stands in the text.
    pub url: String,
    /// The page's title.
    pub title: String,
    /// What the page says of itself.
    pub description: Option<String>,
    /// A small picture, as JPEG.
    pub thumbnail: Option<Vec<u8>>,
}

/// What a page showed, and when.
type Seen = HashMap<String, (Instant, Option<Arc<Shown>>)>;

/// By the link as it is written.
#[derive(Debug, Default)]
pub(super) struct Previews(Mutex<Seen>);

impl Media {
    /// What the first link of a text shows; nothing for a text without one, and for a page that does not answer.
    pub async fn preview(&self, text: &str) -> Option<Arc<Shown>> {
        let link = first_link(text).filter(|_| *self.0.with_previews.borrow())?.to_owned();
        if let Some((at, shown)) = self.0.previews.all().get(&link)
            && at.elapsed() < BELIEVED
        {
            return shown.clone();
        }
        let shown = match preview(&self.0.fetcher, text).await {
            Some(found) => Some(Arc::new(shown(found).await)),
            None => None,
        };
        let mut all = self.0.previews.all();
        if all.len() >= KEPT {
            all.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        if all.len() < KEPT {
            all.insert(link, (Instant::now(), shown.clone()));
        }
        shown
    }
}

impl Previews {
    fn all(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn shown(found: Preview) -> Shown {
    let thumbnail = match found.picture {
        Some(picture) => blocking(move || Ok(picture::thumbnail(&picture.bytes))).await.ok().flatten(),
        None => None,
    };
    Shown { url: found.url, title: found.title, description: found.description, thumbnail }
}

/// Without what the text and the page say, because debug output reaches logs.
impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("thumbnail", &self.thumbnail.is_some()).finish_non_exhaustive()
    }
}
