//! What `astrfleet doctor` says of this machine: whether bots can be prepared and run here, and how to mend what
//! stands in the way. Changes nothing but for asking the package index for one answer.

use std::time::{Duration, Instant, SystemTime};

use secrecy::ExposeSecret;
use serde::Serialize;

use super::{
    Environment, NEEDED_BYTES, Options, access, machine,
    python::{self, Python},
    uv,
};

const INDEX: &str = "https://pypi.org/simple/";
const INDEX_LIMIT: Duration = Duration::from_secs(8);

/// How serious a [`Check`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with something less than it could be.
    Warn,
    /// Bots cannot run until this is mended.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// In few words, always the same.
    pub name: &'static str,
    /// How it is.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    #[must_use]
    pub fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), remedy: None }
    }

    /// Not as good as it could be, and how to improve it.
    #[must_use]
    pub fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// In the way, and how to mend it.
    #[must_use]
    pub fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything that bots need of this machine. `now` is the time that this program goes by. Takes some
/// seconds at most, most of them when the package index does not answer.
pub async fn checks(options: &Options, now: SystemTime) -> Vec<Check> {
    let started = Instant::now();
    let prepared = Environment::find(options);
    let (python, index) = tokio::join!(python::find(options), ask_index(options));
    let found = python.as_ref().ok();
    let mut checks = vec![
        match &python {
            Ok(python) => Check::ok("python", format!("{} at {}", python.version, python.base_executable.display())),
            Err(error) if prepared.is_some() => {
                Check::warn("python", "the prepared environment has one; no other is found", error.to_string())
            }
            Err(error) => Check::fail("python", "no Python 3.12 or newer", error.to_string()),
        },
        check_uv(options, found, prepared.is_some()).await,
        check_environment(options, prepared.as_ref()),
        check_index(&index, prepared.is_some()),
        check_disk(options, prepared.is_some()),
    ];
    let server_time = index.ok().and_then(|answer| answer.date);
    checks.push(machine::clock(now + started.elapsed(), server_time));
    checks.extend(machine::checks(&options.folder, prepared.as_ref()));
    checks
}

async fn check_uv(options: &Options, python: Option<&Python>, prepared: bool) -> Check {
    const NAME: &str = "uv";
    if let Some(uv) = uv::present(options).await {
        return Check::ok(NAME, format!("{} at {}", uv.version, uv.program.display()));
    }
    if python.is_some_and(|python| python.has_venv) {
        return Check::ok(NAME, "not here; `astrfleet up` will fetch it for itself");
    }
    let detail = "not on the PATH, and there is no Python with a working venv module to fetch it with";
    let remedy = "apt-get install -y python3-venv, or install uv: https://docs.astral.sh/uv/";
    if prepared { Check::warn(NAME, detail, remedy) } else { Check::fail(NAME, detail, remedy) }
}

fn check_environment(options: &Options, prepared: Option<&Environment>) -> Check {
    const NAME: &str = "bot runtime";
    match prepared {
        Some(environment) => Check::ok(
            NAME,
            format!(
                "AstrBot {} on Python {} in {}",
                environment.version,
                environment.python_version,
                environment.folder.display()
            ),
        ),
        None => Check::warn(
            NAME,
            format!("AstrBot {} is not prepared in {}", options.astrbot_version, options.folder.display()),
            "`astrfleet up` prepares it: once, a minute or two, about 1 GB",
        ),
    }
}

fn check_disk(options: &Options, prepared: bool) -> Check {
    const NAME: &str = "disk";
    /// With less than this, a few tenants with attachments fill what is left.
    const COMFORTABLE_BYTES: u64 = 5_000_000_000;
    const REMEDY: &str = "free some space there, or choose another disk with --data-dir";
    let place = machine::nearest_existing(&options.folder);
    let free = match access::free_bytes(place) {
        Ok(free) => free,
        Err(error) => return Check::warn(NAME, format!("cannot look at {}: {error}", place.display()), REMEDY),
    };
    let detail = format!("{} MB free at {}", free / 1_000_000, place.display());
    match free {
        free if free < NEEDED_BYTES && !prepared => Check::fail(NAME, format!("{detail}; 1000 MB are needed"), REMEDY),
        free if free < COMFORTABLE_BYTES => Check::warn(NAME, detail, REMEDY),
        _ => Check::ok(NAME, detail),
    }
}

