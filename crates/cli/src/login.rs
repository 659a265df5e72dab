//! How a command finds the platform and proves who it is: by flags, the environment, a stored login, or, on the machine
//! where `up` runs, by the local administrator's credential in the data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use astrfleet_core::{ports::Clock, time::Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    client::Client,
    config::Environment,
    host::{SystemClock, write_private},
};

/// The file in the data folder by which commands on this machine find a running platform.
pub const LOCAL_FILE: &str = "local.json";

/// What a running platform leaves for commands on its own machine. Worth nothing elsewhere: the platform believes it
/// from a loopback address alone, and forgets it when it stops.
#[derive(Serialize, Deserialize)]
pub struct Local {
    /// Where it listens.
    pub url: String,
    /// Its process, to notice one that is gone.
    pub pid: u32,
    credential: String,
}

impl Local {
    /// Leaves it in the data folder.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn leave(path: &Path, url: &str, credential: &SecretString) -> Result<()> {
        let local =
            Self { url: url.to_owned(), pid: std::process::id(), credential: credential.expose_secret().to_owned() };
        write_private(path, &serde_json::to_string_pretty(&local)?)
    }

    /// A client of the platform at `url`, with the credential that it left in the file `path`.
    ///
    /// # Errors
    /// Where there is none.
    pub fn client(path: &Path, url: &str) -> Result<Client> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let local: Self = serde_json::from_str(&text)?;
        Client::new(url, Some(local.credential.into()))
    }

    fn read(data_dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(data_dir.join(LOCAL_FILE)).ok()?;
        let local: Self = serde_json::from_str(&text).ok()?;
        Path::new(&format!("/proc/{}", local.pid)).exists().then_some(local)
    }
}

/// A login that is kept between commands.
#[derive(Serialize, Deserialize)]
struct Stored {
    url: String,
    email: String,
    access_token: String,
    refresh_token: String,
    expires_at: Timestamp,
}

/// Which platform, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// The platform's address [default: the one that runs here, or that of the stored login]
    #[arg(long, global = true, env = "ASTRFLEET_URL", value_name = "URL", help_heading = "Platform")]
    pub url: Option<String>,
    /// Prove yourself with this API key or token instead of the stored login
    #[arg(
        long,
        global = true,
        env = "ASTRFLEET_API_KEY",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Platform"
    )]
    pub api_key: Option<String>,
    /// The data folder of the platform that runs on this machine
    #[arg(long, global = true, env = "ASTRFLEET_DATA_DIR", value_name = "FOLDER", help_heading = "Platform")]
    pub data_dir: Option<PathBuf>,
}

impl Target {
    /// A client that has proven who it is.
    ///
    /// # Errors
    /// Where there is nothing to prove it with: the text says how to log in.
    pub async fn client(&self, environment: &Environment) -> Result<Client> {
        if let Some(key) = &self.api_key {
            let url = self.url.clone().or_else(|| self.local(environment).map(|local| local.url));
            let url = url.context("--api-key needs --url (or ASTRFLEET_URL): which platform is it for?")?;
            return Client::new(&url, Some(key.clone().into()));
        }
        let stored = Self::stored(environment);
        let wanted = |url: &str| self.url.as_deref().is_none_or(|wanted| wanted.trim_end_matches('/') == url);
        if let Some(local) = self.local(environment).filter(|local| wanted(&local.url)) {
            return Client::new(&local.url, Some(local.credential.into()));
        }
        match stored.filter(|stored| wanted(&stored.url)) {
            Some(stored) => Self::renewed(stored, environment).await,
            None => match &self.url {
                Some(url) => bail!("you are not logged in at {url}: `astrfleet login --url {url}`"),
                None => bail!(
                    "no platform runs here and you are not logged in anywhere: start one with `astrfleet up`, or \
                     `astrfleet login --url https://…`"
                ),
            },
        }
    }

    /// Without proof: for what anybody may ask.
    ///
    /// # Errors
    /// Where it is not known which platform.
    pub fn anonymous(&self, environment: &Environment) -> Result<Client> {
        let url = self
            .url
            .clone()
            .or_else(|| self.local(environment).map(|local| local.url))
            .or_else(|| Self::stored(environment).map(|stored| stored.url))
            .context("no platform runs here: start one with `astrfleet up`, or name another with --url")?;
        Client::new(&url, None)
    }

    fn local(&self, environment: &Environment) -> Option<Local> {
        Local::read(self.data_dir.as_deref().unwrap_or(&environment.default_data_dir()))
    }

    fn stored(environment: &Environment) -> Option<Stored> {
        serde_json::from_str(&std::fs::read_to_string(login_file(environment)).ok()?).ok()
    }

    async fn renewed(stored: Stored, environment: &Environment) -> Result<Client> {
        let soon = SystemClock.now().plus(std::time::Duration::from_secs(30));
        if soon < stored.expires_at {
            return Client::new(&stored.url, Some(stored.access_token.into()));
        }
        let anonymous = Client::new(&stored.url, None)?;
        let answer = anonymous
            .post("/api/v1/auth/refresh", &json!({"refresh_token": stored.refresh_token}))
            .await
            .with_context(|| format!("the login is over: `astrfleet login --url {}`", stored.url))?;
        let token = keep(&stored.url, &stored.email, &answer, environment)?;
        Client::new(&stored.url, Some(token))
    }
}

/// Logs in and keeps the login for the commands that follow.
///
/// # Errors
/// Where the platform refuses, or the login cannot be kept.
pub async fn log_in(url: &str, email: &str, password: &SecretString, environment: &Environment) -> Result<()> {
    let body = json!({"email": email, "password": password.expose_secret()});
    let answer = Client::new(url, None)?.post("/api/v1/auth/login", &body).await?;
    keep(url.trim_end_matches('/'), email, &answer, environment)?;
    Ok(())
}

/// Ends the stored login, also on the platform. Returns where it was; `None` where there was none.
///
/// # Errors
/// Where the file cannot be removed.
pub async fn log_out(environment: &Environment) -> Result<Option<String>> {
    let Some(stored) = Target::stored(environment) else { return Ok(None) };
    let client = Client::new(&stored.url, Some(stored.access_token.into()))?;
    // The file goes also where the platform does not answer.
    client.post("/api/v1/auth/logout", &json!({"refresh_token": stored.refresh_token})).await.ok();
    std::fs::remove_file(login_file(environment)).context("the stored login cannot be removed")?;
    Ok(Some(stored.url))
}

fn keep(url: &str, email: &str, answer: &serde_json::Value, environment: &Environment) -> Result<SecretString> {
    let text =
        |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| format!("the answer has no {name}"));
    let lifetime = std::time::Duration::from_secs(answer["expires_in"].as_u64().unwrap_or(0));
    let stored = Stored {
        url: url.to_owned(),
        email: email.to_owned(),
        access_token: text("access_token")?,
        refresh_token: text("refresh_token")?,
        expires_at: SystemClock.now().plus(lifetime),
    };
    let path = login_file(environment);
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
    write_private(&path, &serde_json::to_string_pretty(&stored)?)?;
    Ok(stored.access_token.into())
}

fn login_file(environment: &Environment) -> PathBuf {
    let config = environment.get("XDG_CONFIG_HOME").map_or_else(|| environment.home().join(".config"), PathBuf::from);
    config.join("astrfleet").join("login.json")
}
