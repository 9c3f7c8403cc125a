//! Building the client library's client for one account.

use std::sync::{Arc, Weak};
use std::time::Duration;

use whatsapp_rust::store::persistence_manager::PersistenceManager;
use whatsapp_rust::types::events::Subscription;
use whatsapp_rust::wacore::store::DevicePropsOverride;
use whatsapp_rust::wacore::store::commands::DeviceCommand;
use whatsapp_rust::wacore::store::device::default_history_sync_config;
use whatsapp_rust::waproto::whatsapp::device_props::{HistorySyncConfig, PlatformType};
use whatsapp_rust::{CacheConfig, CacheEntryConfig, Client, TokioRuntime};

use super::context::Context;
use super::inbound::JournalFirst;
use super::pump;
use super::sink::Sink;
use super::{OpenError, Version};

/// What the phone's list of linked devices shows.
const DEVICE_NAME: &str = "Waya";
/// How long a sent message can be encrypted anew for a device that could not read it: a phone may be off for days.
const SENT_KEPT: Duration = Duration::from_hours(8 * 24);
/// Changes of the keys are saved when they happen; this is for those that got lost on the way.
const SAVED_AT_LEAST: Duration = Duration::from_mins(10);
/// When to ask first which version is current …
const VERSION_FIRST_LOOK: Duration = Duration::from_mins(5);
/// … and how often from then on.
const VERSION_REFRESH: Duration = Duration::from_hours(24);
/// One-time keys made at once against the emulator, where nobody needs hundreds.
const SANDBOX_KEYS: usize = 60;

/// A client and what belongs to it.
pub struct Live {
    /// The library's client.
    pub client: Arc<Client>,
    /// What it claims to be; fixed when it is built.
    pub version: Version,
    /// Events end with it.
    _events: Subscription,
}

/// Opens the keys and builds the client on them. Does not connect.
pub async fn build(context: &Arc<Context>) -> Result<Live, OpenError> {
    let refused = |error: &dyn std::fmt::Display| OpenError::Client(error.to_string());
    let backend = context.keys.open().await?;
    let device = Arc::new(PersistenceManager::new(backend).await.map_err(|error| refused(&error))?);
    if let Some(name) = &context.config.push_name {
        device.process_command(DeviceCommand::SetPushName(name.clone())).await;
    }
    device.process_command(DeviceCommand::SetDeviceProps(device_props())).await;
    let saved = device.get_device_snapshot();
    context.learn_version((saved.app_version_primary, saved.app_version_secondary, saved.app_version_tertiary));
    let version = context.version();

    let mut builder = Client::builder()
        .with_runtime(TokioRuntime)
        .with_persistence_manager(device)
        .with_transport_factory_arc(Arc::clone(&context.dialer) as _)
        .with_http_client_arc(Arc::clone(&context.http))
        .with_version_override(version)
        .with_cache_config(caches())
        .with_inbound_durability_hook(JournalFirst::new(Arc::clone(context)))
        .with_background_saver_interval(SAVED_AT_LEAST);
    if context.config.sandbox {
        builder = builder.with_wanted_pre_key_count(SANDBOX_KEYS);
    }
    let client = builder.build().await.map_err(|error| refused(&error))?.into_client();
    let (sink, events) = Sink::new(Arc::clone(context), &client);
    tokio::spawn(pump::run(Arc::clone(context), Arc::downgrade(&client), events));
    tokio::spawn(keep_version_fresh(Arc::clone(context), Arc::downgrade(&client)));
    let subscription = client.subscribe_handler(Arc::new(sink));
    Ok(Live { client, version, _events: subscription })
}

/// A version that was current at login may be refused a month later: the next connection claims the current one.
async fn keep_version_fresh(context: Arc<Context>, client: Weak<Client>) {
    // Also where the daemon is restarted more often than that.
    let mut wait = VERSION_FIRST_LOOK;
    while context.may_renew_version() {
        tokio::time::sleep(wait).await;
        match client.upgrade() {
            Some(client) if client.is_connected() => {
                context.renew_version().await;
                wait = VERSION_REFRESH;
            }
            Some(_) => wait = VERSION_FIRST_LOOK,
            None => return,
        }
    }
}

/// As a browser, and with little history: its tokens, number pairs, names and chats are wanted, its
/// messages are not.
fn device_props() -> DevicePropsOverride {
    DevicePropsOverride::new().with_os(DEVICE_NAME).with_platform_type(PlatformType::CHROME).with_history_sync_config(
        HistorySyncConfig {
            recent_sync_days_limit: Some(7),
            initial_sync_max_messages_per_chat: Some(1),
            thumbnail_sync_days_limit: Some(0),
            support_call_log_history: Some(false),
            support_group_history: Some(false),
            ..default_history_sync_config()
        },
    )
}

fn caches() -> CacheConfig {
    let hour = Some(Duration::from_hours(1));
    CacheConfig {
        // One large group must fit; beyond that the database answers.
        device_registry_cache: CacheEntryConfig::new(hour, 2_000),
        group_cache: CacheEntryConfig::new(hour, 100),
        sender_key_devices_cache: CacheEntryConfig::new(hour, 100),
        sent_message_ttl_secs: SENT_KEPT.as_secs(),
        seed_msg_secrets_from_history: false,
        ..CacheConfig::default()
    }
}
