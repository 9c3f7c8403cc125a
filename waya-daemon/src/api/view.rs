//! The shapes of all answers: exactly the JSON bodies of HTTP and of `waya --json`.

mod administration;
mod events;
mod queue;
mod session;
mod webhooks;

pub use administration::*;
pub use events::*;
pub use queue::*;
pub use session::*;
pub use webhooks::*;

pub use crate::requests::{Row as RequestView, Side as RequestSideView, Summary as RequestSummaryView};
