//! Refresh tokens: hashes alone.

use astrfleet_core::{
    Result,
    id::{LoginId, RefreshTokenId, UserId},
    ports::RefreshTokens,
    time::Timestamp,
    user::RefreshToken,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{affected, change, read, statements},
    values::{hex, micros, moment, read_hash, read_id},
};

statements! {
    "refresh token";
    /// A token of a login that was ended meanwhile is born ended.
    INSERT = "refresh_token.insert", "INSERT INTO refresh_tokens
            (id, login_id, user_id, hash, expires_at, used_at, revoked_at)
        VALUES ($1, $2, $3, $4, $5, $6,
            COALESCE($7, (SELECT MAX(earlier.revoked_at) FROM refresh_tokens AS earlier WHERE earlier.login_id = $2)))";
    BY_HASH = "refresh_token.by_hash", "SELECT id, login_id, user_id, hash, expires_at, used_at, revoked_at
        FROM refresh_tokens WHERE hash = $1";
    TAKE = "refresh_token.take",
        "UPDATE refresh_tokens SET used_at = $2 WHERE id = $1 AND used_at IS NULL AND revoked_at IS NULL";
    LOGIN_LASTS = "refresh_token.login_lasts",
        "SELECT COUNT(*) FROM refresh_tokens WHERE login_id = $1 AND revoked_at IS NULL";
    REVOKE_LOGIN = "refresh_token.revoke_login",
        "UPDATE refresh_tokens SET revoked_at = $2 WHERE login_id = $1 AND revoked_at IS NULL";
    REVOKE_USER = "refresh_token.revoke_user",
        "UPDATE refresh_tokens SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL RETURNING login_id";
    DELETE_EXPIRED = "refresh_token.delete_expired", "DELETE FROM refresh_tokens WHERE id IN (
        SELECT id FROM refresh_tokens WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
}

/// All refresh tokens.
pub struct RefreshTokenRows {
    db: Db,
}

impl RefreshTokenRows {
    /// Of `db`.
    #[must_use]
    pub fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    login_id: String,
    user_id: String,
    hash: String,
    expires_at: i64,
    used_at: Option<i64>,
    revoked_at: Option<i64>,
}

impl Row {
    fn read(self) -> Result<RefreshToken> {
        Ok(RefreshToken {
            id: read_id("refresh_tokens.id", &self.id, RefreshTokenId::parse)?,
            login: read_id("refresh_tokens.login_id", &self.login_id, LoginId::parse)?,
            user: read_id("refresh_tokens.user_id", &self.user_id, UserId::parse)?,
            hash: read_hash("refresh_tokens.hash", &self.hash)?,
            expires_at: Timestamp::from_micros(self.expires_at),
            used_at: moment(self.used_at),
            revoked_at: moment(self.revoked_at),
        })
    }
}

#[async_trait]
impl RefreshTokens for RefreshTokenRows {
    async fn insert(&self, token: &RefreshToken) -> Result<()> {
        affected!(
            &self.db,
            Scope::Platform,
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(token.id.as_str())
                .bind(token.login.as_str())
                .bind(token.user.as_str())
                .bind(hex(&token.hash))
                .bind(token.expires_at.micros())
                .bind(micros(token.used_at))
                .bind(micros(token.revoked_at))
        )
        .map_err(|failed| failed.or_missing("user"))?;
        Ok(())
    }

    async fn by_hash(&self, hash: &[u8; 32]) -> Result<RefreshToken> {
        read!(&self.db, Scope::Platform, BY_HASH, pool => sqlx::query_as::<_, Row>(BY_HASH.sql).bind(hex(hash)).fetch_one(pool))?.read()
    }

    async fn take(&self, id: &RefreshTokenId, now: Timestamp) -> Result<bool> {
        let taken =
            affected!(&self.db, Scope::Platform, TAKE, sqlx::query(TAKE.sql).bind(id.as_str()).bind(now.micros()))?;
        Ok(taken == 1)
    }

    async fn login_lasts(&self, login: &LoginId) -> Result<bool> {
        let tokens: i64 = read!(&self.db, Scope::Platform, LOGIN_LASTS, pool =>
            sqlx::query_scalar(LOGIN_LASTS.sql).bind(login.as_str()).fetch_one(pool))?;
        Ok(tokens > 0)
    }

    async fn revoke_login(&self, login: &LoginId, now: Timestamp) -> Result<()> {
        affected!(
            &self.db,
            Scope::Platform,
            REVOKE_LOGIN,
            sqlx::query(REVOKE_LOGIN.sql).bind(login.as_str()).bind(now.micros())
        )?;
        Ok(())
    }

    async fn revoke_user(&self, user: &UserId, now: Timestamp) -> Result<Vec<LoginId>> {
        let mut logins: Vec<String> = change!(&self.db, Scope::Platform, REVOKE_USER, pool =>
            sqlx::query_scalar(REVOKE_USER.sql).bind(user.as_str()).bind(now.micros()).fetch_all(pool))?;
        logins.sort_unstable();
        logins.dedup();
        logins.iter().map(|login| read_id("refresh_tokens.login_id", login, LoginId::parse)).collect()
    }

    async fn delete_expired(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let deleted = affected!(
            &self.db,
            Scope::Platform,
            DELETE_EXPIRED,
            sqlx::query(DELETE_EXPIRED.sql).bind(before.micros()).bind(i64::from(limit))
        )?;
        Ok(deleted)
    }
}
