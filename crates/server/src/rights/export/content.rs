//! What is in an archive, file by file. Rows come in pages, and go into files of a few megabytes, a JSON object a line.

use std::collections::BTreeMap;

use astrfleet_core::{
    Error, Result,
    export::{Export, LEFT_OUT},
    id::{AttachmentId, MessageId},
    page::{Page, PageRequest},
    tenant::Tenant,
};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;

use super::archive::Archive;
use crate::app::App;

/// The shape of the archive: grows when a reader has to know.
const SCHEMA: u32 = 1;
/// A file of lines is ended when it has so much.
const LINES_BYTES: usize = 4 * 1024 * 1024;
/// Messages of one page: each has at most 32 KiB.
const PAGE: u32 = 128;

/// Lines of one kind, dealt into files: `messages/000001.jsonl`.
struct Lines {
    kind: &'static str,
    buffer: Vec<u8>,
    files: u32,
    count: u64,
}

impl Lines {
    fn new(kind: &'static str) -> Self {
        Self { kind, buffer: Vec::new(), files: 0, count: 0 }
    }

    async fn add(&mut self, archive: &mut Archive, row: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.buffer, row).map_err(Error::internal)?;
        self.buffer.push(b'\n');
        self.count += 1;
        if self.buffer.len() >= LINES_BYTES { self.flush(archive).await } else { Ok(()) }
    }

    async fn flush(&mut self, archive: &mut Archive) -> Result<()> {
        self.files += 1;
        archive.file(&format!("{}/{:06}.jsonl", self.kind, self.files), &self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left. Returns the name and the number of lines, for the manifest.
    async fn end(mut self, archive: &mut Archive) -> Result<(&'static str, u64)> {
        if !self.buffer.is_empty() || self.files == 0 {
            self.flush(archive).await?;
        }
        Ok((self.kind, self.count))
    }
}

/// How far an export is, for whoever waits for it, and whether it is still ours.
struct Progress<'a> {
    app: &'a App,
    export: &'a Export,
    attempt: i64,
    done: u64,
    total: u64,
}

impl Progress<'_> {
    async fn note(&mut self, more: u64) -> Result<()> {
        self.done += more;
        let exports = self.app.store.exports(&self.export.tenant_id);
        let now = self.app.clock.now();
        if !exports.progress(&self.export.id, self.attempt, self.done, self.total.max(self.done), now).await? {
            return Err(Error::conflict("this export was deleted, or is somebody else's now"));
        }
        if self.app.stop.is_cancelled() {
            return Err(Error::unavailable("the platform, which is being stopped,", "an export goes on later"));
        }
        Ok(())
    }
}

/// Every page of a list, one after the other, as lines.
macro_rules! pages {
    ($archive:expr, $kind:literal, $progress:expr, $page:ident => $list:expr) => {{
        let mut lines = Lines::new($kind);
        let mut $page = PageRequest::first();
        loop {
            let Page { items, next_cursor } = $list;
            for item in &items {
                lines.add($archive, item).await?;
            }
            $progress.note(0).await?;
            match next_cursor {
                Some(cursor) => $page.after = Some(cursor),
                None => break,
            }
        }
        lines.end($archive).await?
    }};
}

