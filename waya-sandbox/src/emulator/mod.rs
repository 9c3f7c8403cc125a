//! A WhatsApp server for tests: the multi-device protocol as a client library sees it, with the
//! handsets of its accounts played by the emulator itself.
//!
//! It owns accounts, linked devices, groups, and a queue for each device and handset. Clients wake it through
//! their WebSocket, the outside through the methods of [`Emulator`]. It never reads what is said:
//! messages pass through it encrypted for their recipients' devices. It listens on loopback only.

mod clock;
mod config;
mod faults;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handset;
mod iq;
mod lock;
mod media;
mod memory;
mod relay;
mod server;
mod session;
mod state;
mod stats;
mod view;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{EmulatorConfig, EmulatorError, ScanError};
pub use faults::{ActiveFault, FAULT_KINDS, Fault, FaultError, FaultKind, FaultLimit, FaultTarget};
pub use handset::{HISTORY_TEXT, passkey_answer};
pub use stats::{SenderStats, Stats};
pub use view::{AccountInfo, DeviceInfo, GroupInfo, HandshakeCounts, PresenceInfo, ScannedDevice};

pub use clock::Clock;
use faults::Faults;
use handset::Pairings;
use media::Media;
use memory::Leftovers;
use relay::presence::Presences;
use session::Connections;
use state::record::{AccountRecord, Change};
use state::{Account, State, phone_digits};
use wire::{Pattern, ServerIdentity};

/// The emulator. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Emulator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: EmulatorConfig,
    clock: Clock,
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    identity: ServerIdentity,
    media: Arc<Media>,
    state: Mutex<State>,
    faults: Arc<Faults>,
    connections: Connections,
    pairings: Pairings,
    presences: Presences,
    handshakes: [AtomicU64; 3],
    leftovers: Leftovers,
    stopping: CancellationToken,
}

