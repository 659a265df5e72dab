//! People.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, UserId},
    member::Membership,
    page::{Page, PageRequest},
    ports::Users,
    time::Timestamp,
    user::User,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    failed::Failed,
    scope::Scope,
    statement::{affected, change, read, statements},
    values::{read_id, read_word, storable},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "id, email, display_name, platform_admin, disabled, created_at, updated_at, version"
    };
}

statements! {
    "user";
    INSERT = "user.insert", concat!("INSERT INTO users (", columns!(), ", password_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    GET = "user.get", concat!("SELECT ", columns!(), " FROM users WHERE id = $1");
    BY_EMAIL = "user.by_email", concat!("SELECT ", columns!(), ", password_hash FROM users WHERE email = $1");
    LIST = "user.list", concat!("SELECT ", columns!(), " FROM users WHERE id > $1 ORDER BY id LIMIT $2");
    UPDATE = "user.update", concat!("UPDATE users SET
            email = $3, display_name = $4, platform_admin = $5, disabled = $6, updated_at = $7, version = version + 1
        WHERE id = $1 AND version = $2 RETURNING ", columns!());
    SET_PASSWORD = "user.set_password",
        "UPDATE users SET password_hash = $2, updated_at = $3, version = version + 1 WHERE id = $1";
    FIRST_ADMIN = "user.first_admin",
        concat!("SELECT ", columns!(), " FROM users WHERE platform_admin ORDER BY id LIMIT 1");
    MEMBERSHIPS = "user.memberships", "SELECT tenants.id, tenants.name, members.role
        FROM members JOIN tenants ON tenants.id = members.tenant_id WHERE members.user_id = $1 ORDER BY tenants.id";
}

/// All people.
pub struct UserRows {
    db: Db,
}

impl UserRows {
    /// Of `db`.
    #[must_use]
    pub fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }

    async fn find_admin(&self) -> Result<Option<Row>> {
        let found = read!(&self.db, Scope::Platform, FIRST_ADMIN, pool => sqlx::query_as(FIRST_ADMIN.sql).fetch_optional(pool))?;
        Ok(found)
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    email: String,
    display_name: String,
    platform_admin: bool,
    disabled: bool,
    created_at: i64,
    updated_at: i64,
    version: i64,
}

#[derive(sqlx::FromRow)]
struct RowWithPassword {
    #[sqlx(flatten)]
    user: Row,
    password_hash: String,
}

#[derive(sqlx::FromRow)]
struct MembershipRow {
    id: String,
    name: String,
    role: String,
}

impl Row {
    fn read(self) -> Result<User> {
        Ok(User {
            id: read_id("users.id", &self.id, UserId::parse)?,
            email: self.email,
            display_name: self.display_name,
            platform_admin: self.platform_admin,
            disabled: self.disabled,
            created_at: Timestamp::from_micros(self.created_at),
            updated_at: Timestamp::from_micros(self.updated_at),
            version: self.version,
        })
    }
}

impl MembershipRow {
    fn read(self) -> Result<Membership> {
        Ok(Membership {
            tenant_id: read_id("members.tenant_id", &self.id, TenantId::parse)?,
            tenant: self.name,
            role: read_word("members.role", self.role)?,
        })
    }
}

/// Tells whoever asked for an address that it is taken.
fn taken(failed: Failed) -> Error {
    if failed.is_taken("users", "email") {
        return Error::conflict("this e-mail address belongs to another user: use another one");
    }
    failed.into()
}

#[async_trait]
impl Users for UserRows {
    async fn insert(&self, user: &User, password_hash: &str) -> Result<()> {
        affected!(
            &self.db,
            Scope::Platform,
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(user.id.as_str())
                .bind(user.email.to_lowercase())
                .bind(&user.display_name)
                .bind(user.platform_admin)
                .bind(user.disabled)
                .bind(user.created_at.micros())
                .bind(user.updated_at.micros())
                .bind(user.version)
                .bind(password_hash)
        )
        .map_err(taken)?;
        Ok(())
    }

    async fn get(&self, id: &UserId) -> Result<User> {
        read!(&self.db, Scope::Platform, GET, pool => sqlx::query_as::<_, Row>(GET.sql).bind(id.as_str()).fetch_one(pool))?.read()
    }

    async fn by_email(&self, email: &str) -> Result<(User, String)> {
        let row: RowWithPassword = read!(&self.db, Scope::Platform, BY_EMAIL, pool =>
            sqlx::query_as(BY_EMAIL.sql).bind(storable(&email.to_lowercase())).fetch_one(pool))?;
        Ok((row.user.read()?, row.password_hash))
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<User>> {
        let rows = read!(&self.db, Scope::Platform, LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let users = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(users, page, |user: &User| user.id.to_string()))
    }

    async fn update(&self, user: &User) -> Result<User> {
        change!(&self.db, Scope::Platform, UPDATE, pool => sqlx::query_as::<_, Row>(UPDATE.sql)
            .bind(user.id.as_str())
            .bind(user.version)
            .bind(user.email.to_lowercase())
            .bind(&user.display_name)
            .bind(user.platform_admin)
            .bind(user.disabled)
            .bind(user.updated_at.micros())
            .fetch_optional(pool))
        .map_err(taken)?
        .ok_or(Error::Stale { what: "user" })?
        .read()
    }

    async fn set_password(&self, id: &UserId, password_hash: &str, now: Timestamp) -> Result<()> {
        let done = affected!(
            &self.db,
            Scope::Platform,
            SET_PASSWORD,
            sqlx::query(SET_PASSWORD.sql).bind(id.as_str()).bind(password_hash).bind(now.micros())
        )?;
        if done == 0 { Err(Error::NotFound { what: "user" }) } else { Ok(()) }
    }

    async fn any_admin(&self) -> Result<bool> {
        Ok(self.find_admin().await?.is_some())
    }

    async fn first_admin(&self) -> Result<User> {
        self.find_admin().await?.ok_or(Error::NotFound { what: "user" })?.read()
    }

    async fn memberships(&self, id: &UserId) -> Result<Vec<Membership>> {
        read!(&self.db, Scope::System, MEMBERSHIPS, pool =>
            sqlx::query_as::<_, MembershipRow>(MEMBERSHIPS.sql).bind(id.as_str()).fetch_all(pool))?
        .into_iter()
        .map(MembershipRow::read)
        .collect()
    }
}
