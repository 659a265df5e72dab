//! Exports: everything that is stored of a tenant, as one archive among the blobs. The loop `rights.export` writes those
//! that wait, one at a time; one that its process did not finish is begun anew by whoever comes next. Nothing of it is
//! held in memory but a page of rows and a piece of the archive.
//!
//! Left out: passwords, the hashes of keys and tokens, secrets of channels and webhooks, the bot's own data, which is the
//! bot's, and what comes of the rest by itself: see `LEFT_OUT` in `astrfleet_core::export`.

mod archive;
mod content;

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    export::{Export, State},
    id::{ExportId, TenantId},
    ports::BlobStream,
    tenant::Tenant,
};
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use self::archive::Archive;
use crate::{app::App, config::seconds, loops::Loop, problem::chain};

const PERIOD: Duration = Duration::from_secs(30);
/// An export that came no further for so long has lost whoever wrote it.
const ABANDONED_AFTER: Duration = Duration::from_mins(5);
/// How often one is begun.
const ATTEMPTS_MAX: i64 = 3;
/// Exports that are kept of one tenant, done or not.
pub(super) const KEPT_MAX: u32 = 10;
/// Exports of one run.
const BATCH: u32 = 20;
/// Pieces of an archive that wait to be stored.
const PIECES: usize = 4;
/// The largest archive.
const ARCHIVE_BYTES_MAX: u64 = 1 << 40;

/// Wakes the loop when somebody asks for an export.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wake(Arc<Notify>);

/// Asks for an export of a tenant.
pub(super) async fn request(app: &App, tenant: &TenantId, actor: &str) -> Result<Export> {
    let exports = app.store.exports(tenant);
    let kept = exports.list(KEPT_MAX).await?;
    if let Some(open) = kept.iter().find(|export| matches!(export.state, State::Pending | State::Running)) {
        return Err(Error::conflict(format!("the export {} is being made: wait for it, or delete it", open.id)));
    }
    if kept.len() >= KEPT_MAX as usize {
        return Err(Error::conflict(format!("there are {KEPT_MAX} exports: delete one first")));
    }
    let now = app.clock.now();
    let export = Export {
        id: app.ids.export(),
        tenant_id: tenant.clone(),
        state: State::Pending,
        done: 0,
        total: 0,
        requested_by: actor.to_owned(),
        created_at: now,
        updated_at: now,
        expires_at: now.plus(seconds(app.config.tenant.export_ttl_s)),
        size: None,
        sha256: None,
        failure: None,
    };
    exports.insert(&export).await?;
    app.tenant.export_wake.0.notify_one();
    Ok(export)
}

/// Deletes an export with its archive. One that is being written comes to nothing.
pub(super) async fn delete(app: &App, tenant: &TenantId, id: &ExportId) -> Result<()> {
    let exports = app.store.exports(tenant);
    let export = exports.get(id).await?;
    // The archive first: while its row is there, whoever asks again, and the loop when its time is over, know of it.
    app.blobs.delete(&export.blob_key()).await?;
    exports.delete(id).await?;
    if matches!(export.state, State::Pending | State::Running) {
        // Somebody may have stored it in between. Whoever does so later deletes it when they find its row gone.
        app.blobs.delete(&export.blob_key()).await?;
    }
    Ok(())
}

