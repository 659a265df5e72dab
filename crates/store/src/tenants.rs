//! Tenants.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, UserId},
    instance::Instance,
    page::{Page, PageRequest},
    policy::Role,
    ports::{Erased, Proof, Tenants},
    tenant::Tenant,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    audit::{PLATFORM, append_entry, stored_entry},
    db::Db,
    erase,
    failed::Failed,
    instances::{self, bind_instance},
    members,
    scope::Scope,
    statement::{change, read, run, statements, transaction},
    values::{micros, moment, read_id, read_number, read_word, storable, word},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "id, name, display_name, email, plan, status, erase_at, created_at, updated_at, version, retention_days"
    };
}

statements! {
    "tenant";
    INSERT = "tenant.insert", concat!("INSERT INTO tenants (", columns!(), ")
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    GET = "tenant.get", concat!("SELECT ", columns!(), " FROM tenants WHERE id = $1");
    BY_NAME = "tenant.by_name", concat!("SELECT ", columns!(), " FROM tenants WHERE name = $1");
    LIST = "tenant.list", concat!("SELECT ", columns!(), " FROM tenants WHERE id > $1 ORDER BY id LIMIT $2");
    UPDATE = "tenant.update", concat!("UPDATE tenants SET
            name = $3, display_name = $4, email = $5, plan = $6, status = $7, erase_at = $8, updated_at = $9,
            retention_days = $10, version = version + 1
        WHERE id = $1 AND version = $2 RETURNING ", columns!());
    DUE_FOR_ERASURE = "tenant.due_for_erasure", concat!("SELECT ", columns!(), " FROM tenants
        WHERE status = 'deleting' AND erase_at <= $1 ORDER BY erase_at, id LIMIT $2");
    /// Holds the tenant's row until the end of the transaction, on either engine.
    LOCK = "tenant.lock", "UPDATE tenants SET version = version WHERE id = $1";
}

/// All tenants.
pub struct TenantRows {
    db: Db,
}

impl TenantRows {
    /// Of `db`.
    #[must_use]
    pub fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    display_name: String,
    email: String,
    plan: String,
    status: String,
    erase_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
    version: i64,
    retention_days: Option<i64>,
}

impl Row {
    fn read(self) -> Result<Tenant> {
        Ok(Tenant {
            id: read_id("tenants.id", &self.id, TenantId::parse)?,
            name: self.name,
            display_name: self.display_name,
            email: self.email,
            plan: self.plan,
            status: read_word("tenants.status", self.status)?,
            erase_at: moment(self.erase_at),
            retention_days: self.retention_days.map(|days| read_number("tenants.retention_days", days)).transpose()?,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            version: self.version,
        })
    }
}

/// Tells whoever asked for a name or an address that it is taken.
fn taken(failed: Failed) -> Error {
    if failed.is_taken("tenants", "name") {
        return Error::conflict("this name is taken by another tenant: choose another one");
    }
    if failed.is_taken("tenants", "email") {
        return Error::conflict("this e-mail address belongs to another tenant: use another one");
    }
    failed.into()
}

#[async_trait]
impl Tenants for TenantRows {
    async fn insert(&self, tenant: &Tenant, instance: &Instance, owner: Option<&UserId>) -> Result<()> {
        transaction!(&self.db, Scope::Tenant(&tenant.id), connection => {
            let insert = sqlx::query(INSERT.sql)
                .bind(tenant.id.as_str())
                .bind(&tenant.name)
                .bind(&tenant.display_name)
                .bind(tenant.email.to_lowercase())
                .bind(&tenant.plan)
                .bind(word(&tenant.status)?)
                .bind(micros(tenant.erase_at))
                .bind(tenant.created_at.micros())
                .bind(tenant.updated_at.micros())
                .bind(tenant.version)
                .bind(tenant.retention_days.map(i64::from));
            run(&INSERT, insert.execute(&mut *connection)).await.map_err(taken)?;
            let insert = bind_instance!(sqlx::query(instances::INSERT.sql), instance);
            run(&instances::INSERT, insert.execute(&mut *connection)).await?;
            if let Some(owner) = owner {
                let put = sqlx::query(members::PUT.sql)
                    .bind(tenant.id.as_str())
                    .bind(owner.as_str())
                    .bind(word(&Role::Owner)?)
                    .bind(tenant.created_at.micros());
                run(&members::PUT, put.execute(&mut *connection)).await.map_err(|failed| failed.or_missing("user"))?;
            }
            Ok(())
        })
    }

    async fn get(&self, id: &TenantId) -> Result<Tenant> {
        read!(&self.db, Scope::Platform, GET, pool => sqlx::query_as::<_, Row>(GET.sql).bind(id.as_str()).fetch_one(pool))?.read()
    }

    async fn by_name(&self, name: &str) -> Result<Tenant> {
        read!(&self.db, Scope::Platform, BY_NAME, pool => sqlx::query_as::<_, Row>(BY_NAME.sql).bind(storable(name)).fetch_one(pool))?
            .read()
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Tenant>> {
        let rows = read!(&self.db, Scope::Platform, LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let tenants = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(tenants, page, |tenant: &Tenant| tenant.id.to_string()))
    }

    async fn update(&self, tenant: &Tenant) -> Result<Tenant> {
        let status = word(&tenant.status)?;
        change!(&self.db, Scope::Platform, UPDATE, pool => sqlx::query_as::<_, Row>(UPDATE.sql)
            .bind(tenant.id.as_str())
            .bind(tenant.version)
            .bind(&tenant.name)
            .bind(&tenant.display_name)
            .bind(tenant.email.to_lowercase())
            .bind(&tenant.plan)
            .bind(&status)
            .bind(micros(tenant.erase_at))
            .bind(tenant.updated_at.micros())
            .bind(tenant.retention_days.map(i64::from))
            .fetch_optional(pool))
        .map_err(taken)?
        .ok_or(Error::Stale { what: "tenant" })?
        .read()
    }

    async fn due_for_erasure(&self, now: Timestamp, limit: u32) -> Result<Vec<Tenant>> {
        read!(&self.db, Scope::Platform, DUE_FOR_ERASURE, pool => sqlx::query_as::<_, Row>(DUE_FOR_ERASURE.sql)
            .bind(now.micros())
            .bind(i64::from(limit))
            .fetch_all(pool))?
        .into_iter()
        .map(Row::read)
        .collect()
    }

    async fn erase(&self, id: &TenantId, proof: &Proof<'_>) -> Result<bool> {
        transaction!(&self.db, Scope::System, connection => {
            // Nobody adds rows to the tenant from here on.
            run(&LOCK, sqlx::query(LOCK.sql).bind(id.as_str()).execute(&mut *connection)).await?;
            let mut erased = Erased::new();
            for &statement in erase::STATEMENTS {
                let delete = sqlx::query(statement.sql).bind(id.as_str());
                let rows = run(statement, delete.execute(&mut *connection)).await?.rows_affected();
                erased.insert(erase::table(statement).to_owned(), rows);
            }
            if erased.get("tenants") != Some(&1) {
                return Ok(false);
            }
            // What is erased and the proof of it are there together or not at all.
            append_entry!(connection, PLATFORM, stored_entry(None, &proof(&erased)?));
            Ok(true)
        })
    }
}
