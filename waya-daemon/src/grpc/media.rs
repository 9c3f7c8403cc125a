//! A message's file as a stream: what it is, then its content.

use tokio::io::AsyncReadExt as _;
use tonic::Status;
use waya_proto::v1::{MediaInfo, MediaResponse, media_response::Part};

use super::streams::{Answers, answers};
use crate::api::{ApiError, MediaFile};

/// Well under what one gRPC message may hold.
const PIECE: usize = 64 * 1024;

/// What is still to be told.
enum Next {
    Info(MediaInfo, tokio::fs::File),
    Content(tokio::fs::File),
    Nothing,
}

/// The file, piece by piece.
pub(super) async fn pieces(file: MediaFile) -> Result<Answers<MediaResponse>, Status> {
    let MediaFile { path, size, mimetype, filename } = file;
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|_| ApiError::MediaGone("the file is not kept any more".to_owned()))?;
    Ok(answers(Next::Info(MediaInfo { mimetype, filename, size }, file), |next| async move {
        let part = |part| Ok(MediaResponse { part: Some(part) });
        match next {
            Next::Info(info, file) => Some((part(Part::Info(info)), Next::Content(file))),
            Next::Content(mut file) => {
                let mut piece = vec![0; PIECE];
                match file.read(&mut piece).await {
                    Ok(0) => None,
                    Ok(count) => {
                        piece.truncate(count);
                        Some((part(Part::Content(piece)), Next::Content(file)))
                    }
                    Err(error) => Some((Err(Status::data_loss(error.to_string())), Next::Nothing)),
                }
            }
            Next::Nothing => None,
        }
    }))
}
