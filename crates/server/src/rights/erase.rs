//! What is erased for good, and the proof of it: a statement that we sign, of what was deleted, for whoever is asked later
//! whether it was. It names nobody: neither the tenant's name nor an end user's.

use astrfleet_core::{
    Result,
    attachment::blob_key,
    audit::NewEntry,
    id::{InstanceId, MessageId},
    page::PageRequest,
    policy::Action,
    ports::{BusEvent, Erased},
    tenant::Tenant,
};
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::json;

use crate::{app::App, auth::SYSTEM};

/// What our statements are, in their headers.
const KIND: &str = "astrfleet-erasure+jwt";
/// Behind all ids of messages.
const AFTER_ALL: &str = "msg_g";
/// Messages that are deleted at once, before the last transaction: none of its statements is to take long.
const BATCH: u32 = 1_000;
/// Sessions that are looked up at once.
const SESSIONS: u32 = 100;

/// Erases a tenant whose bot is gone, with everything that is stored of it. Returns whether there was anything.
pub(crate) async fn erase_tenant(app: &App, tenant: &Tenant, bot: Option<&InstanceId>) -> Result<bool> {
    let id = &tenant.id;
    let bytes = app.store.attachments(id).total_bytes().await?;
    let log = app.store.audit(Some(id)).list(&PageRequest { limit: 1, after: None }).await?;
    let chain = log.items.first().map(|entry| json!({"entries": entry.seq, "hash": entry.hash}));
    app.blobs.delete_all(&format!("{id}/")).await?;
    let mut messages = 0;
    loop {
        let batch = app.store.retention(id).delete_messages(AFTER_ALL, BATCH).await?;
        messages += batch;
        if batch < u64::from(BATCH) {
            break;
        }
    }
    let proof = |erased: &Erased| {
        let mut rows = erased.clone();
        *rows.entry("messages".to_owned()).or_default() += messages;
        let now = app.clock.now();
        let statement = app.auth.attest(
            KIND,
            &json!({
                "iss": "astrfleet", "iat": now.seconds(), "sub": id, "erased": "tenant", "erased_at": now, "rows": rows,
                "attachment_bytes": bytes, "bot": bot, "audit_log": chain,
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

/// What was erased of an end user.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct ErasedEndUser {
    /// Conversations.
    pub sessions: u64,
    /// Messages of them, and answers.
    pub messages: u64,
    /// Files of these.
    pub attachments: u64,
    /// The same, signed: a JWS, to be verified with `/.well-known/jwks.json`.
    pub statement: String,
}

/// Erases everything that an end user of a tenant said and was told, on whatever channel.
pub(super) async fn erase_end_user(app: &App, tenant: &Tenant, end_user: &str) -> Result<ErasedEndUser> {
    let rows = app.store.retention(&tenant.id);
    let mut erased = ErasedEndUser::default();
    let mut oldest: Option<MessageId> = None;
    loop {
        let sessions = rows.end_user_sessions(end_user, SESSIONS).await?;
        if sessions.is_empty() {
            break;
        }
        for session in sessions {
            let (first, attachments) = rows.session_content(&session).await?;
            for attachment in attachments {
                app.blobs.delete(&blob_key(&tenant.id, &attachment)).await?;
                rows.delete_attachment(&attachment).await?;
                erased.attachments += 1;
            }
            oldest = [oldest, first].into_iter().flatten().min();
            if let Some(oldest) = &oldest {
                // Before the messages go: their words are in no block from here on.
                app.store.search(&tenant.id).forget(oldest).await?;
            }
            erased.messages += rows.delete_session(&session).await?;
            erased.sessions += 1;
            app.bus.publish(BusEvent::SessionChanged(tenant.id.clone(), session));
        }
    }
    if let Some(oldest) = &oldest {
        app.store.search(&tenant.id).forget(oldest).await?;
    }
    let now = app.clock.now();
    erased.statement = app.auth.attest(
        KIND,
        &json!({
            "iss": "astrfleet", "iat": now.seconds(), "sub": tenant.id, "erased": "end_user", "erased_at": now,
            "end_user_sha256": hash(&format!("{}/{end_user}", tenant.id)),
            "rows": {"sessions": erased.sessions, "messages": erased.messages, "attachments": erased.attachments},
        }),
    )?;
    Ok(erased)
}

fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
