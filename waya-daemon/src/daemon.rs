//! The only wiring: `build` opens and binds and may fail, `run` serves until told to stop, then drains.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::account::Account;
use crate::api::{Api, DaemonInfo};
use crate::bus::Bus;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, HttpAddress};
use crate::data_dir::{DataDir, Kind};
use crate::{api, grpc, http};

/// How long a stop may take in all; the contract says 10 s.
const STOP_WITHIN: Duration = Duration::from_secs(8);

/// What is not the same in every process: the plain daemon takes the defaults.
#[derive(Debug)]
pub struct Seams {
    /// Which WhatsApp the data folder belongs to.
    pub kind: Kind,
    /// WhatsApp's address, when it is not the real one.
    pub whatsapp_url: Option<String>,
    /// The name under which the emulator knows the own phone.
    pub push_name: Option<String>,
    /// The sandbox's own gRPC service.
    pub sandbox: Option<tonic::service::Routes>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
}

impl Default for Seams {
    fn default() -> Self {
        Self { kind: Kind::Real, whatsapp_url: None, push_name: None, sandbox: None, clock: Arc::new(SystemClock) }
    }
}
