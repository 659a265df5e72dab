//! What `up` and `serve` tell about themselves: one JSON object a line with `--json`, words for people without.

use std::{
    io::{IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use astrfleet_runtime::environment::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Something that happened at the start or at the end.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The bots' environment is being prepared.
    Preparing {
        /// Which step, and how far it is.
        #[serde(flatten)]
        progress: Progress,
    },
    /// Bots that were running already are ours again.
    Adopted {
        /// How many.
        bots: usize,
    },
    /// The first administrator was made.
    Administrator {
        /// To log in with.
        email: String,
        /// Only where it was made by us; shown this once.
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<String>,
    },
    /// Requests are answered.
    Ready {
        /// The address.
        url: String,
        /// Where metrics are.
        #[serde(skip_serializing_if = "Option::is_none")]
        metrics_url: Option<String>,
        /// Where everything is kept.
        data_dir: String,
        /// From the start of the process, in milliseconds.
        ready_ms: u64,
        /// Whether bots have a real model.
        model_configured: bool,
        /// Whether a demonstration follows, which makes a tenant of its own.
        #[serde(skip)]
        demo: bool,
    },
    /// A step of the demonstration.
    DemoState {
        /// What the bot is doing.
        state: String,
    },
    /// A question is asked.
    DemoQuestion {
        /// The question.
        question: String,
    },
    /// A piece of the demonstration's answer.
    DemoDelta {
        /// The piece.
        text: String,
    },
    /// The demonstration is over; everything stays up.
    Demo {
        /// The tenant's name.
        tenant: String,
        /// What was asked.
        question: String,
        /// What its bot answered.
        answer: String,
        /// From the tenant's making until its bot was ready, in milliseconds.
        bot_ready_ms: u64,
        /// From the question to the first piece of the answer, in milliseconds.
        first_token_ms: u64,
        /// A link into the bot's own dashboard: for one use, within a minute.
        dashboard_url: String,
    },
    /// The demonstration did not work; everything stays up.
    DemoFailed {
        /// Why.
        reason: String,
    },
    /// A stop was asked for.
    Stopping {
        /// Whoever asks again has it at once.
        limit_s: u64,
    },
    /// Everything is stopped.
    Stopped,
}

/// Tells.
pub struct Reporter {
    json: bool,
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Reporter {
    /// For programs, or for people.
    pub fn new(json: bool) -> Self {
        Self { json, terminal: std::io::stderr().is_terminal(), bar: Mutex::default() }
    }

    /// Tells `event`. A reader that has gone away is no reason to stop.
    pub fn tell(&self, event: &Event) {
        let mut out = std::io::stdout().lock();
        if self.json {
            let line = serde_json::to_string(event).unwrap_or_default();
            writeln!(out, "{line}").ok();
        } else {
            self.say(&mut out, event).ok();
        }
        out.flush().ok();
    }

    fn say(&self, out: &mut impl Write, event: &Event) -> std::io::Result<()> {
        match event {
            Event::Preparing { progress } => self.prepare(out, progress),
            Event::Adopted { bots: 0 } => Ok(()),
            Event::Adopted { bots } => writeln!(out, "  {bots} running bot(s) found and adopted"),
            Event::Administrator { email, password } => {
                writeln!(out, "\n  First administrator\n    e-mail    {email}")?;
                match password {
                    Some(password) => writeln!(out, "    password  {password}   (shown this once)"),
                    None => writeln!(out, "    password  the one from ASTRFLEET_ADMIN_PASSWORD"),
                }
            }
            Event::Ready { url, data_dir, model_configured, demo, .. } => {
                writeln!(out, "\n  astrfleet is up at {url}   (the API reference is there too)")?;
                writeln!(out, "  data folder {data_dir}")?;
                if !model_configured {
                    writeln!(
                        out,
                        "  no model is configured: bots answer from the built-in `demo`; set LLM_API_KEY for a real one"
                    )?;
                }
                if !demo {
                    // What is to be copied has to work: the demonstration makes this very tenant, and says what is next.
                    writeln!(
                        out,
                        "\n  Next, in another terminal:\n    astrfleet tenant create acme --email you@example.com\n    astrfleet chat acme"
                    )?;
                }
                writeln!(out, "\n  Ctrl-C stops everything, bots included.")
            }
            Event::DemoState { state } => writeln!(out, "  demo: {state}"),
            Event::DemoQuestion { question } => write!(out, "\n  you   {question}\n  bot   "),
            Event::DemoDelta { text } => write!(out, "{}", text.replace('\n', "\n        ")),
            Event::Demo { tenant, bot_ready_ms, first_token_ms, dashboard_url, .. } => {
                writeln!(
                    out,
                    "\n\n  {tenant}'s bot was ready after {:.1} s; its answer began after {first_token_ms} ms.",
                    Duration::from_millis(*bot_ready_ms).as_secs_f64()
                )?;
                writeln!(
                    out,
                    "\n  Open {tenant}'s own dashboard, signed in (once, within a minute):\n    {dashboard_url}\n  A new link at any time:  astrfleet instance open {tenant}\n  Go on chatting:          astrfleet chat {tenant}"
                )
            }
            Event::DemoFailed { reason } => {
                writeln!(out, "\n\n  The demonstration did not work: {reason}\n  Everything stays up.")
            }
            Event::Stopping { limit_s } => {
                writeln!(
                    out,
                    "\n  Stopping: open answers and bots get up to {limit_s} s. Ctrl-C again ends it at once."
                )
            }
            Event::Stopped => writeln!(out, "  Stopped."),
        }
    }

    fn prepare(&self, out: &mut impl Write, progress: &Progress) -> std::io::Result<()> {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::AlreadyPrepared = progress {
            return Ok(());
        }
        if let Progress::Done { took_ms } = progress {
            if let Some(bar) = bar.take() {
                bar.finish_and_clear();
            }
            return writeln!(out, "  bot runtime prepared in {:.0} s", Duration::from_millis(*took_ms).as_secs_f64());
        }
        let (text, position) = match progress {
            Progress::FoundPython { path, version } => {
                return writeln!(out, "  Python {version} at {}", path.display());
            }
            Progress::WaitingForAnother => ("another astrfleet prepares the bot runtime: waiting for it", None),
            Progress::LookingForPython => ("looking for Python", None),
            Progress::InstallingUv => ("fetching the installer", None),
            Progress::CreatingEnvironment => ("making the bots' Python environment", None),
            Progress::InstallingPackages { done, total } => ("installing AstrBot", total.map(|total| (*done, total))),
            Progress::Compiling { done, total } => ("compiling it", Some((*done, *total))),
            _ => ("checking it", None),
        };
        if !self.terminal {
            // A line a step: a file wants no moving picture.
            let first = position.is_none_or(|(done, _)| done == 0);
            return if first { writeln!(out, "  {text} …") } else { Ok(()) };
        }
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::no_length();
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let template =
            if position.is_some() { "  {spinner} {msg} {bar:30} {pos}/{len}" } else { "  {spinner} {msg} ({elapsed})" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Some((done, total)) = position {
            bar.set_length(total);
            bar.set_position(done);
        }
        bar.set_message(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Reporter};

    fn said(demo: bool) -> String {
        let reporter = Reporter { json: false, terminal: false, bar: std::sync::Mutex::default() };
        let ready = Event::Ready {
            url: "http://127.0.0.1:8000".to_owned(),
            metrics_url: None,
            data_dir: "/tmp/data".to_owned(),
            ready_ms: 7,
            model_configured: true,
            demo,
        };
        let mut out = Vec::new();
        reporter.say(&mut out, &ready).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_to_be_typed_next_works() {
        assert!(said(false).contains("astrfleet tenant create acme"));
        // The demonstration makes this very tenant: a second one of the name would be refused.
        assert!(!said(true).contains("tenant create"));
    }
}
