//! How a command finds the platform and proves who it is: by flags, the environment, a kept login, or, on the machine
//! where `up` runs, by the local administrator's credential in the data folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{client::Client, config::Environment, host::write_private, kept_login::KeptLogin};

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

/// Which platform, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// The platform's address [default: the one that runs here, or that of the kept login]
    #[arg(long, global = true, env = "ASTRFLEET_URL", value_name = "URL", help_heading = "Platform")]
    pub url: Option<String>,
    /// Prove yourself with this API key or token instead of the kept login
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
    pub fn client(&self, environment: &Environment) -> Result<Client> {
        if let Some(key) = &self.api_key {
            let url = self.url.clone().or_else(|| self.local(environment).map(|local| local.url));
            let url = url.context("--api-key needs --url (or ASTRFLEET_URL): which platform is it for?")?;
            return Client::new(&url, Some(key.clone().into()));
        }
        let wanted = |url: &str| self.url.as_deref().is_none_or(|wanted| wanted.trim_end_matches('/') == url);
        if let Some(local) = self.local(environment).filter(|local| wanted(&local.url)) {
            return Client::new(&local.url, Some(local.credential.into()));
        }
        match KeptLogin::find(environment).filter(|login| wanted(login.url())) {
            Some(login) => login.client(),
            None => match &self.url {
                Some(url) => {
                    bail!("you are not logged in at {url}: `astrfleet login --url {url} --email you@example.com`")
                }
                None => bail!(
                    "no platform runs here and you are not logged in anywhere: start one with `astrfleet up`, or \
                     `astrfleet login --url https://… --email you@example.com`"
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
            .or_else(|| KeptLogin::find(environment).map(|login| login.url().to_owned()))
            .context("no platform runs here: start one with `astrfleet up`, or name another with --url")?;
        Client::new(&url, None)
    }

    fn local(&self, environment: &Environment) -> Option<Local> {
        Local::read(self.data_dir.as_deref().unwrap_or(&environment.default_data_dir()))
    }
}
