//! Whom tenants do not want to hear from, in memory: every message asks. A tenant's whole list is remembered, so that
//! asking about somebody new costs nothing; changes come at once over the bus.

use std::{collections::HashMap, sync::Arc, time::Duration};

use astrfleet_core::{
    Error, Result,
    blocklist::{BLOCKS_MAX, Block},
    id::{BlockId, TenantId},
    time::Timestamp,
};
use moka::sync::Cache;

use crate::{app::Base, changes::Changes, tenant};

/// How long a list is believed to be as it was, where no change was heard of.
const REMEMBERED: Duration = Duration::from_mins(1);
/// Entries of all lists that are remembered, and one more for each list, at the most.
const REMEMBERED_MAX: u64 = 500_000;
/// Two who add at the same moment may exceed [`BLOCKS_MAX`]: what they added holds nevertheless.
const READ_MAX: u64 = BLOCKS_MAX * 2;

/// The lists that are remembered.
pub struct Blocked {
    lists: Cache<TenantId, Arc<List>>,
    changes: Changes,
}

/// Of one tenant.
struct List {
    by_end_user: HashMap<String, Vec<Block>>,
    read_at: Timestamp,
}

impl Default for Blocked {
    fn default() -> Self {
        let weight = |_: &TenantId, list: &Arc<List>| {
            u32::try_from(list.by_end_user.values().map(Vec::len).sum::<usize>() + 1).unwrap_or(u32::MAX)
        };
        let lists = Cache::builder().weigher(weight).max_capacity(REMEMBERED_MAX).time_to_live(REMEMBERED).build();
        Self { lists, changes: Changes::new(REMEMBERED) }
    }
}

impl Blocked {
    /// What was read of a tenant before `now` is not believed any more.
    pub(crate) fn forget(&self, tenant: &TenantId, now: Timestamp) {
        self.changes.note(tenant.as_str(), now);
    }

    /// The same for every tenant.
    pub(crate) fn forget_all(&self, now: Timestamp) {
        self.changes.note_all(now);
    }

    async fn list(&self, base: &Base, tenant: &TenantId, now: Timestamp) -> Result<Arc<List>> {
        let remembered = self.lists.get(tenant);
        let believed = |list: &Arc<List>| {
            now.since(list.read_at) < REMEMBERED && !self.changes.since(tenant.as_str(), list.read_at)
        };
        if let Some(list) = remembered.filter(believed) {
            return Ok(list);
        }
        let most = u32::try_from(READ_MAX).unwrap_or(u32::MAX);
        let mut by_end_user: HashMap<String, Vec<Block>> = HashMap::new();
        for block in base.store.blocklist(tenant).in_force(now, most).await? {
            by_end_user.entry(block.end_user.clone()).or_default().push(block);
        }
        let list = Arc::new(List { by_end_user, read_at: now });
        self.lists.insert(tenant.clone(), Arc::clone(&list));
        Ok(list)
    }
}

impl tenant::Service {
    /// Whether a tenant does not want to hear from an end user of a channel (`api`, or the bot's name of it). From
    /// memory, but for the first question about a tenant in a minute.
    ///
    /// # Errors
    /// What the store says.
    pub async fn is_blocked(&self, tenant: &TenantId, channel: &str, end_user: &str) -> Result<bool> {
        let now = self.base.clock.now();
        let list = self.blocked.list(&self.base, tenant, now).await?;
        let blocks = list.by_end_user.get(end_user);
        Ok(blocks.is_some_and(|blocks| blocks.iter().any(|block| block.holds(channel, end_user, now))))
    }

    /// Puts somebody on a tenant's list; it counts at once, in every process.
    pub(super) async fn block(&self, tenant: &TenantId, block: Block) -> Result<Block> {
        let block = block.checked(self.base.clock.now())?;
        let blocklist = self.base.store.blocklist(tenant);
        if blocklist.count().await? >= BLOCKS_MAX {
            return Err(Error::conflict(format!("the blocklist has {BLOCKS_MAX} entries: remove some first")));
        }
        let stored = blocklist.put(&block).await?;
        self.changed(tenant);
        Ok(stored)
    }

    /// Takes somebody off it again.
    pub(super) async fn unblock(&self, tenant: &TenantId, id: &BlockId) -> Result<Block> {
        let removed = self.base.store.blocklist(tenant).remove(id).await?;
        self.changed(tenant);
        Ok(removed)
    }
}
