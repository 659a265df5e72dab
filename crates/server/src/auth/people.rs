//! Users: who can log in.

use astrfleet_core::{Error, Result, id::UserId, ports::BusEvent, text, user::User};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::SecretString;

use super::{Service, passwords};

/// Random bytes of a password that we make ourselves.
const MADE_PASSWORD_BYTES: usize = 15;
/// The longest name, in characters.
const NAME_MAX: usize = 100;

/// Somebody who is to become a user.
pub struct NewUser {
    /// Unique; any case.
    pub email: String,
    /// What they log in with.
    pub password: SecretString,
    /// For people; the address where nothing is given.
    pub display_name: Option<String>,
    /// Whether they are to administer the platform.
    pub platform_admin: bool,
}

/// What is to be changed of a user.
#[derive(Default)]
pub struct UserChange {
    /// Another name.
    pub display_name: Option<String>,
    /// Whether they may log in.
    pub disabled: Option<bool>,
    /// Whether they administer the platform.
    pub platform_admin: Option<bool>,
    /// Another password.
    pub password: Option<SecretString>,
}

impl Service {
    /// Makes a user.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] where the address is taken.
    pub async fn create_user(&self, new: NewUser) -> Result<User> {
        let email = text::email("email", &new.email)?;
        let display_name = match &new.display_name {
            Some(name) => text::display_name("display_name", name, NAME_MAX)?,
            None => email.chars().take(NAME_MAX).collect(),
        };
        passwords::check("password", &new.password)?;
        let now = self.base.clock.now();
        let user = User {
            id: self.base.ids.user(),
            email,
            display_name,
            platform_admin: new.platform_admin,
            disabled: false,
            created_at: now,
            updated_at: now,
            version: 1,
        };
        let hash = self.passwords.hash(new.password).await?;
        self.base.store.users().insert(&user, &hash).await?;
        Ok(user)
    }

    /// Changes a user. `by` cannot lock themselves out, so that an administrator is always left.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`]; [`Error::Stale`].
    pub async fn change_user(&self, by: &str, user: User, change: UserChange) -> Result<User> {
        let disabled = change.disabled.unwrap_or(user.disabled);
        let platform_admin = change.platform_admin.unwrap_or(user.platform_admin);
        if by == user.id.as_str() && (disabled || platform_admin != user.platform_admin) {
            return Err(Error::conflict("you cannot lock yourself out: ask another administrator"));
        }
        let display_name = match &change.display_name {
            Some(name) => text::display_name("display_name", name, NAME_MAX)?,
            None => user.display_name.clone(),
        };
        if let Some(password) = &change.password {
            passwords::check("password", password)?;
        }
        let ends_logins = disabled && !user.disabled;
        let updated_at = self.base.clock.now();
        let users = self.base.store.users();
        let mut user = users.update(&User { display_name, disabled, platform_admin, updated_at, ..user }).await?;
        if let Some(password) = change.password {
            self.set_password(&user.id, password).await?;
            user = users.get(&user.id).await?;
        } else if ends_logins {
            self.end_logins(&user.id).await?;
        }
        self.publish(BusEvent::MembershipChanged(user.id.clone()));
        Ok(user)
    }

    /// Makes the first platform administrator, where there is none yet. A password is made where none is given, and
    /// returned: nobody can ask for it again.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Conflict`] where the address belongs to somebody who is no administrator.
    pub async fn ensure_first_admin(
        &self,
        email: &str,
        password: Option<SecretString>,
    ) -> Result<Option<(User, Option<SecretString>)>> {
        if self.base.store.users().any_admin().await? {
            return Ok(None);
        }
        let made = password.is_none().then(|| self.random_password());
        let Some(password) = password.or_else(|| made.clone()) else {
            return Err(Error::internal("a password was neither given nor made"));
        };
        let new = NewUser {
            email: email.to_owned(),
            password,
            display_name: Some("Administrator".to_owned()),
            platform_admin: true,
        };
        let user = self.create_user(new).await?;
        Ok(Some((user, made)))
    }

    /// The user of this id, for those who manage users.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn user(&self, id: &UserId) -> Result<User> {
        self.base.store.users().get(id).await
    }

    fn random_password(&self) -> SecretString {
        let mut random = [0; MADE_PASSWORD_BYTES];
        self.base.rng.fill(&mut random);
        URL_SAFE_NO_PAD.encode(random).into()
    }
}
