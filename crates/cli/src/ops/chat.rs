//! `chat`: talk to a tenant's bot, its answers streamed.

use std::io::{BufRead, IsTerminal};

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    address::at,
    client::Client,
    output::{Output, aside, line, text},
};

/// Whom to talk to.
#[derive(clap::Args)]
pub struct Chat {
    /// Id or name
    tenant: String,
    /// One question instead of a conversation
    #[arg(long, short)]
    message: Option<String>,
    /// Go on with this session
    #[arg(long)]
    session: Option<String>,
    /// Whose words these are
    #[arg(long, default_value = "cli")]
    end_user: String,
}

/// Talks until the end of input.
///
/// # Errors
/// What the platform says, and an answer that does not come.
pub async fn run(chat: Chat, client: &Client, output: Output) -> Result<()> {
    let sessions = at(["tenants", &chat.tenant, "sessions"]);
    let session = if let Some(session) = chat.session {
        session
    } else {
        let opened = client.post(&sessions, &json!({"end_user": chat.end_user})).await?;
        opened["id"].as_str().context("the new session has no id")?.to_owned()
    };
    let path = at(["tenants", &chat.tenant, "sessions", &session, "messages"]);
    if let Some(message) = chat.message {
        return ask(client, &path, &message, output).await;
    }
    let terminal = std::io::stdin().is_terminal() && !output.is_json();
    if terminal {
        line(&format!("Talking to {}'s bot in {session}. An empty line or Ctrl-D ends it.", chat.tenant));
    }
    loop {
        if terminal {
            text("\nyou  ");
        }
        // The runtime's own threads go on while this one waits for the person.
        let typed = tokio::task::spawn_blocking(|| {
            let mut typed = String::new();
            std::io::stdin().lock().read_line(&mut typed).map(|read| (read > 0).then_some(typed))
        })
        .await??;
        match typed.as_deref().map(str::trim) {
            None | Some("") => return Ok(()),
            Some(words) => {
                if let Err(error) = ask(client, &path, words, output).await {
                    if !terminal {
                        return Err(error);
                    }
                    // One answer that did not come is no end of the conversation.
                    aside(&format!("error: {error:#}"));
                }
            }
        }
    }
}

async fn ask(client: &Client, path: &str, words: &str, output: Output) -> Result<()> {
    let mut stream = client.stream(Method::POST, path, Some(&json!({"text": words}))).await?;
    let mut begun = false;
    while let Some(event) = stream.next().await? {
        if output.is_json() {
            line(&json!({"event": event.event, "id": event.id, "data": event.data}).to_string());
        }
        let ended = show(&event.event, &event.data, output, &mut begun)?;
        if ended {
            return Ok(());
        }
    }
    bail!("the stream ended before the answer did: `astrfleet session messages` shows what was stored")
}

/// Shows an event to a person. Returns whether it was the last one.
fn show(event: &str, data: &Value, output: Output, begun: &mut bool) -> Result<bool> {
    let quiet = output.is_json();
    match event {
        "delta" if !quiet => {
            if !*begun {
                text("bot  ");
                *begun = true;
            }
            let piece = data["text"].as_str().unwrap_or_default();
            // What a bot writes must not steer the terminal.
            let clean: String =
                piece.chars().filter(|character| !character.is_control() || *character == '\n').collect();
            text(&clean.replace('\n', "\n     "));
        }
        "state" if !quiet && data["state"] == "waking" => aside("     (the bot is starting)"),
        "attachment" if !quiet => {
            line(&format!(
                "\n     (sent {}: {})",
                data["name"].as_str().unwrap_or("a file"),
                data["attachment_id"].as_str().unwrap_or("-")
            ));
        }
        "done" => {
            if !quiet {
                line("");
            }
            return Ok(true);
        }
        "failed" => bail!("{}", data["detail"].as_str().unwrap_or("there was no answer")),
        "interrupted" => bail!("the answer broke off; what came of it is stored"),
        _ => {}
    }
    Ok(false)
}
