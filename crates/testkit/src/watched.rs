//! Parts of a platform as a test watches them: how often something is read, what happens between two reads, and a storage
//! that is away for a while.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    event::{Brief, Event, NewEvent},
    id::{SessionId, TenantId, WebhookId},
    page::{Page, PageRequest},
    ports::{
        ApiKeys, Attachments, AuditLog, BlobStream, Blobs, Blocklist, Bridge, Budgets, Deliveries, Events, Exports,
        Fence, Idempotency, Instances, Invitations, Leases, Members, Messages, NewDelivery, RefreshTokens, Retention,
        SealedSecrets, Search, Sessions, Store, System, Tenants, UsageLedger, Users, Webhooks,
    },
    time::Timestamp,
    webhook::Webhook,
};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

/// What a test sees of what is watched, and does in between. Calls have names such as `events.after`.
#[derive(Clone, Default)]
pub struct Eyes(Arc<Seen>);

#[derive(Default)]
struct Seen {
    calls: Mutex<BTreeMap<&'static str, usize>>,
    before: Mutex<HashMap<&'static str, BoxFuture<'static, ()>>>,
    after: Mutex<HashMap<&'static str, BoxFuture<'static, ()>>>,
}

impl Eyes {
    /// How often something was called.
    #[must_use]
    pub fn calls(&self, name: &str) -> usize {
        self.0.calls.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// The next call of this name waits until `work` is done.
    pub fn before(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.before.lock().unwrap().insert(name, Box::pin(work));
    }

    /// What the next call of this name found is handed out when `work` is done.
    pub fn after(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.after.lock().unwrap().insert(name, Box::pin(work));
    }

    async fn watch<T>(&self, name: &'static str, call: impl Future<Output = T>) -> T {
        *self.0.calls.lock().unwrap().entry(name).or_default() += 1;
        let before = self.0.before.lock().unwrap().remove(name);
        if let Some(work) = before {
            work.await;
        }
        let answer = call.await;
        let after = self.0.after.lock().unwrap().remove(name);
        if let Some(work) = after {
            work.await;
        }
        answer
    }
}

/// A store whose reads of events and places are watched.
pub struct WatchedStore {
    /// The store.
    pub inner: Arc<dyn Store>,
    /// Who watches.
    pub eyes: Eyes,
}

/// Ports that are handed out for a tenant, as they are.
macro_rules! as_they_are {
    ($($name:ident: $port:ident,)*) => {
        $(fn $name(&self, tenant: &TenantId) -> Box<dyn $port> {
            self.inner.$name(tenant)
        })*
    };
}

impl Store for WatchedStore {
    as_they_are! {
        members: Members,
        invitations: Invitations,
        api_keys: ApiKeys,
        instances: Instances,
        sessions: Sessions,
        messages: Messages,
        search: Search,
        bridge: Bridge,
        retention: Retention,
        exports: Exports,
        attachments: Attachments,
        blocklist: Blocklist,
        usage: UsageLedger,
        budgets: Budgets,
    }

    fn tenants(&self) -> Box<dyn Tenants> {
        self.inner.tenants()
    }

    fn users(&self) -> Box<dyn Users> {
        self.inner.users()
    }

    fn refresh_tokens(&self) -> Box<dyn RefreshTokens> {
        self.inner.refresh_tokens()
    }

    fn audit(&self, tenant: Option<&TenantId>) -> Box<dyn AuditLog> {
        self.inner.audit(tenant)
    }

    fn fenced_messages(&self, tenant: &TenantId, fence: &Fence) -> Box<dyn Messages> {
        self.inner.fenced_messages(tenant, fence)
    }

    fn events(&self, tenant: &TenantId) -> Box<dyn Events> {
        Box::new(WatchedEvents { inner: self.inner.events(tenant), eyes: self.eyes.clone() })
    }

    fn webhooks(&self, tenant: &TenantId) -> Box<dyn Webhooks> {
        Box::new(WatchedWebhooks { inner: self.inner.webhooks(tenant), eyes: self.eyes.clone() })
    }

