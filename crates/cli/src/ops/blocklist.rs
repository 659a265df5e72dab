//! `blocklist`: end users whom a tenant's bot does not hear.

use anyhow::Result;
use reqwest::Method;

use super::{Paging, tenant::given};
use crate::{address::at, client::Client, output::Output};

const COLUMNS: &[&str] = &["id", "channel", "end_user", "reason", "until", "created_by", "created_at"];

/// What to do.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List who is blocked, the newest first
    List {
        /// Id or name
        tenant: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Block an end user: what they write is refused, or dropped where it comes from an IM channel
    #[command(
        after_help = "Examples:\n  astrfleet blocklist add acme mallory --reason 'sells things'\n  astrfleet blocklist add acme 42 --channel telegram --until 2026-12-31T00:00:00Z"
    )]
    Add {
        /// Id or name
        tenant: String,
        /// Your own name of them, as in their sessions; of an IM channel, its own id of them
        end_user: String,
        /// On this channel alone [default: on all]
        #[arg(long)]
        channel: Option<String>,
        /// For your own people; the end user is not told
        #[arg(long)]
        reason: Option<String>,
        /// Until when (RFC 3339) [default: until it is removed]
        #[arg(long, value_name = "MOMENT")]
        until: Option<String>,
    },
    /// Hear an end user again
    Remove {
        /// Id or name
        tenant: String,
        /// The id of what was added
        block: String,
    },
}

/// Does it.
///
/// # Errors
/// What the platform says.
pub async fn run(command: Command, client: &Client, output: Output) -> Result<()> {
    match command {
        Command::List { tenant, paging } => {
            let path = format!("{}{}", at(["tenants", &tenant, "blocklist"]), paging.query());
            output.page(&client.get(&path).await?, COLUMNS)?;
        }
        Command::Add { tenant, end_user, channel, reason, until } => {
            let body =
                given([("end_user", Some(end_user)), ("channel", channel), ("reason", reason), ("until", until)]);
            output.thing(&client.post(&at(["tenants", &tenant, "blocklist"]), &body).await?, COLUMNS);
        }
        Command::Remove { tenant, block } => {
            let answer = client.call(Method::DELETE, &at(["tenants", &tenant, "blocklist", &block]), None).await?;
            output.done(&answer, &format!("{block} is gone: they are heard again."));
        }
    }
    Ok(())
}
