//! What is erased for good, and the proof of it: a statement that we sign, of what was deleted, for whoever is asked later
//! whether it was. It names nobody: neither the tenant's name nor an end user's.

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::{
    Error, Result,
    attachment::blob_key,
    audit::NewEntry,
    id::{InstanceId, MessageId},
    page::PageRequest,
    policy::Action,
    ports::{BusEvent, Erased, erasure_lease},
    tenant::Tenant,
    time::Timestamp,
};
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::json;

use super::{alone::alone, export};
use crate::{
    app::App,
    auth::SYSTEM,
    context,
    extract::{InTenant, may},
    problem::chain,
};

/// What our statements are, in their headers.
const KIND: &str = "astrfleet-erasure+jwt";
/// Behind all ids of messages.
const AFTER_ALL: &str = "msg_g";
/// Rows that are deleted at once, before the last transaction of an erasure.
const BATCH: u32 = 1_000;
/// Messages that are looked through at once for those of a sender.
const LOOKED_THROUGH: u32 = 5_000;
/// The longest name that a session or an IM platform has of somebody.
const END_USER_BYTES_MAX: usize = 512;
/// Sessions that are looked up at once.
const SESSIONS: u32 = 100;
/// Whoever asks for an erasure waits so long for its end: no longer than whoever is in front of us does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Erases a tenant whose bot is gone, with everything that is stored of it. Returns whether there was anything, and nobody
/// else is at it.
pub(crate) async fn erase_tenant(app: &App, tenant: &Tenant, bot: Option<&InstanceId>) -> Result<bool> {
    match app.store.tenants().get(&tenant.id).await {
        Ok(_) => {}
        // Another process was quicker: a lease of its name would outlive it.
        Err(Error::NotFound { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    let lease = erasure_lease(&tenant.id, None);
    let erased = alone(app, &lease, |run| erase_tenant_alone(app, tenant, bot, run)).await?;
    Ok(erased.unwrap_or(false))
}

async fn erase_tenant_alone(app: &App, tenant: &Tenant, bot: Option<&InstanceId>, run: i64) -> Result<bool> {
    let id = &tenant.id;
    let bytes = app.store.attachments(id).total_bytes().await?;
    let log = app.store.audit(Some(id)).list(&PageRequest { limit: 1, after: None }).await?;
    let chain = log.items.first().map(|entry| json!({"entries": entry.seq, "hash": entry.hash}));
    app.blobs.delete_all(&format!("{id}/")).await?;
    let before = erase_ahead(app, tenant).await?;
    let proof = |erased: &Erased| {
        let mut rows = erased.clone();
        add(&mut rows, &before);
        let now = app.clock.now();
        let statement = app.auth.attest(
            KIND,
            &json!({
                "iss": "astrfleet", "iat": now.seconds(), "sub": id, "erased": "tenant", "erased_at": now, "rows": rows,
                "run": run, "attachment_bytes": bytes, "bot": bot, "audit_log": chain,
            }),
        )?;
        Ok(NewEntry {
            id: app.ids.audit(),
            tenant_id: None,
            at: now,
            actor: SYSTEM.to_owned(),
            action: Action::TenantErase.name().to_owned(),
            target: id.to_string(),
            detail: json!({"rows": rows, "attachment_bytes": bytes, "statement": statement}),
            request_id: String::new(),
        })
    };
    app.store.tenants().erase(id, &proof).await
}

/// Deletes what there may be much of before the last transaction, in which no statement is to take long.
async fn erase_ahead(app: &App, tenant: &Tenant) -> Result<Erased> {
    let rows = app.store.retention(&tenant.id);
    let mut erased = Erased::new();
    loop {
        must_go_on(app)?;
        let batch = rows.delete_messages(AFTER_ALL, BATCH).await?;
        add(&mut erased, &Erased::from([("messages".to_owned(), batch)]));
        if batch < u64::from(BATCH) {
            break;
        }
    }
    loop {
        must_go_on(app)?;
        let batch = rows.delete_events(Timestamp::from_micros(i64::MAX), BATCH).await?;
        add(&mut erased, &batch);
        if batch.values().all(|rows| *rows < u64::from(BATCH)) {
            break;
        }
    }
    loop {
        must_go_on(app)?;
        let batch = rows.delete_rest(BATCH).await?;
        add(&mut erased, &batch);
        if batch.values().all(|rows| *rows < u64::from(BATCH)) {
            return Ok(erased);
        }
    }
}

/// What is left is erased by whoever begins anew.
fn must_go_on(app: &App) -> Result<()> {
    if app.stop.is_cancelled() {
        return Err(Error::unavailable(
            "the platform, which is being stopped,",
            "an erasure goes on when it begins anew",
        ));
    }
    Ok(())
}

fn add(rows: &mut Erased, more: &Erased) {
    for (table, count) in more {
        *rows.entry(table.clone()).or_default() += count;
    }
}

/// What was erased of an end user.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct ErasedEndUser {
    /// Conversations of theirs alone, or of a group of this name.
    pub sessions: u64,
    /// Messages of them, those that they wrote in groups, and answers.
    pub messages: u64,
    /// Files of these.
    pub attachments: u64,
    /// How often their erasure was begun. What an earlier one deleted, whether it broke off or not, is not counted here.
    pub run: i64,
    /// Entries of the blocklist that stay, without a reason: whoever is not to be heard is not to be heard afterwards.
    pub kept_blocks: u64,
    /// The same, signed: a JWS, to be verified with `/.well-known/jwks.json`.
    pub statement: String,
}

/// Begins the erasure of an end user, which goes on when whoever asked for it does not wait any more, and notes it in the
/// tenant's audit log. None where it is not done after a while, or another process is at it.
///
/// # Errors
/// [`Error::Invalid`]; whatever breaks it off: then it goes on when it is asked for again.
pub(super) async fn erase_end_user(
    app: &App,
    of: InTenant<may::EndUserErase>,
    end_user: String,
) -> Result<Option<ErasedEndUser>> {
    if !(1..=END_USER_BYTES_MAX).contains(&end_user.len()) || end_user.chars().any(char::is_control) {
        let reason = format!("must have 1 to {END_USER_BYTES_MAX} bytes of UTF-8 and no control characters");
        return Err(Error::invalid("end_user", reason));
    }
    let (outcome, wanted) = tokio::sync::oneshot::channel();
    let work = {
        let app = app.clone();
        async move {
            let tenant = &of.tenant;
            let who = hash(&format!("{}/{end_user}", tenant.id));
            let lease = erasure_lease(&tenant.id, Some(&who));
            let erased = alone(&app, &lease, async |run| {
                let erased = erase_end_user_alone(&app, tenant, &end_user, &who, run).await?;
                let detail = json!({"statement": erased.statement});
                app.auth.audit(&of.caller, Some(&tenant.id), Action::EndUserErase, tenant.id.as_str(), detail).await?;
                Ok(erased)
            });
            if let Err(Err(error)) = outcome.send(erased.await) {
                tracing::warn!(tenant_id = %tenant.id, error = chain(&error), "the erasure of an end user broke off");
            }
        }
    };
    match context::current() {
        Some(context) => app.tasks.spawn(async move { context.scope(work).await }),
        None => app.tasks.spawn(work),
    };
    match tokio::time::timeout(PATIENCE, wanted).await {
        Ok(outcome) => outcome.map_err(Error::internal)?,
        Err(_) => Ok(None),
    }
}

/// Erases everything that an end user of a tenant said and was told, on whatever channel, and what speaks of it: events
/// and what webhooks were told of them, answers that are kept under an `Idempotency-Key`, and archives that have it.
async fn erase_end_user_alone(
    app: &App,
    tenant: &Tenant,
    end_user: &str,
    end_user_hash: &str,
    run: i64,
) -> Result<ErasedEndUser> {
    let mut rows = Erased::new();
    // Always: what an earlier run left of sessions is not to be seen any more, and their words are in archives.
    let exports = export::delete_all(app, &tenant.id).await?;
    let mut oldest = erase_sessions(app, tenant, end_user, &mut rows).await?;
    oldest = [oldest, erase_sent(app, tenant, end_user, &mut rows).await?].into_iter().flatten().min();
    if let Some(oldest) = &oldest {
        // Once more: somebody may have read on meanwhile.
        app.store.search(&tenant.id).forget(oldest).await?;
    }
    let kept_blocks = app.store.blocklist(&tenant.id).forget_reasons(end_user).await?;
    // And those that were begun meanwhile.
    let exports = exports + export::delete_all(app, &tenant.id).await?;
    add(&mut rows, &Erased::from([("exports".to_owned(), exports)]));
    rows.retain(|_, count| *count > 0);
    let count = |table: &str| rows.get(table).copied().unwrap_or(0);
    let now = app.clock.now();
    let statement = app.auth.attest(
        KIND,
        &json!({
            "iss": "astrfleet", "iat": now.seconds(), "sub": tenant.id, "erased": "end_user", "erased_at": now,
            "end_user_sha256": end_user_hash, "run": run, "rows": rows, "kept": {"blocklist": kept_blocks},
        }),
    )?;
    let (sessions, messages, attachments) = (count("sessions"), count("messages"), count("attachments"));
    Ok(ErasedEndUser { sessions, messages, attachments, run, kept_blocks, statement })
}

/// Erases the sessions of an end user. Returns the oldest of their messages.
async fn erase_sessions(app: &App, tenant: &Tenant, end_user: &str, erased: &mut Erased) -> Result<Option<MessageId>> {
    let rows = app.store.retention(&tenant.id);
    let mut oldest: Option<MessageId> = None;
    loop {
        must_go_on(app)?;
        let sessions = rows.end_user_sessions(end_user, SESSIONS).await?;
        if sessions.is_empty() {
            return Ok(oldest);
        }
        for session in sessions {
            let (first, attachments) = rows.session_content(&session).await?;
            for attachment in attachments {
                app.blobs.delete(&blob_key(&tenant.id, &attachment)).await?;
                rows.delete_attachment(&attachment).await?;
                add(erased, &Erased::from([("attachments".to_owned(), 1)]));
            }
            oldest = [oldest, first].into_iter().flatten().min();
            if let Some(oldest) = &oldest {
                // Before the messages go: their words are in no block from here on.
                app.store.search(&tenant.id).forget(oldest).await?;
            }
            add(erased, &rows.delete_session(&session).await?);
            app.bus.publish(BusEvent::SessionChanged(tenant.id.clone(), session));
        }
    }
}

/// Erases what somebody wrote in sessions of others: in groups, which have one session for all. Such messages have no
/// files. Returns the oldest of them.
async fn erase_sent(app: &App, tenant: &Tenant, sender: &str, erased: &mut Erased) -> Result<Option<MessageId>> {
    let rows = app.store.retention(&tenant.id);
    if !rows.has_channels().await? {
        return Ok(None);
    }
    let mut oldest: Option<MessageId> = None;
    let mut after: Option<MessageId> = None;
    loop {
        must_go_on(app)?;
        let sent = rows.sent_by(sender, after.as_ref(), LOOKED_THROUGH).await?;
        oldest = oldest.or_else(|| sent.messages.first().map(|(id, _)| id.clone()));
        if let (Some(oldest), false) = (&oldest, sent.messages.is_empty()) {
            app.store.search(&tenant.id).forget(oldest).await?;
        }
        let mut sessions = BTreeSet::new();
        for (message, session) in sent.messages {
            add(erased, &Erased::from([("messages".to_owned(), rows.delete_message(&message).await?)]));
            sessions.insert(session);
        }
        for session in sessions {
            add(erased, &rows.delete_untold(&session).await?);
            app.bus.publish(BusEvent::SessionChanged(tenant.id.clone(), session));
        }
        match sent.last {
            Some(last) => after = Some(last),
            None => return Ok(oldest),
        }
    }
}

fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
