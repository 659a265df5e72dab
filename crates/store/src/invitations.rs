//! Invitations of one tenant: the token's hash alone.

use astrfleet_core::{
    Error, Result,
    id::{InvitationId, TenantId, UserId},
    member::Invitation,
    page::{Page, PageRequest},
    policy::Role,
    ports::Invitations,
    time::Timestamp,
};
use async_trait::async_trait;

use crate::{
    db::Db,
    members,
    scope::Scope,
    statement::{affected, read, run, statements, transaction},
    values::{hex, micros, moment, read_id, read_word, word},
};

/// What a [`Row`] is made of.
macro_rules! columns {
    () => {
        "tenant_id, id, email, role, invited_by, expires_at, accepted_at, created_at"
    };
}

statements! {
    "invitation";
    INSERT = "invitation.insert", concat!("INSERT INTO invitations (", columns!(), ", token_hash)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)");
    LIST = "invitation.list", concat!("SELECT ", columns!(), " FROM invitations
        WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3");
    BY_HASH = "invitation.by_hash", concat!("SELECT ", columns!(), " FROM invitations WHERE token_hash = $1");
    DELETE = "invitation.delete", "DELETE FROM invitations WHERE tenant_id = $1 AND id = $2";
    ACCEPT = "invitation.accept", "UPDATE invitations SET accepted_at = $3
        WHERE tenant_id = $1 AND id = $2 AND accepted_at IS NULL RETURNING role";
}

/// The invitations of one tenant.
pub struct InvitationRows {
    db: Db,
    tenant: TenantId,
}

impl InvitationRows {
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
    email: String,
    role: String,
    invited_by: String,
    expires_at: i64,
    accepted_at: Option<i64>,
    created_at: i64,
}

impl Row {
    fn read(self) -> Result<Invitation> {
        Ok(Invitation {
            id: read_id("invitations.id", &self.id, InvitationId::parse)?,
            email: self.email,
            role: read_word("invitations.role", self.role)?,
            invited_by: read_id("invitations.invited_by", &self.invited_by, UserId::parse)?,
            expires_at: Timestamp::from_micros(self.expires_at),
            accepted_at: moment(self.accepted_at),
            created_at: Timestamp::from_micros(self.created_at),
        })
    }
}

/// Of whichever tenant it is: whoever holds the token does not know.
pub(crate) async fn by_hash(db: &Db, hash: &[u8; 32]) -> Result<(TenantId, Invitation)> {
    let row: Row =
        read!(db, Scope::System, BY_HASH, pool => sqlx::query_as(BY_HASH.sql).bind(hex(hash)).fetch_one(pool))?;
    Ok((read_id("invitations.tenant_id", &row.tenant_id, TenantId::parse)?, row.read()?))
}

#[async_trait]
impl Invitations for InvitationRows {
    async fn insert(&self, invitation: &Invitation, token_hash: &[u8; 32]) -> Result<()> {
        let role = word(&invitation.role)?;
        affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            INSERT,
            sqlx::query(INSERT.sql)
                .bind(self.tenant.as_str())
                .bind(invitation.id.as_str())
                .bind(invitation.email.to_lowercase())
                .bind(&role)
                .bind(invitation.invited_by.as_str())
                .bind(invitation.expires_at.micros())
                .bind(micros(invitation.accepted_at))
                .bind(invitation.created_at.micros())
                .bind(hex(token_hash))
        )
        .map_err(|failed| failed.or_missing("tenant"))?;
        Ok(())
    }

    async fn list(&self, page: &PageRequest) -> Result<Page<Invitation>> {
        let rows = read!(&self.db, Scope::Tenant(&self.tenant), LIST, pool => sqlx::query_as::<_, Row>(LIST.sql)
            .bind(self.tenant.as_str())
            .bind(page.after.as_deref().unwrap_or_default())
            .bind(i64::from(page.limit) + 1)
            .fetch_all(pool))?;
        let invitations = rows.into_iter().map(Row::read).collect::<Result<_>>()?;
        Ok(Page::from_rows(invitations, page, |invitation: &Invitation| invitation.id.to_string()))
    }

    async fn delete(&self, id: &InvitationId) -> Result<()> {
        let deleted = affected!(
            &self.db,
            Scope::Tenant(&self.tenant),
            DELETE,
            sqlx::query(DELETE.sql).bind(self.tenant.as_str()).bind(id.as_str())
        )?;
        if deleted == 0 { Err(Error::NotFound { what: "invitation" }) } else { Ok(()) }
    }

    async fn accept(&self, id: &InvitationId, user: &UserId, now: Timestamp) -> Result<bool> {
        transaction!(&self.db, Scope::Tenant(&self.tenant), connection => {
            let accept = sqlx::query_scalar::<_, String>(ACCEPT.sql)
                .bind(self.tenant.as_str())
                .bind(id.as_str())
                .bind(now.micros());
            let Some(role) = run(&ACCEPT, accept.fetch_optional(&mut *connection)).await? else { return Ok(false) };
            let before = sqlx::query_scalar::<_, String>(members::ROLE.sql)
                .bind(self.tenant.as_str())
                .bind(user.as_str());
            let before = run(&members::ROLE, before.fetch_optional(&mut *connection)).await?;
            let before = before.map(|role| read_word::<Role>("members.role", role)).transpose()?;
            // Nobody loses anything by being invited once more, least of all the last owner.
            let offered: Role = read_word("invitations.role", role)?;
            if before.is_some_and(|before| before >= offered) {
                return Ok(true);
            }
            let put = sqlx::query(members::PUT.sql)
                .bind(self.tenant.as_str())
                .bind(user.as_str())
                .bind(word(&offered)?)
                .bind(now.micros());
            run(&members::PUT, put.execute(&mut *connection)).await.map_err(|failed| failed.or_missing("user"))?;
            Ok(true)
        })
    }
}
