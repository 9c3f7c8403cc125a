//! What happens around every request, whatever it asks for: its id, who is behind it, and how often it may come.

pub(super) mod client;
pub(super) mod cors;
pub(super) mod frame;
pub(super) mod limits;
mod rate;
pub(super) mod record;
