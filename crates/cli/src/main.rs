//! `astrfleet`: the platform, and the commands to use it.

mod address;
mod client;
mod config;
mod events;
mod host;
mod interrupt;
mod kept_login;
mod logging;
mod login;
mod ops;
mod output;
mod part_file;
mod wire;

use std::{collections::BTreeSet, io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::Result;
use astrfleet_server::role::Role;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    config::{Config, Environment, Overrides},
    events::Reporter,
    login::Target,
    output::Output,
};

/// Requests are many and small: this allocator keeps them fast and the memory low. It asks for no huge pages: with them, what
/// open event streams have and do not touch was resident as well, a third of all.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Hosts AstrBot, the LLM chatbot, for many tenants: a bot of its own for each, and one platform in front of them all.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "Begin with:\n  astrfleet up --demo     start everything on this machine and see a bot answer\n  astrfleet doctor        see whether this machine has what it takes"
)]
struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Print JSON instead of text for people
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: all roles, embedded defaults
    #[command(
        after_help = "Examples:\n  astrfleet up\n  astrfleet up --demo\n  LLM_API_KEY=sk-… astrfleet up --listen 127.0.0.1:9000"
    )]
    Up(Up),
    /// Start some roles, configured by a file and the environment; makes nothing by itself
    #[command(
        after_help = "Examples:\n  astrfleet serve --config /etc/astrfleet.toml\n  astrfleet serve --roles gateway,auth"
    )]
    Serve(Serve),
    /// Look whether this machine has what it takes, and say how to mend what is missing
    #[command(
        after_help = "Examples:\n  astrfleet doctor\n  astrfleet doctor --config /etc/astrfleet.toml --roles gateway,auth"
    )]
    Doctor(Doctor),
    /// Make, list, show, change, suspend, resume and delete tenants
    Tenant {
        #[command(subcommand)]
        command: ops::tenant::Command,
    },
    /// People who can log in, and what they may do
    User {
        #[command(subcommand)]
        command: ops::user::Command,
    },
    /// API keys of a tenant
    Key {
        #[command(subcommand)]
        command: ops::key::Command,
    },
    /// A tenant's bot: its state, its life, its log, its configuration, its own dashboard
    Instance {
        #[command(subcommand)]
        command: ops::instance::Command,
    },
    /// Archives of everything that is stored of a tenant
    Export {
        #[command(subcommand)]
        command: ops::export::Command,
    },
    /// The IM platforms that a tenant's bot serves
    Channel {
        #[command(subcommand)]
        command: ops::channel::Command,
    },
    /// Conversations of a tenant
    Session {
        #[command(subcommand)]
        command: ops::session::Command,
    },
    /// Files of a tenant's conversations
    Attachment {
        #[command(subcommand)]
        command: ops::attachment::Command,
    },
    /// End users whom a tenant's bot does not hear
    Blocklist {
        #[command(subcommand)]
        command: ops::blocklist::Command,
    },
    /// Those who write to a tenant's bot
    EndUser {
        #[command(subcommand)]
        command: ops::end_user::Command,
    },
    /// Talk to a tenant's bot
    #[command(after_help = "Examples:\n  astrfleet chat acme\n  astrfleet chat acme -m 'What are your opening hours?'")]
    Chat(ops::chat::Chat),
    /// Show what happens in a tenant's conversations, as it does
    #[command(
        after_help = "Examples:\n  astrfleet events acme\n  astrfleet events acme --follow\n  astrfleet events acme --session ses_… --follow --json"
    )]
    Events(ops::events::Events),
    /// Tell a tenant's own systems of what happens: signed, tried again, in order
    Webhook {
        #[command(subcommand)]
        command: ops::webhook::Command,
    },
    /// What a tenant used, by day; or every call of a model
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  astrfleet usage acme\n  astrfleet usage acme --from 2026-11-01 --to 2026-12-01\n  astrfleet usage export acme --from 2026-11-01 --format csv > usage.csv"
    )]
    Usage {
        /// Id or name
        #[arg(required = true)]
        tenant: Option<String>,
        #[command(flatten)]
        period: ops::account::Period,
        #[command(subcommand)]
        command: Option<ops::account::UsageCommand>,
    },
    /// Who did what, the newest first
    Audit {
        /// Id or name; without one, the platform's own log
        tenant: Option<String>,
        #[command(flatten)]
        paging: ops::Paging,
    },
    /// Log in and keep the login for the commands that follow; asks for the password
    #[command(after_help = "Example:\n  astrfleet login --url https://bots.example.com --email ada@example.com")]
    Login {
        /// To log in with
        #[arg(long)]
        email: String,
    },
    /// End the kept login
    Logout,
    /// Show or check the configuration
    Config {
        #[command(subcommand)]
        command: ops::config::Command,
    },
    /// Bring the database to this version's schema, or back; show what was done and what would be
    #[command(
        after_help = "Examples:\n  astrfleet migrate status\n  astrfleet migrate plan\n  DB_USER=astrfleet_owner DB_PASSWORD=… astrfleet migrate up --grant-to astrfleet_app\n  astrfleet migrate up --contract"
    )]
    Migrate {
        #[command(subcommand)]
        command: ops::migrate::Command,
        /// A configuration file (TOML); without one, the environment alone
        #[arg(long, global = true, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print the description of the API (OpenAPI 3.1)
    Openapi,
    /// Print every error code of the API, its status and what to do about it
    Errors,
    /// Ask a platform whether it is ready; exit code 0 if so. For containers
    #[command(
        after_help = "Examples:\n  astrfleet healthcheck\n  astrfleet healthcheck --config /etc/astrfleet.toml\n  astrfleet healthcheck --url https://bots.example.com"
    )]
    Healthcheck {
        /// Ask the `serve` of this configuration (TOML), where it listens; without one, as the environment says
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Print completions for a shell
    #[command(
        after_help = "Example:\n  astrfleet completions bash > ~/.local/share/bash-completion/completions/astrfleet"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where settings come from, for the commands that start something.
#[derive(clap::Args)]
struct Settings {
    /// A configuration file (TOML); `astrfleet config default` prints one with every key
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of the bots' shared Python environment [default: `runtime` in the data folder]
    #[arg(long, value_name = "FOLDER")]
    runtime_dir: Option<PathBuf>,
    /// A Python interpreter, 3.12 or newer [default: the newest that is found]
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Where requests come in; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
}

#[derive(clap::Args)]
struct Up {
    #[command(flatten)]
    settings: Settings,
    /// Also make a tenant, ask its bot a question and show the answer; everything stays up then
    #[arg(long)]
    demo: bool,
    /// The first administrator's e-mail address
    #[arg(long, env = "ASTRFLEET_ADMIN_EMAIL", value_name = "EMAIL")]
    admin_email: Option<String>,
}

/// What of a platform a process is.
#[derive(clap::Args)]
struct Roles {
    /// Which roles: gateway, auth, tenant, session, message, llm, manager, or all
    #[arg(long, value_delimiter = ',', default_value = "all", value_name = "ROLE,…")]
    roles: Vec<String>,
}

#[derive(clap::Args)]
struct Doctor {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    roles: Roles,
}

#[derive(clap::Args)]
struct Serve {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    roles: Roles,
    /// The first administrator's e-mail address, where there is none yet and `ASTRFLEET_ADMIN_PASSWORD` is set
    #[arg(long, env = "ASTRFLEET_ADMIN_EMAIL", value_name = "EMAIL")]
    admin_email: Option<String>,
}

impl Settings {
    fn load(&self, target: &Target, environment: &Environment) -> Result<Config> {
        let overrides = Overrides {
            file: self.config.clone(),
            data_dir: target.data_dir.clone(),
            runtime_dir: self.runtime_dir.clone(),
            listen: self.listen.clone(),
            python: self.python.clone(),
        };
        Config::load(&overrides, environment)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let environment = Environment::of_this_process();
    let json = arguments.json;
    // What runs a platform ends in an order of its own.
    let is_platform = matches!(arguments.command, Command::Up(_) | Command::Serve(_));
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(async {
                let command = run(arguments, environment);
                if is_platform { command.await } else { interrupt::unless_interrupted(command).await }
            });
            // Whatever still blocks (a name being looked up) must not hold up the end.
            runtime.shutdown_background();
            match outcome {
                Ok(code) => code,
                Err(error) => fail(&error, json),
            }
        }
        Err(error) => fail(&error.into(), json),
    }
}

