//! Which WhatsApp an account lives on.

/// Whether messages reach real people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They do.
    Real,
    /// They stay in the emulator.
    Sandbox,
}

impl Kind {
    /// The contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Sandbox => "sandbox",
        }
    }

    /// The binary that serves such accounts.
    #[must_use]
    pub const fn binary(self) -> &'static str {
        match self {
            Self::Real => "waya-daemon",
            Self::Sandbox => "waya-sandbox",
        }
    }
}