impl Emulator {
    /// Loads the state and binds the listener; nothing is served yet.
    pub async fn open(config: EmulatorConfig) -> Result<Self, EmulatorError> {
        if !config.listen.ip().is_loopback() {
            return Err(EmulatorError::NotLoopback(config.listen));
        }
        let folder = config.data_dir.as_deref();
        let clock = Clock::default();
        let state = State::open(folder, clock.clone())?;
        let identity = ServerIdentity::open(folder)?;
        let media = Media::open(folder, &identity, config.media_lifetime, clock.clone())?;
        let bind = |source| EmulatorError::Bind { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        Ok(Self(Arc::new(Inner {
            config,
            clock,
            address,
            listener: Mutex::new(Some(listener)),
            identity,
            media,
            state: Mutex::new(state),
            faults: Arc::default(),
            connections: Connections::default(),
            pairings: Pairings::default(),
            presences: Presences::default(),
            handshakes: Default::default(),
            leftovers: Leftovers::default(),
            stopping: CancellationToken::new(),
        })))
    }

    /// Serves `/ws/chat`, and `admin` for everything else, until `shutdown`; then every connection
    /// is dropped.
    pub async fn serve(&self, admin: axum::Router, shutdown: CancellationToken) -> Result<(), EmulatorError> {
        let listener = lock::mutex(&self.0.listener).take().ok_or(EmulatorError::AlreadyServed)?;
        server::serve(self.clone(), listener, admin, shutdown).await
    }

    /// The clock that everything here goes by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Unix seconds.
    fn now(&self) -> i64 {
        self.0.clock.now()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The URL a WhatsApp client is pointed at.
    pub fn whatsapp_url(&self) -> String {
        format!("ws://{}{}", self.0.address, server::PATH)
    }

    /// The key behind the certificate chain of the handshake, in hex, for clients that check it.
    pub fn noise_root(&self) -> String {
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or_default();
        self.0.identity.root().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The file with the certificate authority that clients must trust to load media from `https://`.
    pub fn media_authority(&self) -> PathBuf {
        self.0.media.certificate()
    }

    /// The account of this number, made if there is none; a name given replaces the known one.
    ///
    /// A text that is no phone number gives an account nobody can reach.
    pub fn ensure_account(&self, phone: &str, push_name: &str) -> AccountInfo {
        let digits = phone_digits(phone).unwrap_or_else(|| phone.to_owned());
        let mut state = self.state();
        if let Err(error) = ensure_account(&mut state, &digits, push_name) {
            tracing::error!(%error, "cannot keep the account");
        }
        let unknown = AccountInfo { phone: digits.clone(), name: push_name.to_owned(), ..AccountInfo::default() };
        state.accounts.get(&digits).map_or(unknown, Account::info)
    }

    /// Changes an account's push name, as its owner does on the phone: its linked devices are told. Returns false if
    /// there is no such account.
    pub fn rename(&self, phone: &str, push_name: &str) -> bool {
        relay::devices::rename(&mut self.state(), &phone_digits(phone).unwrap_or_default(), push_name)
    }

    /// What an account's devices say of being there.
    pub fn presence(&self, phone: &str) -> PresenceInfo {
        self.0.presences.of(&phone_digits(phone).unwrap_or_default())
    }

    /// The account of this number, if there is one.
    pub fn account(&self, phone: &str) -> Option<AccountInfo> {
        self.state().accounts.get(&phone_digits(phone)?).map(Account::info)
    }

    /// All accounts, by phone number.
    pub fn accounts(&self) -> Vec<AccountInfo> {
        let mut accounts: Vec<_> = self.state().accounts.values().map(Account::info).collect();
        accounts.sort_by(|one, other| one.phone.cmp(&other.phone));
        accounts
    }

    /// The group of this name, made if there is none; members not in it are added, and everybody
    /// in it is told. Members without an account get one.
    pub fn ensure_group(&self, subject: &str, members: &[String]) -> GroupInfo {
        let members: Vec<_> =
            members.iter().map(|member| phone_digits(member).unwrap_or_else(|| member.clone())).collect();
        let mut state = self.state();
        for member in &members {
            if let Err(error) = ensure_account(&mut state, member, "") {
                tracing::error!(%error, "cannot keep the account");
            }
        }
        relay::group::ensure(&mut state, subject, &members, self.0.config.pn_only)
    }

    /// All groups.
    pub fn groups(&self) -> Vec<GroupInfo> {
        self.state().groups.values().map(state::Group::info).collect()
    }

    /// Lets the handset of `phone` scan a pairing QR, making the account if there is none. Without
    /// a number it is the account with the client's push name, or a new one.
    pub async fn scan_qr(&self, qr: &str, phone: Option<&str>) -> Result<ScannedDevice, ScanError> {
        handset::scan_qr(self, qr, phone).await
    }

    /// Types a pairing code into the handset of `phone`.
    pub async fn enter_pair_code(&self, phone: &str, code: &str) -> Result<ScannedDevice, ScanError> {
        handset::enter_pair_code(self, phone, code).await
    }

    /// The code that the handset of `phone` shows once a client answered its request for a passkey.
    pub fn passkey_code(&self, phone: &str) -> Option<String> {
        handset::passkey_code(self, &phone_digits(phone)?)
    }

    /// Switches an emulated handset on or off. One that is on confirms the messages that reach it, first those that
    /// waited for it while it was off; they are off at first. Returns false if there is no such account.
    pub fn set_handset_online(&self, phone: &str, online: bool) -> bool {
        relay::switch_handset(self, &mut self.state(), &phone_digits(phone).unwrap_or_default(), online)
    }

    fn change_account(&self, phone: &str, change: impl FnOnce(&mut AccountRecord)) -> bool {
        let mut state = self.state();
        let digits = phone_digits(phone).unwrap_or_default();
        let Some(account) = state.accounts.get(&digits) else { return false };
        let mut record = account.record.clone();
        change(&mut record);
        state.commit(Change::Account(record)).is_ok()
    }

    /// Makes an account a business account, or a plain one again. Returns false if there is no such account.
    pub fn set_business(&self, phone: &str, business: bool) -> bool {
        self.change_account(phone, |record| record.business = business)
    }

    /// Has the handset of `phone` hand its linked devices one more piece of history: a `HistorySync`, as it is before it
    /// is compressed, or anything else. Returns how many devices get it.
    pub fn hand_history(&self, phone: &str, piece: &[u8]) -> usize {
        handset::hand_piece(self, &mut self.state(), &phone_digits(phone).unwrap_or_default(), piece)
    }

    /// Switches a fault on until it is switched off; a one-shot one acts on the connections alive now.
    pub fn set_fault(&self, fault: Fault, target: FaultTarget) {
        let target = target.normalised();
        if fault.is_one_shot() {
            session::strike(self, fault, &target);
        } else {
            self.0.faults.set(fault, target, FaultLimit::default());
        }
    }

    /// Switches a fault on that ends by itself.
    pub fn set_limited_fault(&self, fault: Fault, target: FaultTarget, limit: FaultLimit) -> Result<(), FaultError> {
        if fault.is_one_shot() && limit.is_any() {
            return Err(FaultError::OneShot(fault));
        }
        if fault == Fault::Restart && target != FaultTarget::All {
            return Err(FaultError::Everybody(fault));
        }
        if fault.is_before_devices() && matches!(target, FaultTarget::Device(..)) {
            return Err(FaultError::NoDevice(fault));
        }
        if limit.is_any() {
            self.0.faults.set(fault, target.normalised(), limit);
        } else {
            self.set_fault(fault, target);
        }
        Ok(())
    }

    /// Switches off the faults set for this target; `All` switches off everything.
    pub fn clear_faults(&self, target: &FaultTarget) {
        self.0.faults.clear(&target.clone().normalised());
    }

    /// The lasting faults that are switched on.
    pub fn faults(&self) -> Vec<ActiveFault> {
        self.0.faults.list()
    }

    /// Unlinks every device of an account, as from the phone; returns how many there were.
    pub fn unlink(&self, phone: &str) -> usize {
        session::unlink(self, &phone_digits(phone).unwrap_or_default())
    }

    /// Everything counted so far.
    pub fn stats(&self) -> Stats {
        let state = self.state();
        state.counts.show(state.queued())
    }

    /// How clients shook hands so far.
    pub fn handshakes(&self) -> HandshakeCounts {
        let count = |pattern: Pattern| self.0.handshakes[pattern as usize].load(Ordering::Relaxed);
        HandshakeCounts { xx: count(Pattern::Xx), ik: count(Pattern::Ik), xx_fallback: count(Pattern::XxFallback) }
    }

    /// Whether nothing else holds this emulator any more: no connection, no clone.
    pub fn is_last_handle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Forgets whatever is not written down, as a process that ends does, and reads the rest again.
    fn begin_anew(&self) {
        let mut state = self.state();
        self.0.presences.forget();
        let Some(folder) = self.0.config.data_dir.as_deref() else {
            return state.forget_connections();
        };
        // The old one holds the folder.
        drop(std::mem::take(&mut *state));
        match State::open(Some(folder), self.0.clock.clone()) {
            Ok(read) => *state = read,
            Err(error) => {
                tracing::error!(%error, "the state cannot be read again: the emulator stops");
                self.0.stopping.cancel();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock::mutex(&self.0.state)
    }

    fn config(&self) -> &EmulatorConfig {
        &self.0.config
    }

    fn media(&self) -> &Media {
        &self.0.media
    }

    fn identity(&self) -> &ServerIdentity {
        &self.0.identity
    }

    fn fault_rules(&self) -> &Arc<Faults> {
        &self.0.faults
    }

    fn connections(&self) -> &Connections {
        &self.0.connections
    }

    fn pairings(&self) -> &Pairings {
        &self.0.pairings
    }

    fn presences(&self) -> &Presences {
        &self.0.presences
    }

    fn stopping(&self) -> CancellationToken {
        self.0.stopping.clone()
    }

    fn count_handshake(&self, pattern: Pattern) {
        self.0.handshakes[pattern as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes the account if there is none; a name given replaces the known one.
fn ensure_account(state: &mut State, phone: &str, name: &str) -> Result<(), EmulatorError> {
    let record = match state.accounts.get(phone) {
        None => Account::generate(phone, name, state.now())?,
        Some(known) if name.is_empty() || known.record.name == name => return Ok(()),
        Some(known) => {
            let mut record = known.record.clone();
            name.clone_into(&mut record.name);
            record
        }
    };
    state.commit(Change::Account(record)).map_err(|error| EmulatorError::NotKept(error.to_string()))
}
