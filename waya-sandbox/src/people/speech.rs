//! What a person says: a text, a file, an answer, a reaction. Turned into a message of the protocol.

use wa::message::{AudioMessage, DocumentMessage, ImageMessage, ReactionMessage, StickerMessage, VideoMessage};
use whatsapp_rust::Client;
use whatsapp_rust::buffa::MessageField;
use whatsapp_rust::download::MediaType;
use whatsapp_rust::prelude::{MessageBuilderExt, wa};
use whatsapp_rust::upload::{UploadOptions, UploadResponse};

use super::PeopleError;
use super::inbox::Received;

/// Something to say. The text is the file's caption where there is a file, and the emoji of a reaction.
#[derive(Debug, Clone, Default)]
pub struct Speech {
    /// The words.
    pub text: String,
    /// A file.
    pub file: Option<File>,
    /// The received message that it answers.
    pub answers: Option<Received>,
    /// The received message that it reacts to.
    pub reacts_to: Option<Received>,
}

/// A file to send.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// What is in it.
    pub content: Vec<u8>,
    /// MIME type; it decides what the message is.
    pub mimetype: String,
    /// Name, shown of documents.
    pub name: Option<String>,
    /// Sound is a voice note.
    pub voice: bool,
}

impl Speech {
    /// A text.
    pub fn text(text: &str) -> Self {
        Self { text: text.to_owned(), ..Self::default() }
    }

    /// The message; files are uploaded first.
    pub(super) async fn message(self, client: &Client) -> Result<wa::Message, PeopleError> {
        if let Some(received) = &self.reacts_to {
            return Ok(reaction(received, self.text));
        }
        let context = self.answers.as_ref().map(answering);
        match self.file {
            None => Ok(match context {
                None => wa::Message::text(&self.text),
                Some(context) => wa::Message::text_with_context(&self.text, context),
            }),
            Some(file) => {
                let kind = Kind::of(&file);
                let uploaded = client.upload(file.content.clone(), kind.media_type(), UploadOptions::new()).await;
                let uploaded = uploaded.map_err(|error| PeopleError::NotSent(format!("{error:#}")))?;
                Ok(kind.message(&file, &uploaded, &self.text, context))
            }
        }
    }
}

fn answering(received: &Received) -> wa::ContextInfo {
    let words = received.content.text.as_deref().or(received.content.caption.as_deref()).unwrap_or_default();
    wa::ContextInfo {
        stanza_id: Some(received.id.clone()),
        participant: Some(received.sender().to_owned()),
        quoted_message: MessageField::some(wa::Message::text(words)),
        ..Default::default()
    }
}

fn reaction(received: &Received, emoji: String) -> wa::Message {
    let key = wa::MessageKey {
        remote_jid: Some(received.address.chat.clone()),
        from_me: Some(false),
        id: Some(received.id.clone()),
        participant: received.address.participant.clone(),
    };
    let reaction = ReactionMessage { key: MessageField::some(key), text: Some(emoji), ..Default::default() };
    wa::Message { reaction_message: MessageField::some(reaction), ..Default::default() }
}

/// What a file becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Sticker,
    Video,
    Audio,
    Document,
}

impl Kind {
    fn of(file: &File) -> Self {
        let mimetype = file.mimetype.to_lowercase();
        match mimetype.split_once('/').map(|(kind, _)| kind) {
            _ if mimetype == "image/webp" => Self::Sticker,
            Some("image") => Self::Image,
            Some("video") => Self::Video,
            Some("audio") => Self::Audio,
            _ => Self::Document,
        }
    }

    fn media_type(self) -> MediaType {
        match self {
            Self::Image => MediaType::Image,
            Self::Sticker => MediaType::Sticker,
            Self::Video => MediaType::Video,
            Self::Audio => MediaType::Audio,
            Self::Document => MediaType::Document,
        }
    }

    fn message(
        self,
        file: &File,
        uploaded: &UploadResponse,
        text: &str,
        context: Option<wa::ContextInfo>,
    ) -> wa::Message {
        let caption = (!text.is_empty()).then(|| text.to_owned());
        let context_info = context.map_or_else(MessageField::default, MessageField::some);
        macro_rules! message {
            ($kind:ident { $($field:ident: $value:expr),* }) => {
                MessageField::some($kind {
                    url: Some(uploaded.url.clone()),
                    direct_path: Some(uploaded.direct_path.clone()),
                    media_key: Some(uploaded.media_key.to_vec()),
                    file_enc_sha256: Some(uploaded.file_enc_sha256.to_vec()),
                    file_sha256: Some(uploaded.file_sha256.to_vec()),
                    file_length: Some(uploaded.file_length),
                    mimetype: Some(file.mimetype.clone()),
                    context_info,
                    $($field: $value,)*
                    ..Default::default()
                })
            };
        }
        let empty = wa::Message::default();
        match self {
            Self::Image => wa::Message { image_message: message!(ImageMessage { caption: caption }), ..empty },
            Self::Sticker => wa::Message { sticker_message: message!(StickerMessage {}), ..empty },
            Self::Video => wa::Message { video_message: message!(VideoMessage { caption: caption }), ..empty },
            Self::Audio => {
                let ptt = file.voice.then_some(true);
                wa::Message { audio_message: message!(AudioMessage { ptt: ptt }), ..empty }
            }
            Self::Document => {
                let name = file.name.clone().or_else(|| Some("file".to_owned()));
                wa::Message {
                    document_message: message!(DocumentMessage { caption: caption, file_name: name }),
                    ..empty
                }
            }
        }
    }
}
