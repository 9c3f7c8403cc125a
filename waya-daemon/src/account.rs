//! One WhatsApp account: its store, settings, queue and session, built by one function.
//!
//! Nothing here is global, so that one process could hold several.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::Bus;
use crate::clock::Clock;
use crate::config::Config;
use crate::data_dir::Kind;
use crate::session::WhatsApp;
use crate::settings::Settings;
use crate::store::Store;
