//! Databases to measure in: a file of SQLite's, or one of a real PostgreSQL that was started for it.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::proc::on_core;
use crate::errand::{Workspace, output};

/// One of a program that is measured.
#[derive(Clone)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// Of a [`Server`].
    Postgres {
        /// On the loopback address.
        port: String,
        /// As whom it is used.
        user: String,
        /// Whom row-level security does not hold there.
        unheld: String,
        /// Its name.
        name: String,
    },
}

impl Database {
    /// For the tools of the crate `testkit`.
    pub fn arguments(&self) -> [String; 2] {
        match self {
            Self::Sqlite(path) => ["--sqlite".to_owned(), path.display().to_string()],
            Self::Postgres { port, user, name, .. } => {
                ["--postgres".to_owned(), format!("postgres://{user}@127.0.0.1:{port}/{name}")]
            }
        }
    }

    /// For the platform, whose own one is SQLite.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Sqlite(_) => Vec::new(),
            Self::Postgres { port, user, name, .. } => vec![
                ("DB_HOST", "127.0.0.1".to_owned()),
                ("DB_PORT", port.clone()),
                ("DB_USER", user.clone()),
                ("DB_NAME", name.clone()),
            ],
        }
    }

    /// The same as somebody who may do everything, and whom row-level security does not hold.
    pub fn unheld(self) -> Self {
        match self {
            Self::Postgres { port, unheld, name, .. } => Self::Postgres { port, user: unheld.clone(), unheld, name },
            file @ Self::Sqlite(_) => file,
        }
    }
}

/// A real PostgreSQL with fsync on; it ends with us, however we end, and its folder goes with it.
pub struct Server {
    process: Child,
    port: String,
    /// Who may do everything, whom row-level security does not hold.
    user: String,
    /// Who owns the databases, and is held by it as the platform is.
    owner: String,
    programs: PathBuf,
    databases: std::cell::Cell<u32>,
}

impl Server {
    /// Starts one, on a core of its own or wherever the kernel puts it.
    pub fn start(workspace: &Workspace, core: Option<usize>) -> Result<Self> {
        let tool = Command::new(tool(workspace, "bench_postgres"));
        let mut command = match core {
            Some(core) => on_core(core, &tool),
            None => tool,
        };
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let said = process.stdout.take().context("standard output is piped")?;
        BufReader::new(said).read_line(&mut line)?;
        let Ok(said) = serde_json::from_str::<Value>(&line) else {
            process.wait()?;
            bail!("there is no PostgreSQL to measure: see above");
        };
        let text = |key: &str| said[key].as_str().map(str::to_owned).with_context(|| format!("{line} says no {key}"));
        let port = said["port"].as_u64().context("the server says no port")?.to_string();
        Ok(Self {
            process,
            port,
            user: text("user")?,
            owner: text("owner")?,
            programs: text("programs")?.into(),
            databases: 0.into(),
        })
    }

    /// A program that came with it, to be told the rest.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.args(["-h", "127.0.0.1", "-p", &self.port, "-U", &self.user]);
        command
    }

    /// A new and empty one, of the owner that row-level security holds.
    pub fn database(&self) -> Result<Database> {
        let number = self.databases.get();
        self.databases.set(number + 1);
        let name = format!("bench_{number}");
        let created = output(self.program("createdb").args(["--encoding", "UTF8", "--owner", &self.owner, &name]))?;
        ensure!(created.is_empty(), "createdb says: {created}");
        Ok(Database::Postgres { port: self.port.clone(), user: self.owner.clone(), unheld: self.user.clone(), name })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _gone_already = self.process.wait();
    }
}

/// A program of the crate `testkit`, which was built with the platform.
pub fn tool(workspace: &Workspace, name: &str) -> PathBuf {
    workspace.target.join("dist").join(name)
}
