//! `migrate`: brings the database to this version's schema, or back, and says what would be done. It reaches the database
//! itself, not a platform; run it as the owner of the tables.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use astrfleet_core::ports::Clock;
use astrfleet_store::{Db, migrate::PlannedStep};
use serde_json::json;

use crate::{
    config::Config,
    host::{DataFolder, SystemClock},
    output::Output,
    wire,
};

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make the steps that are missing, and that programs of the release before can live with; several may do so at once
    Up {
        /// Up to this step, which is made too, whatever it is
        #[arg(long, value_name = "N", conflicts_with = "contract")]
        to: Option<i64>,
        /// Also take away what only the release before uses: when no program of it runs any more
        #[arg(long)]
        contract: bool,
        /// Let this role use the tables afterwards, and nothing more: what the platform connects as
        #[arg(long, value_name = "ROLE")]
        grant_to: Option<String>,
    },
    /// Undo the steps after one; what is stored in what they made is lost
    Down {
        /// The step that is the last one afterwards; 0 undoes all
        #[arg(long, value_name = "N")]
        to: i64,
        /// Really do it
        #[arg(long)]
        yes: bool,
    },
    /// Show every step, and when it was made
    Status,
    /// Print the SQL of the steps that are missing, and change nothing
    Plan {
        /// Up to this step; one before the newest that was made prints how it would be undone
        #[arg(long, value_name = "N")]
        to: Option<i64>,
    },
}

/// Runs it.
///
/// # Errors
/// Where the database cannot be opened or migrated: the text says why, and the remedy.
pub async fn run(command: Command, config: &Config, output: Output) -> Result<()> {
    // The folder is taken, where the database is in it: a platform that runs has it open.
    let data = if config.database.host.is_empty() { Some(DataFolder::take(&config.data.dir)?) } else { None };
    let db = wire::open_unmigrated(config, data.as_ref()).await?;
    let outcome = act(command, &db, output).await;
    db.close().await;
    outcome
}

async fn act(command: Command, db: &Db, output: Output) -> Result<()> {
    match command {
        Command::Up { to, contract, grant_to } => {
            let now = SystemClock.now();
            let made = match to {
                Some(to) => db.migrate_up_to(now, to).await?,
                None if contract => db.migrate_up(now).await?,
                None => db.migrate_up_beside_previous(now).await?,
            };
            let left: Vec<_> = db.missing_steps(i64::MAX).await?.iter().map(|step| step.name).collect();
            if let Some(role) = &grant_to {
                db.grant_use_to(role).await.with_context(|| format!("the role {role} cannot be let use the tables"))?;
            }
            let mut sentence = match (made.is_empty(), left.is_empty()) {
                (true, true) => "The database has every step already.".to_owned(),
                (true, false) => "Nothing was made.".to_owned(),
                (false, _) => format!("Made: {}.", made.join(", ")),
            };
            if !left.is_empty() {
                let _ = write!(sentence, " Left: {}.", left.join(", "));
                if to.is_none() {
                    sentence.push_str(
                        " When no program of the release before runs any more: `astrfleet migrate up --contract`.",
                    );
                }
            }
            output.done(&json!({"made": made, "left": left, "granted_to": grant_to}), &sentence);
        }
        Command::Down { to, yes } => {
            let steps = db.undoable_steps(to).await?;
            if !yes && !steps.is_empty() {
                let names: Vec<_> = steps.iter().map(|step| step.name).collect();
                bail!(
                    "this would undo {}, with all that is stored in what they made: see `astrfleet migrate plan --to \
                     {to}`, make a backup, then add --yes",
                    names.join(", ")
                );
            }
            let undone = db.migrate_down(to).await?;
            let sentence = if undone.is_empty() {
                "There was nothing to undo.".to_owned()
            } else {
                format!("Undone: {}.", undone.join(", "))
            };
            output.done(&json!({"undone": undone}), &sentence);
        }
        Command::Status => {
            let steps = db.migration_status().await?;
            let items: Vec<_> = steps
                .iter()
                .map(|step| json!({"version": step.version, "name": step.name, "applied_at": step.applied_at}))
                .collect();
            output.page(&json!({"items": items}), &["version", "name", "applied_at"])?;
        }
        Command::Plan { to } => {
            let newest = db.migration_status().await?.iter().filter(|step| step.applied_at.is_some()).count();
            let to = to.unwrap_or(i64::MAX);
            let back = usize::try_from(to).is_ok_and(|to| to < newest);
            let steps = if back { db.undoable_steps(to).await? } else { db.missing_steps(to).await? };
            print_plan(&steps, back, output);
        }
    }
    Ok(())
}

fn print_plan(steps: &[PlannedStep], back: bool, output: Output) {
    let way = if back { "down" } else { "up" };
    let items: Vec<_> = steps
        .iter()
        .map(|step| json!({"version": step.version, "name": step.name, "direction": way, "sql": step.sql}))
        .collect();
    let text: Vec<_> = steps.iter().map(|step| format!("-- {} ({way})\n{}", step.name, step.sql.trim_end())).collect();
    let sentence = if text.is_empty() { "-- nothing to do".to_owned() } else { text.join("\n\n") };
    output.done(&json!({"items": items}), &sentence);
}
