//! Bots: what is wanted of each, and what is seen.

use astrfleet_core::{
    Error, Result,
    id::{InstanceId, TenantId},
    instance::Instance,
    page::{Page, PageRequest},
    ports::Instances,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{change, read, statements},
    values::{read_id, read_number, read_word, storable, word},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, desired, observed, generation, reason, since, version, port, restarts, secrets_version, \
         created_at, version_lock"
    };
}

statements! {
    "instance";
    INSERT = "instance.insert", concat!("INSERT INTO instances (", columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)");
    GET = "instance.get", concat!("SELECT ", columns!(), " FROM instances WHERE tenant_id = $1");
    BY_ID = "instance.by_id", concat!("SELECT ", columns!(), " FROM instances WHERE id = $1");
    LIST = "instance.list", concat!("SELECT ", columns!(), " FROM instances WHERE id > $1 ORDER BY id LIMIT $2");
    UPDATE = "instance.update", concat!("UPDATE instances SET desired = $4, observed = $5, generation = $6,
            reason = $7, since = $8, version = $9, port = $10, restarts = $11, secrets_version = $12,
            version_lock = version_lock + 1
        WHERE tenant_id = $1 AND id = $2 AND version_lock = $3 RETURNING ", columns!());
}

/// The bot of one tenant.
pub struct InstanceRows {
    db: Db,
    tenant: TenantId,
}

impl InstanceRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

/// Binds the columns of [`INSERT`] in its order.
macro_rules! bind_instance {
    ($query:expr, $instance:expr) => {
        $query
            .bind($instance.tenant_id.as_str())
            .bind($instance.id.as_str())
            .bind($crate::values::word(&$instance.desired)?)
            .bind($crate::values::word(&$instance.observed)?)
            .bind($instance.generation)
            .bind($instance.reason.as_str())
            .bind($instance.since.micros())
            .bind($instance.version.as_str())
            .bind($instance.port.map(i64::from))
            .bind(i64::from($instance.restarts))
            .bind(i64::from($instance.secrets_version))
            .bind($instance.created_at.micros())
            .bind($instance.version_lock)
    };
}
pub(crate) use bind_instance;

/// A row, as it stands.
#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    tenant_id: String,
    id: String,
    desired: String,
    observed: String,
    generation: i64,
    reason: String,
    since: i64,
    version: String,
    port: Option<i64>,
    restarts: i64,
    secrets_version: i64,
    created_at: i64,
    version_lock: i64,
}

impl Row {
    /// In the words of the core.
    pub(crate) fn read(self) -> Result<Instance> {
        Ok(Instance {
            id: read_id("instances.id", &self.id, InstanceId::parse)?,
            tenant_id: read_id("instances.tenant_id", &self.tenant_id, TenantId::parse)?,
            desired: read_word("instances.desired", self.desired)?,
            observed: read_word("instances.observed", self.observed)?,
            generation: self.generation,
            reason: self.reason,
            since: Timestamp::from_micros(self.since),
            version: self.version,
            port: self.port.map(|port| read_number("instances.port", port)).transpose()?,
            restarts: read_number("instances.restarts", self.restarts)?,
            secrets_version: read_number("instances.secrets_version", self.secrets_version)?,
            created_at: Timestamp::from_micros(self.created_at),
            version_lock: self.version_lock,
        })
    }
}

/// Of whichever tenant it is.
pub(crate) async fn by_id(db: &Db, id: &InstanceId) -> Result<Instance> {
    read!(db, Scope::System, BY_ID, pool => sqlx::query_as::<_, Row>(BY_ID.sql).bind(id.as_str()).fetch_one(pool))?
        .read()
}

/// Of all tenants, by their id.
pub(crate) async fn list(db: &Db, page: &PageRequest) -> Result<Page<Instance>> {
    let bots = read!(db, Scope::System, LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
        .bind(page.after.as_deref().unwrap_or_default())
        .bind(i64::from(page.limit) + 1)
        .fetch_all(pool))?
    .into_iter()
    .map(Row::read)
    .collect::<Result<Vec<_>>>()?;
    Ok(Page::from_rows(bots, page, |bot| bot.id.to_string()))
}

#[async_trait]
impl Instances for InstanceRows {
    async fn get(&self) -> Result<Instance> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql).bind(self.tenant.as_str()).fetch_one(pool))?
            .read()
    }

    async fn update(&self, instance: &Instance) -> Result<Instance> {
        let (desired, observed) = (word(&instance.desired)?, word(&instance.observed)?);
        // All rows rather than one: SQLite checks and commits only when it was asked for the last one.
        let updated = change!(&self.db, Scope::Tenant(&self.tenant), UPDATE, pool => sqlx::query_as::<_, Row>(UPDATE.sql)
            .bind(self.tenant.as_str())
            .bind(instance.id.as_str())
            .bind(instance.version_lock)
            .bind(&desired)
            .bind(&observed)
            .bind(instance.generation)
            .bind(storable(&instance.reason))
            .bind(instance.since.micros())
            .bind(&instance.version)
            .bind(instance.port.map(i64::from))
            .bind(i64::from(instance.restarts))
            .bind(i64::from(instance.secrets_version))
            .fetch_all(pool));
        let updated = updated.map_err(|failed| {
            if failed.is_taken("instances", "port") {
                return Error::conflict("another bot has this port: choose one that is free");
            }
            failed.into()
        })?;
        if let Some(row) = updated.into_iter().next() {
            return row.read();
        }
        self.get().await?;
        Err(Error::Stale { what: "instance" })
    }
}