/// Deletes all exports of a tenant. Returns how many there were.
pub(super) async fn delete_all(app: &App, tenant: &TenantId) -> Result<u64> {
    let mut deleted = 0;
    loop {
        // Two who asked at the same moment may have made more than are to be kept.
        let some = app.store.exports(tenant).list(KEPT_MAX).await?;
        if some.is_empty() {
            return Ok(deleted);
        }
        for export in some {
            match delete(app, tenant, &export.id).await {
                Ok(()) => deleted += 1,
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

pub(super) fn export(app: &App) -> Loop {
    let (app, wake) = (app.clone(), Arc::clone(&app.tenant.export_wake.0));
    Loop::woken("rights.export", PERIOD, wake, move || {
        let app = app.clone();
        async move { run(&app).await }
    })
}

/// Returns how many were written or deleted.
async fn run(app: &App) -> Result<u64> {
    let mut changed = 0;
    let now = app.clock.now();
    for export in app.store.system("delete exports whose time is over").expired_exports(now, BATCH).await? {
        match delete(app, &export.tenant_id, &export.id).await {
            Ok(()) | Err(Error::NotFound { .. }) => changed += 1,
            Err(error) => {
                tracing::warn!(export_id = %export.id, error = chain(&error), "an export could not be deleted");
            }
        }
    }
    let system = app.store.system("write exports that wait");
    for (export, attempts) in system.open_exports(now.minus(ABANDONED_AFTER), BATCH).await? {
        if app.stop.is_cancelled() {
            break;
        }
        changed += u64::from(write_one(app, &export, attempts).await?);
    }
    Ok(changed)
}

/// Returns whether it was ours to write.
async fn write_one(app: &App, export: &Export, attempts: i64) -> Result<bool> {
    let exports = app.store.exports(&export.tenant_id);
    if !exports.claim(&export.id, attempts, app.clock.now()).await? {
        return Ok(false);
    }
    let attempt = attempts + 1;
    tracing::info!(tenant_id = %export.tenant_id, export_id = %export.id, attempt, "an export begins");
    let written = write(app, export, attempt).await;
    let outcome = match written {
        Ok(written) => Ok(written),
        // That is nobody's fault: another process begins it at once.
        Err(_) if app.stop.is_cancelled() => {
            exports.release(&export.id, attempt, app.clock.now()).await?;
            tracing::info!(export_id = %export.id, "an export waits for another process: this one ends");
            return Ok(true);
        }
        // It goes on with the next run, from its beginning.
        Err(error) if attempt < ATTEMPTS_MAX => {
            tracing::warn!(export_id = %export.id, attempt, error = chain(&error), "an export broke off");
            return Ok(true);
        }
        Err(error) => {
            tracing::error!(export_id = %export.id, error = chain(&error), error_code = "internal", "an export failed");
            Err(error.to_string())
        }
    };
    if !exports.finish(&export.id, attempt, outcome, app.clock.now()).await? {
        // Deleted meanwhile, or somebody else's.
        match exports.get(&export.id).await {
            Err(Error::NotFound { .. }) => app.blobs.delete(&export.blob_key()).await?,
            outcome => drop(outcome?),
        }
        return Ok(true);
    }
    tracing::info!(tenant_id = %export.tenant_id, export_id = %export.id, "an export is done");
    Ok(true)
}

/// Writes the archive and stores it, at the same time.
async fn write(app: &App, export: &Export, attempt: i64) -> Result<(u64, String)> {
    let tenant: Tenant = app.store.tenants().get(&export.tenant_id).await?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let modified_s = u64::try_from(export.created_at.seconds()).unwrap_or(0);
    let archive = Archive::new(sender.clone(), modified_s)?;
    let writing = async {
        let written = content::write(app, &tenant, export, attempt, archive).await;
        if written.is_err() {
            // What was stored of it so far is no archive: the storage is to forget it.
            let broken = std::io::Error::other("the export broke off");
            sender.send(Err(broken)).await.ok();
        }
        drop(sender);
        written
    };
    let pieces: BlobStream = ReceiverStream::new(receiver).boxed();
    let key = export.blob_key();
    let storing = app.blobs.put(&key, pieces, ARCHIVE_BYTES_MAX);
    let (written, stored) = tokio::join!(writing, storing);
    let (size, sha256) = match (written, stored.as_ref()) {
        (Err(error), Err(of_storage)) => {
            tracing::warn!(export_id = %export.id, error = chain(of_storage), "an archive was not stored");
            return Err(error);
        }
        (written, _) => written?,
    };
    if stored? != size {
        return Err(Error::internal("the archive was stored with another size"));
    }
    Ok((size, sha256))
}
