//! The outgoing queue.
