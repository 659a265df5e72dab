//! The platform as it is shipped, to be measured: on folders of its own, with stand-ins for its bots, reached by its
//! public API alone.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    load::{ask, authorization, send},
    proc::{Process, free_address},
};
use crate::errand::{Workspace, run as errand, variable};

const ADMIN: &str = "admin@bench.example";
const PASSWORD: &str = "measured-Passw0rd";

/// Builds what is shipped, and the tools of the crate `testkit` that measure it, in the profile of what is shipped.
pub fn build(workspace: &Workspace) -> Result<()> {
    let arguments = ["build", "--profile", "dist", "--locked", "--package", "astrfleet", "--package"];
    errand(workspace.cargo().args(arguments).args(["astrfleet-testkit", "--bins"]))
}

/// What is shipped, and a machine around it.
pub struct Kit {
    program: PathBuf,
    /// On its search path before everything else: the stand-ins.
    tools: Option<PathBuf>,
    /// Where it prepares the bots' environment: once for all platforms of a run.
    runtime: PathBuf,
}

/// How to start one platform.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// Made where it is missing: configuration, data, logs. Kept, so that a platform can be started on it again.
    pub folder: &'a Path,
    /// Its configuration file, without the address.
    pub config: &'a str,
    /// For its environment, which is empty otherwise.
    pub environment: &'a [(&'a str, String)],
}

/// A platform that runs until this is dropped.
pub struct Platform {
    /// Its process.
    pub process: Process,
    /// Where its API is.
    pub address: SocketAddr,
    token: String,
}

impl Kit {
    /// For the platform that was [`build`]; what an earlier run left of the stand-ins is made anew.
    pub fn lay(workspace: &Workspace) -> Result<Self> {
        let bench = workspace.target.join("bench");
        let (tools, runtime) = (bench.join("stand-in"), bench.join("stand-in-runtime"));
        remove(&runtime)?;
        fs::create_dir_all(&tools)?;
        write_program(&tools.join("uv"), include_str!("stand_in/uv"))?;
        write_program(&tools.join("astrbot"), include_str!("stand_in/astrbot"))?;
        Ok(Self { program: workspace.target.join("dist").join("astrfleet"), tools: Some(tools), runtime })
    }

    /// For the platform that was [`build`], with AstrBot itself: installed once, where the tests have it as well.
    pub fn with_real_bots(workspace: &Workspace) -> Self {
        let program = workspace.target.join("dist").join("astrfleet");
        Self { program, tools: None, runtime: std::env::temp_dir().join("astrfleet-test-runtime") }
    }

    /// Starts a platform and waits until it is ready; the first time it prepares its environment and its database.
    pub fn ready(&self, start: Start<'_>) -> Result<Platform> {
        let mut platform = self.begin(start)?;
        let address = platform.address;
        platform.process.until("be ready", || is_ready(address))?;
        platform.log_in()?;
        Ok(platform)
    }

    /// Starts one and does not wait. Nobody is logged in.
    pub fn begin(&self, start: Start<'_>) -> Result<Platform> {
        self.launch(start, &["up", "--admin-email", ADMIN])
    }

    /// Starts some roles of one that was set up before, and waits until they are ready.
    pub fn serve(&self, start: Start<'_>, roles: &str) -> Result<Platform> {
        let mut platform = self.launch(start, &["serve", "--roles", roles])?;
        let address = platform.address;
        platform.process.until("be ready", || is_ready(address))?;
        Ok(platform)
    }

    fn launch(&self, Start { folder, config, environment }: Start<'_>, arguments: &[&str]) -> Result<Platform> {
        let address = free_address()?;
        let file = folder.join("astrfleet.toml");
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--json", "--listen", &address.to_string()]);
        command.arg("--config").arg(file);
        command.arg("--data-dir").arg(folder.join("data"));
        command.arg("--runtime-dir").arg(&self.runtime);
        let path = variable("PATH").unwrap_or_default();
        let path = std::env::join_paths(self.tools.iter().cloned().chain(std::env::split_paths(&path)))?;
        command.env_clear().env("PATH", path).env("ASTRFLEET_ADMIN_PASSWORD", PASSWORD);
        for name in ["HOME", "PYENV_ROOT"] {
            if let Some(value) = variable(name) {
                command.env(name, value);
            }
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start_anywhere("astrfleet", command, folder)?;
        Ok(Platform { process, address, token: String::new() })
    }
}

/// Whether a platform at `address` says that it may serve.
pub fn is_ready(address: SocketAddr) -> bool {
    ask(address, "/ready", &[]).is_ok_and(|(status, _)| status == 200)
}

impl Platform {
    /// As the first administrator.
    pub fn log_in(&mut self) -> Result<()> {
        let login = self.call("POST", "/api/v1/auth/login", &json!({ "email": ADMIN, "password": PASSWORD }))?;
        text(&login, "access_token")?.clone_into(&mut self.token);
        Ok(())
    }

    /// Asks the API as the administrator. `GET` sends no body.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let headers = if self.token.is_empty() { vec![] } else { vec![authorization(&self.token)] };
        let (status, answer) = match method {
            "GET" => ask(self.address, path, &headers)?,
            _ => send(self.address, method, path, &headers, body)?,
        };
        ensure!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        serde_json::from_str(&answer).with_context(|| format!("{method} {path}: not JSON: {answer}"))
    }

    /// Makes a tenant.
    pub fn create_tenant(&self, name: &str) -> Result<()> {
        let tenant = json!({ "name": name, "email": format!("{name}@bench.example") });
        self.call("POST", "/api/v1/tenants", &tenant).map(drop)
    }

    /// Makes a member of a tenant with a role, logs them in, and gives their access token.
    pub fn token_of_member(&self, tenant: &str, role: &str) -> Result<String> {
        let email = format!("member@{tenant}.example");
        let invitation = json!({ "email": email, "role": role });
        let invitation = self.call("POST", &format!("/api/v1/tenants/{tenant}/invitations"), &invitation)?;
        let acceptance = json!({ "token": text(&invitation, "token")?, "password": PASSWORD });
        let (status, answer) = send(self.address, "POST", "/api/v1/invitations/accept", &[], &acceptance)?;
        ensure!((200..300).contains(&status), "the invitation was not accepted: {status} {answer}");
        let login = self.call("POST", "/api/v1/auth/login", &json!({ "email": email, "password": PASSWORD }))?;
        text(&login, "access_token").map(str::to_owned)
    }

    /// Makes an API key of a tenant and gives its secret.
    pub fn create_key(&self, tenant: &str) -> Result<String> {
        let key = json!({ "name": "bench", "scopes": ["chat", "instance"] });
        let key = self.call("POST", &format!("/api/v1/tenants/{tenant}/api-keys"), &key)?;
        text(&key, "secret").map(str::to_owned)
    }

    /// Opens a session and gives its id.
    pub fn open_session(&self, tenant: &str, end_user: &str) -> Result<String> {
        let session =
            self.call("POST", &format!("/api/v1/tenants/{tenant}/sessions"), &json!({ "end_user": end_user }))?;
        text(&session, "id").map(str::to_owned)
    }
}

fn text<'a>(object: &'a Value, key: &str) -> Result<&'a str> {
    object[key].as_str().with_context(|| format!("the answer has no {key}"))
}

fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

/// Removes a folder, also one that was made read-only.
pub fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        errand(Command::new("chmod").args(["-R", "u+w"]).arg(folder))?;
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}
