//! One file a noun: its arguments, its call, and how its answer looks to people.

mod api_key;
mod completions;
mod confirm;
mod deeds;
mod events;
mod files;
mod login;
mod logout;
mod media;
mod message;
mod opt_outs;
mod passkey;
mod queue;
mod requests;
mod sandbox;
mod send;
mod settings;
mod status;
mod table;
mod text;
mod wait;
mod webhooks;

use std::time::Duration;

use clap::Subcommand;
use tonic::Request;
use tonic::transport::Channel;

use crate::args::GlobalArgs;
use crate::connect::Places;
use crate::error::CliError;
use crate::exit_code::ExitCode;
use crate::output::Output;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the session, the queue and the daemon; exit 0 only when connected to WhatsApp
    Status,
    /// Link a WhatsApp account with a QR code, or with a code typed on the phone
    Login(login::LoginArgs),
    /// Unlink the account and delete its keys
    Logout(logout::LogoutArgs),
    /// Queue a message
    Send(Box<send::SendArgs>),
    /// Show what became of a message, fetch its file, or do something to it
    Message(message::MessageArgs),
    #[command(flatten)]
    Deed(deeds::Deed),
    /// Look at and steer the outgoing queue
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// See and mend the list of those who want no more messages
    #[command(subcommand)]
    OptOuts(opt_outs::OptOutsCommand),
    /// Show incoming messages, status changes and link states
    Events(events::EventsArgs),
    /// Show the log of HTTP requests
    #[command(subcommand)]
    Requests(requests::RequestsCommand),
    /// Show and change what may change while the daemon runs
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// Have URLs told what happens, signed, and look after that
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// Play the other side on a waya-sandbox daemon
    #[command(subcommand)]
    Sandbox(sandbox::SandboxCommand),
    /// Print the completion script of a shell
    Completions(completions::CompletionsArgs),
}

/// What every command works with.
pub struct Context {
    /// Where answers go.
    pub output: Output,
    places: Places,
}

impl Context {
    /// From what holds for every command.
    pub fn new(global: &GlobalArgs) -> Result<Self, CliError> {
        Ok(Self {
            output: Output::stdout(global.json, global.quiet, global.no_color),
            places: Places::new(global, |name| std::env::var_os(name))?,
        })
    }

    /// A connection to the daemon.
    async fn daemon(&self) -> Result<Channel, CliError> {
        self.places.connect().await
    }
}

/// Carries a command out.
pub async fn run(command: Command, context: &mut Context) -> Result<ExitCode, CliError> {
    match command {
        Command::Status => status::run(context).await,
        Command::Login(args) => login::run(args, context).await,
        Command::Logout(args) => logout::run(&args, context).await,
        Command::Send(args) => send::run(*args, context).await,
        Command::Message(args) => message::run(args, context).await,
        Command::Deed(deed) => deeds::run(deed, context).await,
        Command::Queue(command) => queue::run(command, context).await,
        Command::OptOuts(command) => opt_outs::run(command, context).await,
        Command::Events(args) => events::run(args, context).await,
        Command::Requests(command) => requests::run(command, context).await,
        Command::Settings(command) => settings::run(command, context).await,
        Command::Webhooks(command) => webhooks::run(command, context).await,
        Command::Sandbox(command) => sandbox::run(command, context).await,
        Command::Completions(args) => completions::run(&args, context),
    }
}

/// How long a daemon may take over an answer that waits for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A call that is answered at once, or not at all.
fn call<T>(message: T) -> Request<T> {
    call_within(message, ANSWER_TIMEOUT)
}

/// A call that is answered within this time, or not at all.
fn call_within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}
