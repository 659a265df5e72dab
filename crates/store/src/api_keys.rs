//! API keys of one tenant: the secret's hash alone.

use astrfleet_core::{
    Error, Result,
    api_key::ApiKey,
    id::{ApiKeyId, TenantId, UserId},
    page::{Page, PageRequest},
    ports::ApiKeys,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, read, statements},
    values::{hex, micros, moment, read_id, read_json},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, name, prefix, scopes, created_by, created_at, expires_at, last_used_at, revoked_at"
    };
}

statements! {
    "API key";
    INSERT = "api_key.insert", concat!("INSERT INTO api_keys (", columns!(), ", hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)");
    LIST = "api_key.list", concat!("SELECT ", columns!(), " FROM api_keys
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    GET = "api_key.get", concat!("SELECT ", columns!(), " FROM api_keys WHERE tenant_id = $1 AND id = $2");
    BY_HASH = "api_key.by_hash", concat!("SELECT ", columns!(), " FROM api_keys WHERE hash = $1");
    REVOKE = "api_key.revoke",
        "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, $3) WHERE tenant_id = $1 AND id = $2";
    TOUCH = "api_key.touch", "UPDATE api_keys SET last_used_at = $3 WHERE tenant_id = $1 AND id = $2";
}

/// The API keys of one tenant.
pub struct ApiKeyRows {
    db: Db,
    tenant: TenantId,
}

impl ApiKeyRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    tenant_id: String,
    id: String,
    name: String,
    prefix: String,
    scopes: String,
    created_by: String,
    created_at: i64,
    expires_at: Option<i64>,
    last_used_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl Row {
    fn read(self) -> Result<ApiKey> {
        Ok(ApiKey {
            id: read_id("api_keys.id", &self.id, ApiKeyId::parse)?,
            tenant_id: read_id("api_keys.tenant_id", &self.tenant_id, TenantId::parse)?,
            name: self.name,
            prefix: self.prefix,
            scopes: read_json("api_keys.scopes", &self.scopes)?,
            created_by: read_id("api_keys.created_by", &self.created_by, UserId::parse)?,
            created_at: Timestamp::from_micros(self.created_at),
            expires_at: moment(self.expires_at),
            last_used_at: moment(self.last_used_at),
            revoked_at: moment(self.revoked_at),
        })
    }
}

/// Of whichever tenant it is: a request that brings a key says no more.
pub(crate) async fn by_hash(db: &Db, hash: &[u8; 32]) -> Result<ApiKey> {
    read!(db, Scope::System, BY_HASH, pool => sqlx::query_as::<_, Row>(BY_HASH.sql).bind(hex(hash)).fetch_one(pool))?
        .read()
}

#[async_trait]
impl ApiKeys for ApiKeyRows {
    async fn insert(&self, key: &ApiKey, hash: &[u8; 32]) -> Result<()> {
        let scopes = serde_json::to_string(&key.scopes).map_err(Error::internal)?;
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(self.tenant.as_str())
                .bind(key.id.as_str())
                .bind(&key.name)
                .bind(&key.prefix)
                .bind(&scopes)
                .bind(key.created_by.as_str())
                .bind(key.created_at.micros())
                .bind(micros(key.expires_at))
                .bind(micros(key.last_used_at))
                .bind(micros(key.revoked_at))
                .bind(hex(hash))
        )
        .map_err(|failed| failed.or_missing("tenant"))?;
        Ok(())
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<ApiKey>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let keys = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(keys, page, |key: &ApiKey| key.id.to_string()))
    }

    async fn get(&self, id: &ApiKeyId) -> Result<ApiKey> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(id.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn revoke(&self, id: &ApiKeyId, now: Timestamp) -> Result<()> {
        let found = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            REVOKE,
            sqlx::query(REVOKE.sql).bind(self.tenant.as_str()).bind(id.as_str()).bind(now.micros())
        )?;
        if found == 0 { Err(Error::NotFound { what: "API key" }) } else { Ok(()) }
    }

    async fn touch(&self, id: &ApiKeyId, now: Timestamp) -> Result<()> {
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            TOUCH,
            sqlx::query(TOUCH.sql).bind(self.tenant.as_str()).bind(id.as_str()).bind(now.micros())
        )?;
        Ok(())
    }
}
