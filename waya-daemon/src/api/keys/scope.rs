//! What an API key may do.

use std::fmt;

/// One thing that a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Queue messages, take them back, and ask what became of one.
    Send,
    /// Everything that only looks.
    Read,
    /// Everything.
    Admin,
}

impl Scope {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Send, Self::Read, Self::Admin];

    /// The contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }

    /// From the contract's word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word)
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Send => 1,
            Self::Read => 2,
            Self::Admin => 4,
        }
    }
}

/// A set of scopes: what a key has, or what a route wants one of.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// What a key may do that may do everything.
    pub const ADMIN: Self = Self(Scope::Admin.bit());
    /// What sending wants.
    pub const SEND: Self = Self(Scope::Send.bit());
    /// What looking wants.
    pub const READ: Self = Self(Scope::Read.bit());
    /// What wants either.
    pub const SEND_OR_READ: Self = Self(Scope::Send.bit() | Scope::Read.bit());

    /// Whether a key with these may do what wants one of `needed`; `admin` may do all.
    #[must_use]
    pub const fn allow(self, needed: Self) -> bool {
        self.0 & (needed.0 | Scope::Admin.bit()) != 0
    }

    /// From the contract's words.
    ///
    /// # Errors
    /// The word that is none.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        words.into_iter().try_fold(Self::default(), |scopes, word| {
            Scope::from_word(word).map(|scope| Self(scopes.0 | scope.bit())).ok_or(word)
        })
    }

    /// Nothing.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The contract's words.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(move |scope| self.0 & scope.bit() != 0).map(Scope::as_str)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.words()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Scopes;

    #[test]
    fn admin_implies_all_and_the_others_nothing() {
        let admin = Scopes::ADMIN;
        for needed in [Scopes::SEND, Scopes::READ, Scopes::ADMIN, Scopes::SEND_OR_READ] {
            assert!(admin.allow(needed) && !Scopes::default().allow(needed), "{needed:?}");
        }
        assert!(!Scopes::SEND.allow(Scopes::READ) && !Scopes::SEND.allow(Scopes::ADMIN));
        assert!(!Scopes::READ.allow(Scopes::SEND) && !Scopes::READ.allow(Scopes::ADMIN));
        assert!(Scopes::SEND.allow(Scopes::SEND_OR_READ) && Scopes::READ.allow(Scopes::SEND_OR_READ));
    }

    #[test]
    fn words_are_read_and_written() {
        let both = Scopes::from_words(["read", "send", "read"]).unwrap();
        assert_eq!(both.words().collect::<Vec<_>>(), ["send", "read"]);
        assert_eq!(Scopes::from_words(["read", "write"]), Err("write"));
        assert!(Scopes::from_words([]).unwrap().is_empty());
    }
}
