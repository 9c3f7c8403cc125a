//! What whole-product tests stand on: the real binaries as processes, and the world they live in.
//!
//! Everything binds to loopback, lives in temporary folders and is stopped when dropped.

pub mod http;
pub mod process;
pub mod world;

pub use http::Api;
pub use process::{Binary, Running};
pub use world::{BUDI, OWN_PHONE, Options, SITI, World, until};
