//! Everything on: a token is checked, its tenant's limit is taken from, the request goes where the tenant's requests go,
//! is named and counted. 100 tenants in turn, each with a token of its own.
//!
//! Ours is what is shipped: `astrfleet serve` with the roles in front, the upstream standing in for the role `manager` in
//! another process. The peers do less: they look into no database, name nothing and count nothing for each endpoint.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use super::{Field, METRIC, Subject, UNIT, streams, tokens};
use crate::{
    bench::{
        Effort,
        load::{Requests, ask, authorization},
        platform::{self, Kit, Platform, Start},
        proc::MEASURED,
        table::{OURSELVES, Row, rows},
    },
    errand::Workspace,
};

const TENANTS: usize = 100;
/// Requests of a tenant that no round reaches, by the minute or by the second.
const LIMITLESS: u32 = 4_000_000_000;
/// And those after which it is seen to be refused.
const LIMIT: u32 = 50;
/// Of what our tokens are derived from.
const SECRET: &str = "of-a-benchmark-and-of-nothing-else";

/// No bots: the manager is elsewhere. What the peers do not do either, a line in a log for each request, is off.
const CONFIG: &str = "
[log]
level = 'warn'
[gateway]
metrics_listen = '127.0.0.1:0'
workers = 1
rate_limit_per_minute = @LIMIT@
anonymous_rate_limit_per_minute = 4000000000
[manager]
max_instances = 0
[gateway.remote]
";

/// Somebody's requests, one for each tenant.
pub(super) type Tokens = Vec<(String, String)>;

/// Measures the row, and what waits behind the same platform.
pub(super) fn measured(workspace: &Workspace, field: &Field, effort: Effort) -> Result<Vec<Row>> {
    platform::build(workspace)?;
    let ours = Ours::set_up(workspace, field)?;
    let mut all = row(field, &ours, effort)?;
    all.extend(streams::measured(&ours)?);
    Ok(all)
}

fn row(field: &Field, ours: &Ours<'_>, effort: Effort) -> Result<Vec<Row>> {
    let theirs = (0..TENANTS).map(|number| {
        let tenant = named(number);
        let token = tokens::good(&tenant, &field.folder)?;
        Ok((tenant, token))
    });
    let theirs = theirs.collect::<Result<Tokens>>()?;
    let expired = tokens::expired(&named(0), &field.folder)?;

    let limited = [ours.subject(LIMIT)?, haproxy(field, LIMIT, &theirs)?, nginx(field, LIMIT, &theirs)?];
    for subject in &limited {
        let (tokens, expired) = match subject.name {
            OURSELVES => (&ours.tokens, None),
            _ => (&theirs, Some(&*expired)),
        };
        refuses(subject, tokens, expired)?;
        limits(subject, tokens)?;
    }
    drop(limited);

    let subjects = [ours.subject(LIMITLESS)?, haproxy(field, LIMITLESS, &theirs)?, nginx(field, LIMITLESS, &theirs)?];
    for subject in &subjects {
        subject.passes_on()?;
    }
    Ok(rows("full", METRIC, UNIT, &field.measure(&subjects, effort)?))
}

/// The platform that was set up for this, and who may ask it.
pub(super) struct Ours<'a> {
    field: &'a Field,
    kit: Kit,
    pub(super) tokens: Tokens,
}

impl<'a> Ours<'a> {
    fn set_up(workspace: &Workspace, field: &'a Field) -> Result<Self> {
        let mut ours = Self { field, kit: Kit::lay(workspace)?, tokens: Tokens::new() };
        let folder = ours.folder();
        fs::create_dir_all(&folder)?;
        let start = Start { folder: &folder, config: &config(LIMITLESS, &[]), environment: &environment() };
        let platform = ours.kit.ready(start)?;
        for number in 0..TENANTS {
            let tenant = named(number);
            platform.create_tenant(&tenant)?;
            ours.tokens.push((tenant.clone(), platform.token_of_member(&tenant, "viewer")?));
        }
        Ok(ours)
    }

