//! Files that go with messages: those of the tenant, which bots get, and those of the bots, which the tenant gets.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    attachment::{Attachment, blob_key},
    chat::BotAttachment,
    id::AttachmentId,
    message::Message,
    ports::{BlobStream, BotClient, Delivery},
    quota::Kind,
    tenant::Tenant,
};
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::{
    Service,
    deliver::{Next, stopped},
    ending::failure,
    owners::Held,
    queue::Turn,
};
use crate::{config::seconds, problem::chain, quota::notices::Seen};

/// Characters of a file's name.
const MAX_NAME_CHARS: usize = 200;
/// The wait before files are read once more; it grows with each time, up to this.
const FILES_AGAIN_AFTER: Duration = Duration::from_millis(250);
const FILES_AGAIN_MAX: Duration = Duration::from_secs(2);
/// The wait before a file of an answer is taken once more, where it could not be stored.
const TAKE_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long that may go on for all files of an answer: whoever reads it has its text, and waits for its end alone.
const TAKE_MAX: Duration = Duration::from_secs(20);

/// What came of giving the bot the files of a message.
pub(super) enum Brought {
    All(Vec<BotAttachment>),
    Not(Next),
}

/// Why a bot has not got the files of a message.
enum NotGiven {
    /// One is gone.
    Missing,
    /// They cannot be read now.
    Away(Error),
    /// The bot did not take one.
    Refused(Error),
}

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
        // A task of its own: whoever sends a file may hang up when its content is stored and no row says so yet.
        let (service, tenant) = (self.clone(), tenant.clone());
        let (name, said) = (name.to_owned(), said.map(str::to_owned));
        let work = async move { service.keep_file_now(&tenant, &name, said.as_deref(), content).await };
        self.base.tasks.spawn(work.in_current_span()).await.map_err(Error::internal)?
    }

    async fn keep_file_now(
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
            Ok(size) => size,
            Err(Error::TooLarge { .. }) if left < max_bytes => return Err(used_up()),
            Err(error) => {
                // It may be stored all the same, where only the answer was lost.
                self.drop_content(&key).await;
                return Err(error);
            }
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
        let used = match files.insert(&attachment, limit).await {
            Ok(Some(used)) => used,
            // Others came in while this one did.
            Ok(None) => {
                self.drop_content(&key).await;
                return Err(used_up());
            }
            Err(error) => match files.get(&attachment.id).await {
                Ok(_) => used.saturating_add(size),
                Err(Error::NotFound { .. }) => {
                    self.drop_content(&key).await;
                    return Err(error);
                }
                // It has a row, perhaps, which then has its content. If not, the tenant's erasure removes it.
                Err(_) => return Err(error),
            },
        };
        let seen = Seen::now(&tenant.id, Kind::StorageBytes, amount, used, attachment.created_at);
        self.daily.purses().notices().look(seen);
        Ok(attachment)
    }

    /// Content without a row is seen by nobody. If this fails too, the tenant's erasure removes it.
    async fn drop_content(&self, key: &str) {
        if let Err(error) = self.base.blobs.delete(key).await {
            tracing::info!(
                error = chain(&error),
                "the content of a file that was not kept stays until its tenant is erased"
            );
        }
    }

    /// Gives a bot the files of a message, after those that it was `given` before.
    async fn give_files(
        &self,
        client: &dyn BotClient,
        end_user: &str,
        message: &Message,
        given: &mut Vec<BotAttachment>,
    ) -> Result<(), NotGiven> {
        for id in message.attachments.iter().skip(given.len()) {
            let (file, content) = self.read_file(message, id).await.map_err(|error| match error {
                Error::NotFound { .. } => NotGiven::Missing,
                error => NotGiven::Away(error),
            })?;
            let upload = client.upload(end_user, &file.name, &file.media_type, content);
            given.push(upload.await.map_err(NotGiven::Refused)?);
        }
        Ok(())
    }

    /// Gives the bot the files of a message. As long as they cannot be read, the message waits as it does for a bot.
    pub(super) async fn bring_files(
        &self,
        turn: &Turn,
        held: &Held,
        client: &dyn BotClient,
        delivery: &Delivery,
    ) -> Result<Brought> {
        let message = &delivery.message;
        let until = Instant::now() + seconds(self.base.config.message.wait_for_bot_s);
        let (mut given, mut tries) = (Vec::new(), 0_u32);
        loop {
            let failure = match self.give_files(client, &delivery.end_user, message, &mut given).await {
                Ok(()) => return Ok(Brought::All(given)),
                Err(NotGiven::Refused(error)) => {
                    tracing::warn!(error = chain(&error), "a bot did not take a file");
                    return Ok(Brought::Not(Next::Again));
                }
                Err(NotGiven::Missing) => {
                    failure("attachment_missing", "a file of this message is gone: upload it again")
                }
                Err(NotGiven::Away(error)) => {
                    if tries == 0 {
                        tracing::warn!(error = chain(&error), "a message waits for its files, which cannot be read");
                    }
                    if Instant::now() < until {
                        tries += 1;
                        tokio::select! {
                            () = held.over.cancelled() => return Ok(Brought::Not(Next::LeftAsItIs)),
                            () = turn.left.cancelled() => return Ok(Brought::Not(Next::LeftAsItIs)),
                            () = turn.stop.cancelled() => stopped(),
                            () = sleep(FILES_AGAIN_AFTER.saturating_mul(tries).min(FILES_AGAIN_MAX)) => continue,
                        }
                    } else {
                        failure(
                            "files_unavailable",
                            "the storage of files did not answer in time: send the message again",
                        )
                    }
                }
            };
            self.failed(held, message, failure).await?;
            return Ok(Brought::Not(Next::Ended));
        }
    }

    async fn read_file(&self, message: &Message, id: &AttachmentId) -> Result<(Attachment, Bytes)> {
        let file = self.base.store.attachments(&message.tenant_id).get(id).await?;
        let mut content = self.base.blobs.get(&file.blob_key()).await?;
        let mut bytes = BytesMut::new();
        while let Some(piece) = content.next().await {
            bytes.extend_from_slice(&piece.map_err(|error| Error::unavailable("the storage of files", error))?);
        }
        Ok((file, bytes.freeze()))
    }

    /// Takes the files of an answer from the bot. One that cannot be had is missing in the answer, since the text counts
    /// more; one that cannot be stored now is taken again for a while before.
    pub(super) async fn take_files(
        &self,
        held: &Held,
        client: &dyn BotClient,
        end_user: &str,
        message: &Message,
        references: &[String],
    ) -> Vec<AttachmentId> {
        let mut taken = Vec::with_capacity(references.len());
        let until = Instant::now() + TAKE_MAX;
        for reference in references {
            let outcome = loop {
                match self.take_file(client, end_user, message, reference).await {
                    Err(error @ Error::Unavailable { .. }) if Instant::now() < until && held.is_in_time() => {
                        tracing::debug!(error = chain(&error), "a file of an answer is taken again");
                        sleep(TAKE_AGAIN_AFTER).await;
                    }
                    outcome => break outcome,
                }
            };
            match outcome {
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
