//! Asking before something that cannot be undone.

use std::io::{self, IsTerminal as _, Write as _};

use crate::error::CliError;

/// Whether the user says yes. `what` names it where nobody can be asked.
pub fn asked(question: &str, what: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::usage(format!("{what} needs a confirmation"), "give --yes where nobody can be asked"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes" | "ya"))
}
