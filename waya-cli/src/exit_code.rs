//! What the process says to the shell when it ends.

/// The exit codes; of several, the greatest is the worst and wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum ExitCode {
    /// Done; for `send`: queued, whatever the link.
    #[default]
    Done = 0,
    /// Something nobody foresaw.
    Unexpected = 1,
    /// The command line itself is wrong.
    Usage = 2,
    /// No daemon answers.
    Unreachable = 3,
    /// The daemon refused: bad recipient, allow-list, not found, pinned.
    Refused = 4,
    /// No connection to WhatsApp, and one was needed.
    NotConnected = 5,
    /// The message failed.
    MessageFailed = 6,
    /// What was waited for did not come in time.
    TimedOut = 7,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn the_worst_of_several_wins() {
        let codes = [ExitCode::Done, ExitCode::TimedOut, ExitCode::MessageFailed];
        assert_eq!(codes.into_iter().max(), Some(ExitCode::TimedOut));
        assert_eq!(ExitCode::Refused as u8, 4);
    }
}
