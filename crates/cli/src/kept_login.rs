//! The login that is kept between commands, in a file of its owner's. Its access token is good for a quarter of an hour and
//! is renewed here, also while a command runs; the refresh token for that is good for one use, so whoever renews holds a
//! lock, and others take what that one got.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use astrfleet_core::{ports::Clock, time::Timestamp};
use async_trait::async_trait;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    client::{Client, Credential, Refused},
    config::Environment,
    host::{SystemClock, write_private},
};

/// A token is renewed so long before it ends.
const AHEAD: Duration = Duration::from_secs(30);
/// Renewing and logging out are one small request each.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What the file has.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    url: String,
    email: String,
    access_token: String,
    refresh_token: String,
    expires_at: Timestamp,
}

/// A login that is kept.
pub struct KeptLogin {
    file: PathBuf,
    stored: tokio::sync::Mutex<Stored>,
    url: String,
}

impl KeptLogin {
    /// The one that is kept, if there is one.
    pub fn find(environment: &Environment) -> Option<Self> {
        let file = login_file(environment);
        let stored = read(&file)?;
        Some(Self { file, url: stored.url.clone(), stored: tokio::sync::Mutex::new(stored) })
    }

    /// Of which platform.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A client that proves who it is with this login, and goes on when its token ends.
    ///
    /// # Errors
    /// Where TLS cannot be set up.
    pub fn client(self) -> Result<Client> {
        Ok(Client::new(&self.url.clone(), None)?.with(Arc::new(self)))
    }

    /// The token, unless it is one that `is_worn` says no to: then the next one.
    async fn token_unless(&self, is_worn: impl Fn(&Stored) -> bool) -> Result<SecretString> {
        let mut stored = self.stored.lock().await;
        if is_worn(&stored) {
            let _locked = locked(&self.file).await?;
            *stored = read(&self.file).with_context(|| format!("you were logged out: {}", again(&stored)))?;
            // Another command may have renewed it in the meantime.
            if is_worn(&stored) {
                *stored = renew(&self.file, &stored).await?;
            }
        }
        Ok(stored.access_token.clone().into())
    }
}

#[async_trait]
impl Credential for KeptLogin {
    async fn token(&self) -> Result<SecretString> {
        self.token_unless(ends_soon).await
    }

    async fn instead_of(&self, refused: &SecretString) -> Result<Option<SecretString>> {
        self.token_unless(|stored| stored.access_token == refused.expose_secret()).await.map(Some)
    }
}

/// Logs in and keeps the login for the commands that follow.
///
/// # Errors
/// Where the platform refuses, or the login cannot be kept.
pub async fn log_in(url: &str, email: &str, password: &SecretString, environment: &Environment) -> Result<()> {
    let body = json!({"email": email, "password": password.expose_secret()});
    let answer = Client::new(url, None)?.post("/api/v1/auth/login", &body).await?;
    let file = login_file(environment);
    std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
    let _locked = locked(&file).await?;
    keep(&file, url.trim_end_matches('/'), email, &answer)?;
    Ok(())
}

/// Ends the kept login, on the platform and here. Returns where it was; `None` where there was none.
///
/// # Errors
/// Where the platform cannot be told: the login is kept then, or somebody who has a copy of it could go on with it.
pub async fn log_out(environment: &Environment) -> Result<Option<String>> {
    let Some(login) = KeptLogin::find(environment) else { return Ok(None) };
    let (file, url) = (login.file.clone(), login.url.clone());
    // One that has ended meanwhile is renewed first: without that, its refresh token would stay good.
    match login.client()?.waiting_at_most(ANSWER_MAX).post("/api/v1/auth/logout", &json!({})).await {
        Ok(_) => {}
        // It was over already.
        Err(error) if Refused::status_of(&error) == Some(401) => {}
        Err(error) => {
            let kept = format!(
                "the login at {url} is not ended: try again, or remove {} and it ends by itself",
                file.display()
            );
            return Err(error.context(kept));
        }
    }
    std::fs::remove_file(&file).context("the kept login cannot be removed")?;
    Ok(Some(url))
}

/// How to log in there again.
fn again(stored: &Stored) -> String {
    format!("`astrfleet login --url {} --email {}`", stored.url, stored.email)
}

fn ends_soon(stored: &Stored) -> bool {
    stored.expires_at <= SystemClock.now().plus(AHEAD)
}

async fn renew(file: &Path, stored: &Stored) -> Result<Stored> {
    let client = Client::new(&stored.url, None)?.waiting_at_most(ANSWER_MAX);
    let answer = client.post("/api/v1/auth/refresh", &json!({"refresh_token": stored.refresh_token})).await;
    let answer = answer.map_err(|error| {
        let what = match Refused::status_of(&error) {
            Some(401) => format!("the login is over: {}", again(stored)),
            _ => "the login cannot be renewed now".to_owned(),
        };
        error.context(what)
    })?;
    keep(file, &stored.url, &stored.email, &answer)
}

fn keep(file: &Path, url: &str, email: &str, answer: &Value) -> Result<Stored> {
    let text =
        |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| format!("the answer has no {name}"));
    let lifetime = Duration::from_secs(answer["expires_in"].as_u64().unwrap_or(0));
    let stored = Stored {
        url: url.to_owned(),
        email: email.to_owned(),
        access_token: text("access_token")?,
        refresh_token: text("refresh_token")?,
        expires_at: SystemClock.now().plus(lifetime),
    };
    write_private(file, &serde_json::to_string_pretty(&stored)?)?;
    Ok(stored)
}

fn read(file: &Path) -> Option<Stored> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// The lock on a kept login, held while this lives. It lies beside it: the file itself is replaced as a whole.
async fn locked(file: &Path) -> Result<File> {
    let path = file.with_extension("lock");
    let lock = move || -> Result<File> {
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.with_context(|| format!("{} cannot be written to", path.display()))?;
        loop {
            match flock(&lock, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(lock),
                Err(Errno::INTR) => {}
                Err(error) => bail!("{} cannot be locked: {error}", path.display()),
            }
        }
    };
    tokio::task::spawn_blocking(lock).await?
}

fn login_file(environment: &Environment) -> PathBuf {
    let config = environment.get("XDG_CONFIG_HOME").map_or_else(|| environment.home().join(".config"), PathBuf::from);
    config.join("astrfleet").join("login.json")
}
