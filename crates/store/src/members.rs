//! Members of one tenant. It never loses its last owner.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, UserId},
    member::Member,
    page::{Page, PageRequest},
    policy::Role,
    ports::Members,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    scope::Scope,
    statement::{read, run, statements, transaction},
    tenants,
    values::{read_id, read_word, word},
};

statements! {
    "member";
    LIST = "member.list", "SELECT members.user_id, users.email, users.display_name, members.role, members.created_at
        FROM members JOIN users ON users.id = members.user_id
        WHERE members.tenant_id = $1 AND members.user_id > $2 ORDER BY members.user_id LIMIT $3";
    GET = "member.get", "SELECT members.user_id, users.email, users.display_name, members.role, members.created_at
        FROM members JOIN users ON users.id = members.user_id
        WHERE members.tenant_id = $1 AND members.user_id = $2";
    ROLE = "member.role", "SELECT role FROM members WHERE tenant_id = $1 AND user_id = $2";
    OTHER_OWNERS = "member.other_owners",
        "SELECT COUNT(*) FROM members WHERE tenant_id = $1 AND user_id <> $2 AND role = 'owner'";
    PUT = "member.put", "INSERT INTO members (tenant_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (tenant_id, user_id) DO UPDATE SET role = excluded.role";
    DELETE = "member.delete", "DELETE FROM members WHERE tenant_id = $1 AND user_id = $2";
}

/// The members of one tenant.
pub struct MemberRows {
    db: Db,
    tenant: TenantId,
}

impl MemberRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    user_id: String,
    email: String,
    display_name: String,
    role: String,
    created_at: i64,
}

impl Row {
    fn read(self) -> Result<Member> {
        Ok(Member {
            user_id: read_id("members.user_id", &self.user_id, UserId::parse)?,
            email: self.email,
            display_name: self.display_name,
            role: read_word("members.role", self.role)?,
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

/// Binds the role that a user has, holding the tenant's row: two owners who take each other out at the same moment
/// come one after the other.
macro_rules! locked_role {
    ($connection:ident, $tenant:expr, $user:expr) => {{
        let lock = sqlx::query(tenants::LOCK.sql).bind($tenant.as_str());
        if run(&tenants::LOCK, lock.execute(&mut *$connection)).await?.rows_affected() == 0 {
            return Err(Error::NotFound { what: "tenant" });
        }
        let role = sqlx::query_scalar::<_, String>(ROLE.sql).bind($tenant.as_str()).bind($user.as_str());
        let role = run(&ROLE, role.fetch_optional(&mut *$connection)).await?;
        role.map(|role| read_word::<Role>("members.role", role)).transpose()?
    }};
}

/// Refuses to go on where `$user` is the only owner.
macro_rules! another_owner_stays {
    ($connection:ident, $tenant:expr, $user:expr) => {
        let owners = sqlx::query_scalar::<_, i64>(OTHER_OWNERS.sql).bind($tenant.as_str()).bind($user.as_str());
        if run(&OTHER_OWNERS, owners.fetch_one(&mut *$connection)).await? == 0 {
            return Err(Error::conflict("this is the tenant's last owner: make somebody else an owner first"));
        }
    };
}

#[async_trait]
impl Members for MemberRows {
    async fn list(&self, page: &PageRequest) -> Result<Page<Member>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let members = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(members, page, |member: &Member| member.user_id.to_string()))
    }

    async fn get(&self, user: &UserId) -> Result<Member> {
        read!(&self.db, Scope::Tenant(&self.tenant), GET, pool => sqlx::query_as::<_, Row>(GET.sql)
            .bind(self.tenant.as_str())
            .bind(user.as_str())
            .fetch_one(pool))?
        .read()
    }

    async fn put(&self, user: &UserId, role: Role, now: Timestamp) -> Result<()> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let before = locked_role!(connection, self.tenant, user);
            if before == Some(Role::Owner) && role != Role::Owner {
                another_owner_stays!(connection, self.tenant, user);
            }
            let put = sqlx::query(PUT.sql)
                .bind(self.tenant.as_str())
                .bind(user.as_str())
                .bind(word(&role)?)
                .bind(now.micros());
            run(&PUT, put.execute(&mut *connection)).await.map_err(|failed| failed.or_missing("user"))?;
            Ok(())
        })
    }

    async fn remove(&self, user: &UserId) -> Result<()> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let Some(before) = locked_role!(connection, self.tenant, user) else {
                return Err(Error::NotFound { what: "member" });
            };
            if before == Role::Owner {
                another_owner_stays!(connection, self.tenant, user);
            }
            let delete = sqlx::query(DELETE.sql).bind(self.tenant.as_str()).bind(user.as_str());
            run(&DELETE, delete.execute(&mut *connection)).await?;
            Ok(())
        })
    }
}
