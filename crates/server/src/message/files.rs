//! Files that go with messages: those of the tenant, which bots get, and those of the bots, which the tenant gets.

use std::sync::{Arc, Mutex, PoisonError};

use astrfleet_core::{
    Error, Result,
    attachment::{Attachment, blob_key},
    chat::BotAttachment,
    id::AttachmentId,
    message::Message,
    ports::{BlobStream, BotClient},
    quota::Kind,
    tenant::Tenant,
};
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};

use super::Service;
use crate::{problem::chain, quota::notices::Seen};

/// Characters of a file's name.
const MAX_NAME_CHARS: usize = 200;

/// A file's name without any folder and without anything that a file system or a header could stumble over.
#[must_use]
pub fn clean_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let kept: String = last
        .chars()
        .filter(|character| {
            !character.is_control()
                && !matches!(character, '\u{200e}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        })
        .take(MAX_NAME_CHARS)
        .collect();
    match kept.trim() {
        "" | "." | ".." => "file".to_owned(),
        name => name.to_owned(),
    }
}

/// What is said of a file's type, where it can be one; otherwise what its name tells.
#[must_use]
pub fn media_type(said: Option<&str>, name: &str) -> String {
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    let said = said.map(|said| said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match said {
        Some(said)
            if said.len() <= 100
                && said != "application/octet-stream"
                && said.split_once('/').is_some_and(|(kind, rest)| token(kind) && token(rest)) =>
        {
            said
        }
        _ => mime_guess::from_path(name).first_or_octet_stream().essence_str().to_owned(),
    }
}

impl Service {
    /// Stores a file of a tenant.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::QuotaExceeded`] where the plan's storage is used up.
    pub async fn keep_file(
        &self,
        tenant: &Tenant,
        name: &str,
        said: Option<&str>,
        content: BlobStream,
    ) -> Result<Attachment> {
        let files = self.base.store.attachments(&tenant.id);
        let amount = self.tenants.plan(tenant)?.storage();
        let (limit, used) = (amount.hard(), files.total_bytes().await?);
        let left = limit.saturating_sub(used);
        let used_up = || Error::QuotaExceeded {
            quota: "bytes of attachments",
            limit,
            next_step: "a larger plan has more of them".to_owned(),
        };
        if left == 0 {
            return Err(used_up());
        }
        let max_bytes = self.base.config.gateway.max_attachment_bytes;
        let id = self.base.ids.attachment();
        let key = blob_key(&tenant.id, &id);
        let sum = Arc::new(Mutex::new(digest::Context::new(&digest::SHA256)));
        let summing = Arc::clone(&sum);
        let content = content
            .inspect_ok(move |piece| summing.lock().unwrap_or_else(PoisonError::into_inner).update(piece))
            .boxed();
        let size = match self.base.blobs.put(&key, content, max_bytes.min(left)).await {
            Err(Error::TooLarge { .. }) if left < max_bytes => return Err(used_up()),
            stored => stored?,
        };
        let sum = sum.lock().unwrap_or_else(PoisonError::into_inner).clone().finish();
        let name = clean_name(name);
        let attachment = Attachment {
            media_type: media_type(said, &name),
            name,
            id,
            tenant_id: tenant.id.clone(),
            size,
            sha256: sum.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")),
            created_at: self.base.clock.now(),
        };
        if let Err(error) = files.insert(&attachment).await {
            // Content without a row is seen by nobody. If this fails too, the tenant's erasure removes it.
            self.base.blobs.delete(&key).await.ok();
            return Err(error);
        }
        self.daily.purses().notices().look(Seen {
            tenant: tenant.id.clone(),
            name: Kind::StorageBytes.name().to_owned(),
            kind: Kind::StorageBytes,
            period: Kind::StorageBytes.period(attachment.created_at),
            amount,
            used: used.saturating_add(size),
        });
        Ok(attachment)
    }

    /// Gives a bot the files of a message.
    ///
    /// # Errors
    /// [`Error::NotFound`] where a file is gone; [`Error::Unavailable`] where the bot does not take it.
    pub(super) async fn give_files(
        &self,
        client: &dyn BotClient,
        end_user: &str,
        message: &Message,
    ) -> Result<Vec<BotAttachment>> {
        let mut given = Vec::with_capacity(message.attachments.len());
        for id in &message.attachments {
            let file = self.base.store.attachments(&message.tenant_id).get(id).await?;
            let mut content = self.base.blobs.get(&file.blob_key()).await?;
            let mut bytes = BytesMut::new();
            while let Some(piece) = content.next().await {
                bytes.extend_from_slice(&piece.map_err(|error| Error::unavailable("the storage of files", error))?);
            }
            given.push(client.upload(end_user, &file.name, &file.media_type, Bytes::from(bytes)).await?);
        }
        Ok(given)
    }

    /// Takes the files of an answer from the bot. One that cannot be had is missing in the answer: the text counts more.
    pub(super) async fn take_files(
        &self,
        client: &dyn BotClient,
        end_user: &str,
        message: &Message,
        references: &[String],
    ) -> Vec<AttachmentId> {
        let mut taken = Vec::with_capacity(references.len());
        for reference in references {
            match self.take_file(client, end_user, message, reference).await {
                Ok(attachment) => {
                    if let Some(live) = self.lives.get(&message.id) {
                        live.attachment(&attachment);
                    }
                    taken.push(attachment.id);
                }
                Err(error) => {
                    tracing::warn!(message_id = %message.id, error = chain(&error), "a file of an answer is lost");
                }
            }
        }
        taken
    }

    async fn take_file(
        &self,
        client: &dyn BotClient,
        end_user: &str,
        message: &Message,
        reference: &str,
    ) -> Result<Attachment> {
        let tenant = self.tenants.resolve(message.tenant_id.as_str()).await?;
        let file = client.download(end_user, reference).await?;
        self.keep_file(&tenant, &file.name, Some(&file.media_type), file.content).await
    }
}

#[cfg(test)]
mod tests {
    use super::{clean_name, media_type};

    #[test]
    fn a_name_has_no_folder_and_hides_nothing() {
        for (given, kept) in [
            ("a.png", "a.png"),
            ("../../etc/passwd", "passwd"),
            ("C:\\temp\\b.txt", "b.txt"),
            ("..", "file"),
            ("", "file"),
            ("a\u{0}\r\nb\u{202e}.txt", "ab.txt"),
            ("客服.pdf", "客服.pdf"),
        ] {
            assert_eq!(clean_name(given), kept);
        }
        assert_eq!(clean_name(&"x".repeat(1_000)).len(), 200);
    }

    #[test]
    fn a_type_is_what_was_said_or_what_the_name_tells() {
        assert_eq!(media_type(Some("Image/PNG; x=1"), "a.bin"), "image/png");
        assert_eq!(media_type(Some("application/octet-stream"), "a.png"), "image/png");
        assert_eq!(media_type(Some("text/html\r\nx: y"), "a.unknown"), "application/octet-stream");
        assert_eq!(media_type(None, "a.txt"), "text/plain");
    }
}
