//! One closed match on what the session tells.