/// What the package index answered.
struct IndexAnswer {
    host: String,
    date: Option<SystemTime>,
}

async fn ask_index(options: &Options) -> Result<IndexAnswer, String> {
    let url = options.index_url.as_ref().map_or(INDEX, |url| url.expose_secret());
    let parsed = reqwest::Url::parse(url).map_err(|error| format!("its address is not valid: {error}"))?;
    let host = parsed.host_str().unwrap_or("(no host)").to_owned();
    // Errors of the client name the address, which may hold a password: their sources do not.
    let readable = |error: reqwest::Error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        format!("{host}: {}", if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() })
    };
    let client = reqwest::Client::builder().timeout(INDEX_LIMIT).build().map_err(readable)?;
    let response = client.head(parsed).send().await.map_err(readable)?;
    if response.status().is_server_error() || response.status() == reqwest::StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(format!("{host} answered {}", response.status()));
    }
    let date = response
        .headers()
        .get(reqwest::header::DATE)
        .and_then(|date| jiff::fmt::rfc2822::parse(date.to_str().ok()?).ok())
        .map(|date| date.timestamp().into());
    Ok(IndexAnswer { host, date })
}

fn check_index(answer: &Result<IndexAnswer, String>, prepared: bool) -> Check {
    const NAME: &str = "package index";
    const REMEDY: &str = "check the network, or name a mirror with UV_INDEX_URL or a proxy with HTTPS_PROXY";
    match answer {
        Ok(answer) => Check::ok(NAME, format!("{} answers", answer.host)),
        Err(reason) if prepared => {
            Check::warn(NAME, format!("{reason}; needed again only for another AstrBot or for plugins"), REMEDY)
        }
        Err(reason) => Check::fail(NAME, reason.clone(), REMEDY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nowhere(folder: &std::path::Path) -> Options {
        Options {
            // Nobody listens on the discard port: refused at once, with no network at all.
            index_url: Some("http://someone:hidden@127.0.0.1:9/simple/".to_owned().into()),
            ..Options::new(folder.join("runtime"), folder.as_os_str(), folder)
        }
    }

    fn by_name<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[tokio::test]
    async fn a_machine_without_anything_is_told_how_to_mend_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = nowhere(folder.path());
        let now = SystemTime::UNIX_EPOCH;
        let checks = checks(&options, now).await;
        for (name, status) in [
            ("python", Status::Fail),
            ("uv", Status::Fail),
            ("bot runtime", Status::Warn),
            ("package index", Status::Fail),
            ("clock", Status::Fail),
        ] {
            let check = by_name(&checks, name);
            assert_eq!(check.status, status, "{check:?}");
            assert!(check.remedy.is_some(), "{check:?}");
        }
        assert!(!options.folder.exists(), "looking must not make anything");
        assert!(!format!("{checks:?} {options:?}").contains("hidden"));
        for check in &checks {
            assert_eq!(check.status == Status::Ok, check.remedy.is_none(), "{check:?}");
        }
    }

    #[test]
    fn checks_are_printed_as_json() {
        let ok = serde_json::to_value(Check::ok("uv", "0.13.9")).unwrap();
        assert_eq!(ok, serde_json::json!({"name": "uv", "status": "ok", "detail": "0.13.9"}));
        let fail = serde_json::to_value(Check::fail("disk", "full", "free some")).unwrap();
        assert_eq!(fail["remedy"], "free some");
    }

    #[test]
    fn a_silent_index_matters_less_once_prepared() {
        let silent = || Err("pypi.org: no answer in time".to_owned());
        assert_eq!(check_index(&silent(), false).status, Status::Fail);
        assert_eq!(check_index(&silent(), true).status, Status::Warn);
    }
}
