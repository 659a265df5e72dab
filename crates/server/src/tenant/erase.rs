//! Loop `tenant.erase_due`: erases tenants whose grace period is over. First the bot with its data, which is the
//! manager's; then files; then every row, together with the proof of it. Each run takes what the one before left.

use std::time::Duration;

use astrfleet_core::{
    Error, Result,
    instance::{Desired, Instance, Observed},
    tenant::Tenant,
};

use crate::{app::App, loops::Loop, problem::chain, rights};

/// Tenants of one run, at the most.
const BATCH: u32 = 100;
const PERIOD: Duration = Duration::from_secs(10);
/// What the manager says of a bot whose data is gone.
const ERASED: &str = "erased";

pub(super) fn erase_due(app: &App) -> Loop {
    let app = app.clone();
    Loop::every("tenant.erase_due", PERIOD, move || {
        let app = app.clone();
        async move { run(&app).await }
    })
}

/// Returns how many tenants it brought a step further. One that cannot be erased does not keep the others.
async fn run(app: &App) -> Result<u64> {
    let mut changed = 0;
    for tenant in app.store.tenants().due_for_erasure(app.clock.now(), BATCH).await? {
        match erase(app, &tenant).await {
            Ok(done) => changed += u64::from(done),
            Err(error) => {
                tracing::warn!(tenant_id = %tenant.id, error = chain(&error), "a tenant could not be erased yet");
            }
        }
    }
    Ok(changed)
}

async fn erase(app: &App, tenant: &Tenant) -> Result<bool> {
    let bot = match app.store.instances(&tenant.id).get().await {
        Ok(instance) if instance.desired != Desired::Deleted => {
            // Whoever resumed it just now has made this version an old one.
            match app.store.tenants().update(tenant).await {
                Err(Error::Stale { .. }) => return Ok(false),
                outcome => outcome?,
            };
            app.tenant.want(&tenant.id, Desired::Deleted).await?;
            return Ok(true);
        }
        Ok(instance) if !is_gone(&instance) => return Ok(false),
        Ok(instance) => Some(instance.id),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    let erased = rights::erase_tenant(app, tenant, bot.as_ref()).await?;
    app.tenant.changed(&tenant.id);
    if erased {
        tracing::info!(tenant_id = %tenant.id, "a tenant was erased");
    }
    Ok(erased)
}

fn is_gone(instance: &Instance) -> bool {
    instance.observed == Observed::Deleting && instance.reason == ERASED
}
