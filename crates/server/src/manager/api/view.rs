//! A bot as the API shows it.

use astrfleet_core::{
    Error,
    channel::Channel,
    id::{InstanceId, TenantId},
    instance::{Desired, Instance, Observed},
    ports::BotStatus,
    tenant::Tenant,
    time::Timestamp,
};
use serde::Serialize;

use crate::app::App;

/// A tenant's bot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = Instance)]
pub struct InstanceView {
    /// `bot_…`
    pub id: InstanceId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What is wanted.
    pub desired: Desired,
    /// What is seen.
    pub observed: Observed,
    /// Whether it answers now.
    pub ready: bool,
    /// Grows with every start.
    pub generation: i64,
    /// Why it is in this state, in words; empty where there is nothing to say.
    pub reason: String,
    /// Since when it has been in this state.
    pub since: Timestamp,
    /// Its AstrBot's version; empty before the first start.
    pub version: String,
    /// The host of its own dashboard; `POST …/instance/open` gives a link that is signed in.
    pub url: String,
    /// The IM platforms that it serves, as it said a moment ago; none while it does not answer.
    pub channels: Vec<ChannelState>,
    /// Exits that nobody asked for, since it last ran quietly for a while.
    pub restarts: u32,
    /// Resident memory, in bytes; 0 while it does not run.
    pub memory_bytes: u64,
}

/// A channel in short; `…/channels` has the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ChannelState {
    /// The bot's name of it.
    pub id: String,
    /// The bot's name of the IM platform.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it works now.
    pub connected: bool,
}

impl From<Channel> for ChannelState {
    fn from(channel: Channel) -> Self {
        Self { id: channel.id, kind: channel.kind, connected: channel.connected }
    }
}

impl InstanceView {
    /// Looks at a bot.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn of(app: &App, tenant: &Tenant, instance: Instance) -> astrfleet_core::Result<Self> {
        let memory_bytes = match app.manager.process(&tenant.id, &instance.id).await {
            Ok(BotStatus::Running { memory_bytes, .. }) => memory_bytes,
            // Unavailable: another process takes the bots over. All else about them stands in the store.
            Ok(BotStatus::Absent | BotStatus::Exited { .. }) | Err(Error::Unavailable { .. }) => 0,
            Err(error) => return Err(error),
        };
        Ok(Self {
            channels: app.manager.channel_states(&instance).await,
            ready: instance.is_ready(),
            url: app.gateway.dashboard_url(&tenant.name),
            id: instance.id,
            tenant_id: instance.tenant_id,
            desired: instance.desired,
            observed: instance.observed,
            generation: instance.generation,
            reason: instance.reason,
            since: instance.since,
            version: instance.version,
            restarts: instance.restarts,
            memory_bytes,
        })
    }
}