    fn deliveries(&self, tenant: &TenantId, webhook: &WebhookId) -> Box<dyn Deliveries> {
        self.inner.deliveries(tenant, webhook)
    }

    fn idempotency(&self, owner: &str) -> Box<dyn Idempotency> {
        self.inner.idempotency(owner)
    }

    fn leases(&self) -> Box<dyn Leases> {
        self.inner.leases()
    }

    fn system(&self, reason: &'static str) -> Box<dyn System> {
        self.inner.system(reason)
    }
}

struct WatchedEvents {
    inner: Box<dyn Events>,
    eyes: Eyes,
}

#[async_trait]
impl Events for WatchedEvents {
    async fn bounds(&self) -> Result<(i64, i64)> {
        self.eyes.watch("events.bounds", self.inner.bounds()).await
    }

    async fn after(&self, seq: i64, session: Option<&SessionId>, limit: u32) -> Result<Vec<Event>> {
        self.eyes.watch("events.after", self.inner.after(seq, session, limit)).await
    }

    async fn brief_after(&self, seq: i64, limit: u32) -> Result<Vec<Brief>> {
        self.eyes.watch("events.brief_after", self.inner.brief_after(seq, limit)).await
    }

    async fn append(&self, event: &NewEvent) -> Result<()> {
        self.inner.append(event).await
    }
}

struct WatchedWebhooks {
    inner: Box<dyn Webhooks>,
    eyes: Eyes,
}

#[async_trait]
impl Webhooks for WatchedWebhooks {
    async fn insert(&self, webhook: &Webhook, sealed_secret: &str, max: u32) -> Result<()> {
        self.inner.insert(webhook, sealed_secret, max).await
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Webhook>> {
        self.inner.list(page).await
    }

    async fn get(&self, id: &WebhookId) -> Result<Webhook> {
        self.inner.get(id).await
    }

    async fn update(&self, webhook: &Webhook) -> Result<Webhook> {
        self.inner.update(webhook).await
    }

    async fn rotate(
        &self,
        id: &WebhookId,
        sealed_secret: &str,
        overlap_until: Timestamp,
        now: Timestamp,
    ) -> Result<Webhook> {
        self.inner.rotate(id, sealed_secret, overlap_until, now).await
    }

    async fn delete(&self, id: &WebhookId) -> Result<()> {
        self.inner.delete(id).await
    }

    async fn secrets(&self, id: &WebhookId) -> Result<SealedSecrets> {
        self.inner.secrets(id).await
    }

    async fn seen(&self, id: &WebhookId) -> Result<i64> {
        self.eyes.watch("webhooks.seen", self.inner.seen(id)).await
    }

    async fn fan_out(
        &self,
        id: &WebhookId,
        from: i64,
        to: i64,
        deliveries: &[NewDelivery],
        now: Timestamp,
    ) -> Result<bool> {
        self.inner.fan_out(id, from, to, deliveries, now).await
    }
}

/// A storage of files that is watched, and deletes nothing while it is away.
pub struct WatchedBlobs {
    /// The storage.
    pub inner: Arc<dyn Blobs>,
    /// Who watches.
    pub eyes: Eyes,
    /// Whether it is away.
    pub is_away: Arc<AtomicBool>,
}

impl WatchedBlobs {
    fn there(&self) -> Result<()> {
        if self.is_away.load(Ordering::Acquire) {
            return Err(Error::unavailable("the storage of files", "a test took it away"));
        }
        Ok(())
    }
}

#[async_trait]
impl Blobs for WatchedBlobs {
    async fn put(&self, key: &str, content: BlobStream, max_bytes: u64) -> Result<u64> {
        self.eyes.watch("blobs.put", self.inner.put(key, content, max_bytes)).await
    }

    async fn get(&self, key: &str) -> Result<BlobStream> {
        self.inner.get(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.there()?;
        self.eyes.watch("blobs.delete", self.inner.delete(key)).await
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        self.there()?;
        self.inner.delete_all(prefix).await
    }

    async fn presigned(&self, key: &str, name: &str, ttl: Duration) -> Result<Option<SecretString>> {
        self.inner.presigned(key, name, ttl).await
    }
}
