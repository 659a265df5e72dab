//! Loop `rights.retain`: what was said is kept as long as the tenant, or its plan, wants it. Months of messages are made
//! ahead, and dropped as a whole where nobody keeps them any longer; the rest is deleted tenant by tenant, in batches. What
//! was told of it is kept no longer than it.

use std::time::Duration;

use astrfleet_core::{
    Result,
    attachment::blob_key,
    id::{AttachmentId, MessageId, TenantId},
    page::PageRequest,
    time::Timestamp,
};

use crate::{
    app::App,
    config::seconds,
    loops::{Loop, batches},
    problem::chain,
};

const PERIOD: Duration = Duration::from_hours(1);
/// Rows of one statement.
const BATCH: u32 = 500;
/// Batches of one run for one tenant and one kind, at the most: others have their turn too.
const BATCHES: u32 = 200;
/// Months that are there before they begin.
const MONTHS_AHEAD: u32 = 2;
const DAY: Duration = Duration::from_hours(24);
/// Longer than any month.
const MONTH: Duration = Duration::from_hours(32 * 24);

pub(super) fn retain(app: &App) -> Loop {
    let app = app.clone();
    Loop::every("rights.retain", PERIOD, move || {
        let app = app.clone();
        async move { run(&app).await }
    })
}

/// Returns how much it made and deleted. What cannot be done for one tenant does not keep the others.
async fn run(app: &App) -> Result<u64> {
    let mut changed = match make_months(app).await {
        Ok(made) => made,
        Err(error) => {
            // Nothing is lost: what belongs to no month is kept apart, and moves when there is one.
            tracing::warn!(error = chain(&error), "the next months of messages could not be made");
            0
        }
    };
    let (limited, everybody) = limited(app).await?;
    if everybody && let Some(oldest) = limited.iter().map(|(_, before)| *before).min() {
        let system = app.store.system("drop months of messages that nobody keeps");
        match system.drop_message_months(&MessageId::edge(oldest)).await {
            Ok(dropped) => changed += dropped,
            Err(error) => tracing::warn!(error = chain(&error), "months of messages could not be dropped"),
        }
    }
    for (tenant, before) in limited {
        if app.stop.is_cancelled() {
            break;
        }
        match delete(app, &tenant, before).await {
            Ok(deleted) => changed += deleted,
            Err(error) => {
                tracing::warn!(tenant_id = %tenant, error = chain(&error), "what is too old could not be deleted yet");
            }
        }
    }
    Ok(changed)
}

async fn make_months(app: &App) -> Result<u64> {
    let system = app.store.system("make the next months of messages");
    let (mut moment, mut made) = (app.clock.now().month_start(), 0);
    for _ in 0..=MONTHS_AHEAD {
        made += u64::from(system.make_message_month(moment).await?);
        moment = moment.plus(MONTH).month_start();
    }
    Ok(made)
}

/// The tenants that do not keep everything, and since when they keep; and whether these are all tenants.
async fn limited(app: &App) -> Result<(Vec<(TenantId, Timestamp)>, bool)> {
    let (mut limited, mut everybody) = (Vec::new(), true);
    let (now, mut page) = (app.clock.now(), PageRequest::first());
    loop {
        let tenants = app.store.tenants().list(&page).await?;
        for tenant in tenants.items {
            match app.tenant.plan(&tenant)?.retention(tenant.retention_days) {
                Some(days) => limited.push((tenant.id, now.minus(DAY.saturating_mul(days)))),
                None => everybody = false,
            }
        }
        match tenants.next_cursor {
            Some(cursor) => page.after = Some(cursor),
            None => return Ok((limited, everybody)),
        }
    }
}

async fn delete(app: &App, tenant: &TenantId, before: Timestamp) -> Result<u64> {
    let rows = app.store.retention(tenant);
    let edge = MessageId::edge(before);
    let mut deleted = batches(&app.stop, BATCHES, BATCH, || rows.delete_messages(&edge, BATCH)).await?;
    app.store.search(tenant).forget_before(&edge).await?;
    let files = async || {
        let files = rows.attachments(&AttachmentId::edge(before), BATCH).await?;
        for file in &files {
            app.blobs.delete(&blob_key(tenant, file)).await?;
            rows.delete_attachment(file).await?;
        }
        Ok(files.len() as u64)
    };
    deleted += batches(&app.stop, BATCHES, BATCH, files).await?;
    if is_told_longer(app, before) {
        // Of two kinds, so there may be twice as many: then it goes on once in vain.
        let told = async || Ok(rows.delete_events(before, BATCH).await?.values().sum());
        deleted += batches(&app.stop, BATCHES, BATCH, told).await?;
    }
    deleted += batches(&app.stop, BATCHES, BATCH, || rows.delete_sessions(before, BATCH)).await?;
    if deleted > 0 {
        tracing::info!(tenant_id = %tenant, deleted, "what was kept long enough was deleted");
    }
    Ok(deleted)
}

/// Whether events or deliveries are kept for longer than what they tell of.
fn is_told_longer(app: &App, before: Timestamp) -> bool {
    let told_s = app.config.events.retention_s.max(app.config.webhooks.retention_s);
    app.clock.now().minus(seconds(told_s)) < before
}
