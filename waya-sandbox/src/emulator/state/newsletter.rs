//! A newsletter: one writes, who follows it reads, and nothing in it is encrypted.

use std::collections::VecDeque;

use super::record::{NewsletterPostRecord, NewsletterRecord};

/// Older posts are forgotten.
const KEPT_POSTS: usize = 1_000;

/// One newsletter.
#[derive(Debug, Clone)]
pub(crate) struct Newsletter {
    pub(crate) record: NewsletterRecord,
    posts: VecDeque<NewsletterPostRecord>,
    last: u64,
}

impl From<NewsletterRecord> for Newsletter {
    fn from(record: NewsletterRecord) -> Self {
        Self { record, posts: VecDeque::new(), last: 0 }
    }
}

impl Newsletter {
    /// What somebody is to it.
    pub(crate) fn role(&self, phone: &str) -> &'static str {
        if self.record.owner == phone {
            "owner"
        } else if self.record.followers.iter().any(|follower| follower == phone) {
            "subscriber"
        } else {
            "guest"
        }
    }

    /// Whether somebody finds it in his list.
    pub(crate) fn is_followed_by(&self, phone: &str) -> bool {
        self.role(phone) != "guest"
    }

    /// Everybody that finds it in his list.
    pub(crate) fn readers(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.record.owner).chain(&self.record.followers)
    }

    /// The number that the next post gets.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Adds what its author wrote, or puts it in the place of what it changes.
    pub(super) fn publish(&mut self, post: NewsletterPostRecord) {
        self.last = self.last.max(post.server_id);
        if let Some(known) = self.posts.iter_mut().find(|known| known.server_id == post.server_id) {
            *known = post;
            return;
        }
        if self.posts.len() == KEPT_POSTS {
            self.posts.pop_front();
        }
        self.posts.push_back(post);
    }

    /// Everything kept, oldest first.
    pub(crate) fn posts(&self) -> impl DoubleEndedIterator<Item = &NewsletterPostRecord> {
        self.posts.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(server_id: u64, id: &str) -> NewsletterPostRecord {
        NewsletterPostRecord { server_id, id: id.to_owned(), ..Default::default() }
    }

    #[test]
    fn the_newest_posts_are_kept_and_numbers_are_never_used_again() {
        let mut newsletter = Newsletter::from(NewsletterRecord::default());
        for number in 1..=1_200 {
            assert_eq!(newsletter.next(), number);
            newsletter.publish(post(number, "post"));
        }
        newsletter.publish(post(1_199, "changed"));
        let kept: Vec<_> = newsletter.posts().map(|post| post.server_id).collect();
        assert_eq!((kept.len(), kept[0], kept[999]), (KEPT_POSTS, 201, 1_200));
        assert_eq!(newsletter.posts().nth(998).map(|post| post.id.as_str()), Some("changed"));
        assert_eq!(newsletter.next(), 1_201);
    }
}
