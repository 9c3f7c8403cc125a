//! What whole-product tests stand on: the real binaries as processes, and the world they live in.
//!
//! Everything binds to loopback, lives in temporary folders and is stopped when dropped.

pub mod apart;
pub mod http;
pub mod port;
pub mod process;
pub mod proxy;
pub mod receiver;
mod trouble;
pub mod world;

pub use http::{Api, answer};
pub use port::Port;
pub use process::{Binary, Running};
pub use world::{BUDI, OWN_PHONE, Options, SITI, World, until};

/// Opens the store of a daemon that does not run.
///
/// # Errors
/// As the daemon's own start would say.
pub fn open_store(data_dir: &std::path::Path) -> anyhow::Result<waya_daemon::store::sled::Opened> {
    let options = waya_daemon::store::sled::OpenOptions::new(data_dir.join("store"));
    Ok(waya_daemon::store::sled::open(options)?)
}

/// Says that something was not tried, and why.
///
/// # Errors
/// Where everything that the tests need is to be there (`WAYA_TEST_STRICT` is 1): what did not run has failed.
pub fn skipped(why: &str) -> anyhow::Result<()> {
    anyhow::ensure!(std::env::var_os("WAYA_TEST_STRICT").is_none_or(|strict| strict != "1"), "not run: {why}");
    eprintln!("skipped: {why}");
    Ok(())
}