/// Writes all of it. Returns the size and the SHA-256 of the archive.
pub(super) async fn write(
    app: &App,
    tenant: &Tenant,
    export: &Export,
    attempt: i64,
    mut archive: Archive,
) -> Result<(u64, String)> {
    let (id, store) = (&tenant.id, &app.store);
    let total = store.exports(id).total().await?;
    let mut progress = Progress { app, export, attempt, done: 0, total };
    progress.note(0).await?;
    let out = &mut archive;
    out.file("tenant.json", &serde_json::to_vec_pretty(tenant).map_err(Error::internal)?).await?;
    let mut counts = vec![
        pages!(out, "members", progress, page => store.members(id).list(&page).await?),
        pages!(out, "invitations", progress, page => store.invitations(id).list(&page).await?),
        pages!(out, "api_keys", progress, page => store.api_keys(id).list(&page).await?),
        pages!(out, "blocklist", progress, page => store.blocklist(id).list(&page).await?),
        pages!(out, "sessions", progress, page => store.sessions(id).list(None, &page).await?),
        pages!(out, "usage", progress, page => store.usage(id).list(&page).await?),
        pages!(out, "audit", progress, page => store.audit(Some(id)).list(&page).await?),
        pages!(out, "webhooks", progress, page => store.webhooks(id).list(&page).await?),
    ];
    counts.push(channels(app, tenant, out).await?);
    counts.push(messages(app, tenant, out, &mut progress).await?);
    let (files, missing) = attachments(app, tenant, out, &mut progress).await?;
    counts.extend(files);
    let manifest = json!({
        "schema": SCHEMA,
        "export": export.id,
        "tenant": tenant.id,
        "asked_at": export.created_at,
        "written_at": app.clock.now(),
        "version": env!("CARGO_PKG_VERSION"),
        "counts": counts.into_iter().collect::<BTreeMap<_, _>>(),
        "left_out": LEFT_OUT.iter().copied().collect::<BTreeMap<_, _>>(),
        "missing_files": missing,
        "files": archive.files,
    });
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(Error::internal)?;
    archive.file("manifest.json", &manifest).await?;
    archive.finish().await
}

/// The bot's channels, where it runs. Their secrets are masked by whoever asks it.
async fn channels(app: &App, tenant: &Tenant, archive: &mut Archive) -> Result<(&'static str, u64)> {
    let listed = match app.manager.client(tenant) {
        Ok(bot) => bot.channels().await,
        Err(error) => Err(error),
    };
    let content = match &listed {
        Ok(channels) => json!({"channels": channels}),
        Err(error) => json!({"channels": [], "why_none": error.to_string()}),
    };
    archive.file("channels.json", &serde_json::to_vec_pretty(&content).map_err(Error::internal)?).await?;
    Ok(("channels", listed.map_or(0, |channels| channels.len() as u64)))
}

async fn messages(
    app: &App,
    tenant: &Tenant,
    archive: &mut Archive,
    progress: &mut Progress<'_>,
) -> Result<(&'static str, u64)> {
    let mut lines = Lines::new("messages");
    let mut after: Option<MessageId> = None;
    loop {
        let page = app.store.exports(&tenant.id).messages(after.as_ref(), PAGE).await?;
        for message in &page {
            lines.add(archive, message).await?;
        }
        progress.note(page.len() as u64).await?;
        match page.into_iter().last() {
            Some(last) => after = Some(last.id),
            None => return lines.end(archive).await,
        }
    }
}

/// What is known of each file, and its content. Returns the numbers of both, and the ids of those whose content is gone.
async fn attachments(
    app: &App,
    tenant: &Tenant,
    archive: &mut Archive,
    progress: &mut Progress<'_>,
) -> Result<([(&'static str, u64); 2], Vec<AttachmentId>)> {
    let mut lines = Lines::new("attachments");
    let (mut written, mut missing) = (0, Vec::new());
    let mut after: Option<AttachmentId> = None;
    loop {
        let page = app.store.exports(&tenant.id).attachments(after.as_ref(), PAGE).await?;
        for file in &page {
            lines.add(archive, file).await?;
            match app.blobs.get(&file.blob_key()).await {
                Ok(mut content) => {
                    archive.begin(&format!("files/{}", file.id), file.size).await?;
                    while let Some(piece) = content.next().await {
                        let piece = piece.map_err(|error| Error::unavailable("the storage of files", error))?;
                        archive.piece(&piece).await?;
                    }
                    archive.end().await?;
                    written += 1;
                }
                Err(Error::NotFound { .. }) => missing.push(file.id.clone()),
                Err(error) => return Err(error),
            }
            progress.note(1).await?;
        }
        match page.into_iter().last() {
            Some(last) => after = Some(last.id),
            None => return Ok(([lines.end(archive).await?, ("files", written)], missing)),
        }
    }
}