    /// The roles in front alone, on the core of what is measured.
    fn subject(&self, limit: u32) -> Result<Subject> {
        let Platform { process, address, .. } = self.serve(limit, &[("manager", self.field.upstream)])?;
        Ok(Subject { name: OURSELVES, address, process, requests: requests(&self.tokens) })
    }

    /// The same before these roles, for whoever is not measured beside others.
    pub(super) fn before(&self, remote: &[(&str, SocketAddr)]) -> Result<Platform> {
        self.serve(LIMITLESS, remote)
    }

    fn serve(&self, limit: u32, remote: &[(&str, SocketAddr)]) -> Result<Platform> {
        let (folder, config) = (self.folder(), config(limit, remote));
        let start = Start { folder: &folder, config: &config, environment: &environment() };
        let platform = self.kit.serve(start, "gateway,auth,tenant")?;
        platform.process.move_to(MEASURED)?;
        Ok(platform)
    }

    fn folder(&self) -> PathBuf {
        self.field.folder.join("full")
    }
}

fn config(limit: u32, remote: &[(&str, SocketAddr)]) -> String {
    let lines: Vec<String> = remote.iter().map(|(role, address)| format!("{role} = 'http://{address}'")).collect();
    CONFIG.replace("@LIMIT@", &limit.to_string()) + &lines.join("\n")
}

fn environment() -> [(&'static str, String); 1] {
    [("JWT_SECRET", SECRET.to_owned())]
}

fn haproxy(field: &Field, limit: u32, tokens: &Tokens) -> Result<Subject> {
    let text = peer(include_str!("../peers/haproxy-hs256-limit.cfg"), limit);
    field.peer("haproxy-hs256-limit", "haproxy", &text, requests(tokens))
}

fn nginx(field: &Field, limit: u32, tokens: &Tokens) -> Result<Subject> {
    let check = include_str!("../peers/token.lua").replace("@SECRET@", tokens::SECRET);
    write(&field.folder.join("token.lua"), &check)?;
    let text = peer(include_str!("../peers/nginx-lua.conf"), limit);
    field.peer("nginx-lua", "nginx", &text, requests(tokens))
}

fn peer(text: &str, limit: u32) -> String {
    text.replace("@LIMIT@", &limit.to_string()).replace("@SECRET@", tokens::SECRET)
}

/// Nobody comes through without a token, or with one that is not good.
fn refuses(subject: &Subject, tokens: &Tokens, expired: Option<&str>) -> Result<()> {
    let (tenant, token) = tokens.first().context("no tokens")?;
    let forged = tokens::forged(token);
    let wrong = [None, Some("nonsense"), Some(&*forged)].into_iter().chain(expired.map(Some));
    for token in wrong {
        let headers: Vec<_> = token.map(authorization).into_iter().collect();
        let (status, body) = ask(subject.address, &path(tenant), &headers)?;
        ensure!(status == 401, "{} answers {token:?} with {status} {body}", subject.name);
    }
    Ok(())
}

/// One tenant is refused when it has asked often enough; another one is not.
fn limits(subject: &Subject, tokens: &Tokens) -> Result<()> {
    let [(eager, token), (calm, other), ..] = &tokens[..] else { anyhow::bail!("too few tokens") };
    let mut last = 0;
    for asked in 0..=2 * LIMIT {
        (last, _) = ask(subject.address, &path(eager), &[authorization(token)])?;
        ensure!(last == 200 || asked >= LIMIT / 2, "{} refuses request {asked} with {last}", subject.name);
        if last != 200 {
            break;
        }
    }
    ensure!(last == 429, "{} limits nobody: {last}", subject.name);
    let (status, body) = ask(subject.address, &path(calm), &[authorization(other)])?;
    ensure!(status == 200, "{} refuses who asked nothing before: {status} {body}", subject.name);
    Ok(())
}

fn requests(tokens: &Tokens) -> Requests {
    let request = |(tenant, token): &(String, String)| {
        (path(tenant), vec![("Host".to_owned(), "bench.local".to_owned()), authorization(token)])
    };
    Requests::in_turn(tokens.iter().map(request).collect())
}

fn path(tenant: &str) -> String {
    format!("/api/v1/tenants/{tenant}/instance")
}

fn named(number: usize) -> String {
    format!("tenant-{number:03}")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
