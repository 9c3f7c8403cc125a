//! Files on their way to the daemon, in pieces: a file of any size takes no memory on either side.

use std::path::Path;

use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;
use waya_proto::v1::queue_service_client::QueueServiceClient;
use waya_proto::v1::{MediaInput, UploadRequest, media_input};

use crate::error::CliError;
use crate::exit_code::ExitCode;

/// Well under what one gRPC message may hold.
const PIECE: usize = 64 * 1024;

/// A file or address as it was written, ready to be named in a request.
pub async fn input(channel: &Channel, written: &str) -> Result<MediaInput, CliError> {
    if written.starts_with("http://") || written.starts_with("https://") {
        return Ok(MediaInput { source: Some(media_input::Source::Url(written.to_owned())), ..MediaInput::default() });
    }
    let path = Path::new(written);
    let file = upload(channel, path).await?;
    let filename = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(MediaInput { source: Some(media_input::Source::File(file)), filename, ..MediaInput::default() })
}

/// Hands a file over; how requests name it then.
async fn upload(channel: &Channel, path: &Path) -> Result<String, CliError> {
    let unreadable = |error: std::io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        CliError::new(ExitCode::Refused, message, "give a file that is there, or an address that begins with https://")
    };
    let mut file = File::open(path).await.map_err(unreadable)?;
    if file.metadata().await.map_err(unreadable)?.is_dir() {
        return Err(unreadable(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    let (pieces, stream) = mpsc::channel(2);
    let reading = async move {
        loop {
            let mut content = vec![0; PIECE];
            let count = file.read(&mut content).await?;
            if count == 0 {
                return Ok(());
            }
            content.truncate(count);
            // The daemon says itself why it takes no more.
            if pieces.send(UploadRequest { content }).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut daemon = QueueServiceClient::new(channel.clone());
    let sending = daemon.upload(Request::new(ReceiverStream::new(stream)));
    let (read, sent) = tokio::join!(reading, sending);
    let read: std::io::Result<()> = read;
    read.map_err(unreadable)?;
    Ok(sent?.into_inner().file)
}
