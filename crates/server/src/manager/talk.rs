//! Talking to a tenant's bot on behalf of the API: its client, where it answers, and its channels as the bot's own view
//! shows them, remembered for a moment.

use std::{sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result, channel::Channel, id::InstanceId, instance::Instance, ports::BotClient, tenant::Tenant,
};
use moka::sync::Cache;

use super::{Route, Service, api::view::ChannelState, in_words};

/// How long a bot may take to say which channels it has, where they are only a part of an answer.
const CHANNELS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long they are remembered.
const CHANNELS_TTL: Duration = Duration::from_secs(10);
/// Bots whose channels are remembered.
const CHANNELS_OF_BOTS_MAX: u64 = 10_000;

/// The channels of one start of a bot.
pub(super) type ChannelCache = Cache<(InstanceId, i64), Arc<[ChannelState]>>;

pub(super) fn channel_cache() -> ChannelCache {
    Cache::builder().max_capacity(CHANNELS_OF_BOTS_MAX).time_to_live(CHANNELS_TTL).build()
}

impl Service {
    /// A client of a tenant's bot.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it does not answer now, with the reason.
    pub fn client(&self, tenant: &Tenant) -> Result<Box<dyn BotClient>> {
        match self.route(&tenant.id) {
            Route::Ready { access, .. } => Ok(self.base.bots.client(&access)),
            Route::NotReady { observed, reason } => Err(Error::conflict(format!(
                "this takes a bot that is ready: wait (`GET …/instance` shows it), or start it; now {}",
                in_words(observed, &reason)
            ))),
        }
    }

    /// Which channels a bot serves: empty where it does not say so in time.
    pub(super) async fn channel_states(&self, instance: &Instance) -> Vec<ChannelState> {
        let (true, Ok(access)) = (instance.is_ready(), self.access(instance)) else { return Vec::new() };
        let key = (instance.id.clone(), instance.generation);
        if let Some(channels) = self.channels.get(&key) {
            return channels.to_vec();
        }
        let bot = self.base.bots.client(&access);
        let Ok(Ok(channels)) = tokio::time::timeout(CHANNELS_TIMEOUT, bot.channels()).await else {
            tracing::debug!(instance_id = %instance.id, "a bot did not name its channels in time");
            return Vec::new();
        };
        let channels: Arc<[ChannelState]> = channels.into_iter().map(ChannelState::from).collect();
        self.channels.insert(key, Arc::clone(&channels));
        channels.to_vec()
    }

    /// They were changed just now.
    pub(super) fn forget_channels(&self, tenant: &Tenant) {
        let bot = self.known().get(&tenant.id).map(|known| (known.instance.id.clone(), known.instance.generation));
        if let Some(key) = bot {
            self.channels.invalidate(&key);
        }
    }
}

/// With the address that the IM platform has to be given: below the tenant's name, not the bot's own.
pub(super) fn reachable(tenant: &Tenant, channel: Channel) -> Channel {
    let webhook_path = channel
        .webhook_path
        .as_deref()
        .and_then(|path| path.rsplit('/').next())
        .map(|webhook| format!("/hooks/{}/{webhook}", tenant.name));
    Channel { webhook_path, ..channel }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{channel::Channel, tenant::Status};
    use serde_json::json;

    use super::reachable;
    use crate::manager::decide::tests::tenant;

    #[test]
    fn a_webhook_is_reached_below_the_tenants_name() {
        let channel = Channel {
            id: "line".to_owned(),
            kind: "line".to_owned(),
            enabled: true,
            connected: true,
            status: "running".to_owned(),
            last_error: None,
            webhook_path: Some("/hooks/0123456789abcdef".to_owned()),
            settings: json!({}),
        };
        let shown = reachable(&tenant(Status::Active), channel.clone());
        assert_eq!(shown.webhook_path.as_deref(), Some("/hooks/acme/0123456789abcdef"));
        assert_eq!(reachable(&tenant(Status::Active), shown.clone()), shown);
        let without = Channel { webhook_path: None, ..channel };
        assert_eq!(reachable(&tenant(Status::Active), without.clone()), without);
    }
}