/// The first administrator's password: a flag would be read by everybody on the machine.
const ADMIN_PASSWORD: &str = "ASTRFLEET_ADMIN_PASSWORD";

async fn run(arguments: Arguments, environment: Environment) -> Result<ExitCode> {
    let Arguments { target, json, command } = arguments;
    let environment = &environment;
    let output = Output::new(json);
    match command {
        Command::Up(up) => {
            let config = up.settings.load(&target, environment)?;
            if !json && std::io::stderr().is_terminal() {
                host::make_data_folder(&config.data.dir)?;
                logging::init_beside_terminal(&config.log, &config.data.dir.join("logs"))?;
            } else {
                logging::init(&config.log)?;
            }
            let (roles, admin_password) = (Role::ALL.into(), environment.get(ADMIN_PASSWORD).map(Into::into));
            let start =
                ops::run::Start { roles, embedded: true, demo: up.demo, admin_email: up.admin_email, admin_password };
            ops::run::run(&config, environment, start, Arc::new(Reporter::new(json))).await?;
        }
        Command::Serve(serve) => {
            let config = serve.settings.load(&target, environment)?;
            logging::init(&config.log)?;
            let (roles, admin_password) = (serve.roles.chosen()?, environment.get(ADMIN_PASSWORD).map(Into::into));
            let admin_email = serve.admin_email;
            let start = ops::run::Start { roles, embedded: false, demo: false, admin_email, admin_password };
            ops::run::run(&config, environment, start, Arc::new(Reporter::new(json))).await?;
        }
        Command::Doctor(doctor) => {
            let config = doctor.settings.load(&target, environment)?;
            return ops::doctor::run(&config, environment, &doctor.roles.chosen()?, json).await;
        }
        Command::Tenant { command } => ops::tenant::run(command, &target.client(environment)?, output).await?,
        Command::User { command } => {
            let client = target.client(environment)?;
            ops::user::run(command, &client, output, async || ops::account::password("New password").await).await?;
        }
        Command::Key { command } => ops::key::run(command, &target.client(environment)?, output).await?,
        Command::Instance { command } => {
            ops::instance::run(command, &target.client(environment)?, output).await?;
        }
        Command::Export { command } => ops::export::run(command, &target.client(environment)?, output).await?,
        Command::Channel { command } => ops::channel::run(command, &target.client(environment)?, output).await?,
        Command::Session { command } => ops::session::run(command, &target.client(environment)?, output).await?,
        Command::Attachment { command } => {
            ops::attachment::run(command, &target.client(environment)?, output).await?;
        }
        Command::Blocklist { command } => ops::blocklist::run(command, &target.client(environment)?, output).await?,
        Command::EndUser { command } => ops::end_user::run(command, &target.client(environment)?, output).await?,
        Command::Chat(chat) => ops::chat::run(chat, &target.client(environment)?, output).await?,
        Command::Events(events) => ops::events::run(events, &target.client(environment)?, output).await?,
        Command::Webhook { command } => ops::webhook::run(command, &target.client(environment)?, output).await?,
        Command::Usage { tenant, period, command } => {
            let client = target.client(environment)?;
            match (command, tenant) {
                (Some(command), _) => ops::account::export_usage(&client, command, output).await?,
                (None, tenant) => ops::account::usage(&client, &tenant.unwrap_or_default(), &period, output).await?,
            }
        }
        Command::Audit { tenant, paging } => {
            let client = target.client(environment)?;
            ops::account::audit(&client, tenant.as_deref(), &paging, output).await?;
        }
        Command::Login { email } => {
            let url = target.anonymous(environment)?.url().to_owned();
            let password = ops::account::password("Password").await?;
            kept_login::log_in(&url, &email, &password, environment).await?;
            output.done(&serde_json::json!({"url": url, "email": email}), &format!("Logged in at {url}."));
        }
        Command::Logout => match kept_login::log_out(environment).await? {
            Some(url) => output.done(&serde_json::json!({"url": url}), &format!("Logged out of {url}.")),
            None => output.done(&serde_json::json!({"url": null}), "There was no login."),
        },
        Command::Migrate { command, config } => {
            let overrides = Overrides { file: config, data_dir: target.data_dir.clone(), ..Overrides::default() };
            let config = Config::load(&overrides, environment)?;
            logging::init(&config.log)?;
            ops::migrate::run(command, &config, output).await?;
        }
        Command::Config { command } => ops::config::run(&command, &target, environment, json)?,
        Command::Openapi => ops::openapi::run()?,
        Command::Errors => ops::errors::run(json),
        Command::Healthcheck { config } => ops::healthcheck::run(&target, config, environment, output).await?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "astrfleet", &mut script);
            let script = String::from_utf8(script)?;
            if json {
                output.done(&serde_json::json!({"shell": shell.to_string(), "script": script}), "");
            } else {
                output::text(&script);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Roles {
    fn chosen(&self) -> Result<BTreeSet<Role>> {
        if self.roles.iter().any(|name| name == "all") {
            return Ok(Role::ALL.into());
        }
        let named = |name: &String| {
            serde_json::from_value(serde_json::Value::String(name.clone())).map_err(|_| {
                anyhow::anyhow!("--roles {name}: use gateway, auth, tenant, session, message, llm, manager or all")
            })
        };
        self.roles.iter().map(named).collect()
    }
}

/// Tells why, on standard error, and where there is more to know.
fn fail(error: &anyhow::Error, json: bool) -> ExitCode {
    let text = format!("{error:#}");
    output::aside(&if json {
        serde_json::json!({"event": "error", "error": text}).to_string()
    } else {
        format!("error: {text}")
    });
    ExitCode::FAILURE
}
