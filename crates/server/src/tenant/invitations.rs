//! Invitations: how somebody becomes a member who chooses their own password.

use astrfleet_core::{
    Error, Result,
    id::{TenantId, UserId},
    member::{Invitation, Membership},
    policy::{Caller, Role},
    text,
    user::User,
};
use secrecy::{ExposeSecret, SecretString};

use crate::{
    app::App,
    auth::{NewUser, hash},
    config::seconds,
};

/// What an invitation's token begins with.
const TOKEN_PREFIX: &str = "afi_";

/// Invites somebody. The token is in the answer, and nowhere else.
pub(super) async fn invite(
    app: &App,
    tenant: &TenantId,
    by: &UserId,
    email: &str,
    role: Role,
) -> Result<(Invitation, SecretString)> {
    let now = app.clock.now();
    let token = app.auth.random_secret(TOKEN_PREFIX);
    let invitation = Invitation {
        id: app.ids.invitation(),
        email: text::email("email", email)?,
        role,
        invited_by: by.clone(),
        expires_at: now.plus(seconds(app.config.auth.invitation_ttl_s)),
        accepted_at: None,
        created_at: now,
    };
    app.store.invitations(tenant).insert(&invitation, &hash(token.expose_secret())).await?;
    Ok((invitation, token))
}

/// Who takes an invitation up.
pub(super) enum Guest {
    /// Somebody who is logged in.
    Known(Caller),
    /// Somebody who is to become a user.
    New {
        /// What they will log in with.
        password: SecretString,
        /// For people.
        display_name: Option<String>,
    },
}

/// Makes a guest a member.
///
/// # Errors
/// [`Error::NotFound`] for a token that is none; [`Error::Conflict`] for one that was used or has expired, and where
/// somebody with that address must log in first; [`Error::Forbidden`] where it is for somebody else.
pub(super) async fn accept(app: &App, token: &SecretString, guest: Guest) -> Result<(TenantId, User, Membership)> {
    let (tenant_id, invitation) =
        app.store.system("find an invitation by its token").invitation_by_hash(&hash(token.expose_secret())).await?;
    let now = app.clock.now();
    if invitation.accepted_at.is_some() {
        return Err(Error::conflict("this invitation was taken up already"));
    }
    if invitation.expires_at <= now {
        return Err(Error::conflict("this invitation has expired: ask for another one"));
    }
    let tenant = app.store.tenants().get(&tenant_id).await?;
    tenant.must_be_served()?;
    let user = match guest {
        Guest::Known(caller) => known(app, &caller, &invitation).await?,
        Guest::New { password, display_name } => {
            let email = invitation.email.clone();
            match app.store.users().by_email(&email).await {
                Ok(_) => {
                    return Err(Error::conflict("a user with this address exists: log in, then accept the invitation"));
                }
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            app.auth.create_user(NewUser { email, password, display_name, platform_admin: false }).await?
        }
    };
    if !app.store.invitations(&tenant_id).accept(&invitation.id, &user.id, now).await? {
        return Err(Error::conflict("this invitation was taken up already"));
    }
    app.auth.publish(astrfleet_core::ports::BusEvent::MembershipChanged(user.id.clone()));
    let role = app.store.members(&tenant_id).get(&user.id).await?.role;
    Ok((tenant_id.clone(), user, Membership { tenant_id, tenant: tenant.name, role }))
}

async fn known(app: &App, caller: &Caller, invitation: &Invitation) -> Result<User> {
    let not_for_you =
        || Error::Forbidden { reason: "this invitation is for another address: log in with that one".to_owned() };
    let Caller::User { id, .. } = caller else { return Err(not_for_you()) };
    let user = app.auth.user(id).await?;
    if user.email == invitation.email { Ok(user) } else { Err(not_for_you()) }
}
