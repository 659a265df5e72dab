//! Who may do what: the role x action table, and nothing else decides.

use serde::{Deserialize, Serialize};

use crate::{
    api_key::Scope,
    error::Error,
    id::{ApiKeyId, LoginId, TenantId, UserId},
};

/// What a member may do, from little to much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads the state of the bot.
    Viewer,
    /// Answers: sessions and messages.
    Agent,
    /// Everything but the tenant itself.
    Admin,
    /// The tenant itself.
    Owner,
}

/// What can be done. The name of each, `aggregate.verb`, stands in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is what its name says, and its line in `grant` says for whom")]
pub enum Action {
    TenantCreate,
    TenantList,
    TenantRead,
    TenantUpdate,
    TenantSuspend,
    TenantResume,
    TenantDelete,
    UserManage,
    MemberRead,
    MemberManage,
    InvitationManage,
    ApiKeyManage,
    AuditRead,
    UsageRead,
    LimitsRead,
    InstanceRead,
    InstanceOperate,
    InstanceConfigure,
    InstanceOpen,
    ChannelRead,
    ChannelManage,
    SessionRead,
    SessionWrite,
    MessageRead,
    MessageWrite,
    AttachmentRead,
    AttachmentWrite,
    BlocklistManage,
    EventRead,
    WebhookManage,
    EndUserErase,
    TenantExport,
    TenantErase,
    FleetRead,
    PlatformAuditRead,
}

/// Whom an action is for, beside platform administrators, who may do everything.
struct Grant {
    /// The lowest role that may; none: platform administrators alone.
    role: Option<Role>,
    /// The scope with which an API key may; none: no key may.
    scope: Option<Scope>,
}

/// The table.
fn grant(action: Action) -> Grant {
    use Action as A;
    let platform_only = Grant { role: None, scope: None };
    let from = |role| Grant { role: Some(role), scope: None };
    let from_or_key = |role, scope| Grant { role: Some(role), scope: Some(scope) };
    match action {
        A::TenantCreate
        | A::TenantList
        | A::TenantSuspend
        | A::TenantResume
        | A::TenantDelete
        | A::TenantErase
        | A::UserManage
        | A::FleetRead
        | A::PlatformAuditRead => platform_only,
        A::TenantRead | A::TenantUpdate | A::TenantExport => from(Role::Owner),
        A::MemberRead
        | A::MemberManage
        | A::InvitationManage
        | A::ApiKeyManage
        | A::AuditRead
        | A::UsageRead
        | A::LimitsRead
        | A::InstanceOpen
        | A::ChannelRead
        | A::ChannelManage
        | A::WebhookManage
        | A::EndUserErase => from(Role::Admin),
        A::BlocklistManage => from(Role::Agent),
        A::InstanceRead => from_or_key(Role::Viewer, Scope::Instance),
        A::InstanceOperate | A::InstanceConfigure => from_or_key(Role::Admin, Scope::Instance),
        A::SessionRead
        | A::SessionWrite
        | A::MessageRead
        | A::MessageWrite
        | A::AttachmentRead
        | A::AttachmentWrite
        | A::EventRead => from_or_key(Role::Agent, Scope::Chat),
    }
}

impl Action {
    /// As the audit log and the API description name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        use Action as A;
        match self {
            A::TenantCreate => "tenant.create",
            A::TenantList => "tenant.list",
            A::TenantRead => "tenant.read",
            A::TenantUpdate => "tenant.update",
            A::TenantSuspend => "tenant.suspend",
            A::TenantResume => "tenant.resume",
            A::TenantDelete => "tenant.delete",
            A::UserManage => "user.manage",
            A::MemberRead => "member.read",
            A::MemberManage => "member.manage",
            A::InvitationManage => "invitation.manage",
            A::ApiKeyManage => "api_key.manage",
            A::AuditRead => "audit.read",
            A::UsageRead => "usage.read",
            A::LimitsRead => "limits.read",
            A::InstanceRead => "instance.read",
            A::InstanceOperate => "instance.operate",
            A::InstanceConfigure => "instance.configure",
            A::InstanceOpen => "instance.open",
            A::ChannelRead => "channel.read",
            A::ChannelManage => "channel.manage",
            A::SessionRead => "session.read",
            A::SessionWrite => "session.write",
            A::MessageRead => "message.read",
            A::MessageWrite => "message.write",
            A::AttachmentRead => "attachment.read",
            A::AttachmentWrite => "attachment.write",
            A::BlocklistManage => "blocklist.manage",
            A::EventRead => "event.read",
            A::WebhookManage => "webhook.manage",
            A::EndUserErase => "end_user.erase",
            A::TenantExport => "tenant.export",
            A::TenantErase => "tenant.erase",
            A::FleetRead => "fleet.read",
            A::PlatformAuditRead => "platform_audit.read",
        }
    }
}

/// Who is asking: proven, not claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A person.
    User {
        /// Who.
        id: UserId,
        /// Whether they administer the platform.
        platform_admin: bool,
        /// The login that their token belongs to; none for the local administrator's credential.
        login: Option<LoginId>,
    },
    /// A program of a tenant.
    Key {
        /// Which key.
        id: ApiKeyId,
        /// The only tenant it is good for.
        tenant: TenantId,
        /// What it is good for.
        scopes: Vec<Scope>,
    },
}

impl Caller {
    /// As the audit log names them.
    #[must_use]
    pub fn actor(&self) -> &str {
        match self {
            Self::User { id, .. } => id.as_str(),
            Self::Key { id, .. } => id.as_str(),
        }
    }
}

/// What somebody is to the tenant that they ask about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Administers the platform.
    Platform,
    /// A member.
    Member(Role),
    /// One of the tenant's keys.
    Key(Vec<Scope>),
    /// Nothing: they may not even know that the tenant exists.
    Stranger,
}

/// Decides.
///
/// # Errors
/// [`Error::NotFound`] for a stranger, [`Error::Forbidden`] for whoever may know but not do.
pub fn authorise(standing: &Standing, action: Action) -> Result<(), Error> {
    let grant = grant(action);
    let refused = |needed: String| Err(Error::Forbidden { reason: needed });
    match standing {
        Standing::Platform => Ok(()),
        Standing::Stranger => Err(Error::NotFound { what: "tenant" }),
        Standing::Member(role) => match grant.role {
            Some(lowest) if *role >= lowest => Ok(()),
            Some(lowest) => refused(format!("this takes the role {lowest:?} in this tenant").to_lowercase()),
            None => refused("this takes a platform administrator".to_owned()),
        },
        Standing::Key(scopes) => match grant.scope {
            Some(scope) if scopes.contains(&scope) => Ok(()),
            Some(scope) => refused(format!("this takes an API key with the scope {scope:?}").to_lowercase()),
            None => refused("this cannot be done with an API key: log in".to_owned()),
        },
    }
}

/// Whether `granter` may make somebody a `role`, or take it from them: nobody gives more than they have.
#[must_use]
pub fn may_grant(granter: &Standing, role: Role) -> bool {
    match granter {
        Standing::Platform => true,
        Standing::Member(own) => *own >= Role::Admin && *own >= role,
        Standing::Key(_) | Standing::Stranger => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Role, Standing, authorise, may_grant};
    use crate::{api_key::Scope, error::Error};

    #[test]
    fn a_stranger_learns_nothing() {
        assert!(matches!(authorise(&Standing::Stranger, Action::InstanceRead), Err(Error::NotFound { .. })));
    }

    #[test]
    fn a_key_does_what_its_scopes_say_and_no_more() {
        let chat = Standing::Key(vec![Scope::Chat]);
        assert!(authorise(&chat, Action::MessageWrite).is_ok());
        for action in [Action::InstanceRead, Action::ApiKeyManage, Action::TenantRead, Action::TenantList] {
            assert!(matches!(authorise(&chat, action), Err(Error::Forbidden { .. })), "{action:?}");
        }
    }

    #[test]
    fn more_of_a_role_is_never_less() {
        let roles = [Role::Viewer, Role::Agent, Role::Admin, Role::Owner];
        for action in [Action::InstanceRead, Action::MessageWrite, Action::MemberManage, Action::TenantUpdate] {
            let allowed = roles.map(|role| authorise(&Standing::Member(role), action).is_ok());
            assert!(allowed.is_sorted(), "{action:?}: {allowed:?}");
        }
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        assert!(!may_grant(&Standing::Member(Role::Admin), Role::Owner));
        assert!(may_grant(&Standing::Member(Role::Admin), Role::Admin));
        assert!(!may_grant(&Standing::Member(Role::Agent), Role::Viewer));
    }
}
