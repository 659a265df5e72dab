//! Who was let through a moment ago, remembered by each worker for itself: no lock, nothing shared. Forgotten when
//! anything changes that may matter, and after a few seconds anyway.

use std::collections::HashMap;

use astrfleet_core::{
    Error, Result,
    id::TenantId,
    policy::{Caller, Standing},
};

use crate::{app::App, extract::take_anonymous};

/// Remembered callers of one worker, at the most; then it begins anew.
const CALLERS_MAX: usize = 8_192;
/// Tenants that are remembered of one caller.
const TENANTS_MAX: usize = 16;
/// For how many of a worker's ticks: a few seconds.
const TICKS_MAX: u32 = 50;

/// What is remembered.
#[derive(Debug, Default)]
pub struct Admissions {
    /// By the end of the credential, which nobody chooses: a signature, or randomness.
    callers: HashMap<u64, Admitted>,
    epoch: u64,
}

#[derive(Debug)]
struct Admitted {
    credential: Box<str>,
    caller: Caller,
    since: u32,
    /// By the part of the path that named it.
    tenants: Vec<(Box<str>, TenantId)>,
}

/// That a credential was good a moment ago.
#[derive(Debug, PartialEq, Eq)]
pub struct Admission<'a> {
    /// Whose it is.
    pub caller: &'a Caller,
    /// Of the tenant that the path names, where it names one.
    pub tenant: Option<&'a TenantId>,
}

impl Admissions {
    /// Whether this credential was good a moment ago for what the path names.
    pub fn find(&mut self, credential: &str, tenant: Option<&str>, now: u32, epoch: u64) -> Option<Admission<'_>> {
        if self.epoch != epoch {
            self.callers.clear();
            self.epoch = epoch;
            return None;
        }
        let known = self.callers.get(&tail(credential))?;
        let same =
            aws_lc_rs::constant_time::verify_slices_are_equal(known.credential.as_bytes(), credential.as_bytes());
        if same.is_err() || now.saturating_sub(known.since) > TICKS_MAX {
            return None;
        }
        let Some(tenant) = tenant else { return Some(Admission { caller: &known.caller, tenant: None }) };
        known
            .tenants
            .iter()
            .find(|(named, _)| &**named == tenant)
            .map(|(_, id)| Admission { caller: &known.caller, tenant: Some(id) })
    }

    /// Remembers what [`ask`] found out, if nothing changed since `epoch`.
    pub fn keep(&mut self, credential: &str, caller: &Caller, tenant: Option<(&str, TenantId)>, now: u32, epoch: u64) {
        if self.epoch != epoch {
            return;
        }
        if self.callers.len() >= CALLERS_MAX {
            self.callers.clear();
        }
        let fresh =
            || Admitted { credential: credential.into(), caller: caller.clone(), since: now, tenants: Vec::new() };
        let known = self.callers.entry(tail(credential)).or_insert_with(fresh);
        let is_old = *known.credential != *credential || now.saturating_sub(known.since) > TICKS_MAX;
        if is_old || known.caller != *caller {
            *known = fresh();
        }
        if let Some((named, id)) = tenant
            && known.tenants.len() < TENANTS_MAX
        {
            known.tenants.push((named.into(), id));
        }
    }
}

fn tail(credential: &str) -> u64 {
    credential.as_bytes().last_chunk().map_or(0, |tail| u64::from_le_bytes(*tail))
}

/// Whose credential this is, if it is good for what the path names; with the tenant, where one is named.
///
/// # Errors
/// [`Error::Unauthenticated`]; [`Error::NotFound`] for a stranger to the tenant.
pub async fn ask(
    app: &App,
    credential: &str,
    peer: std::net::IpAddr,
    tenant: Option<&str>,
) -> Result<(Caller, Option<TenantId>)> {
    let caller = match app.auth.authenticate(credential, Some(peer)).await {
        // Whoever tries credentials out gets no further than whoever has none.
        Err(refused @ Error::Unauthenticated { .. }) => {
            take_anonymous(app, Some(peer))?;
            return Err(refused);
        }
        outcome => outcome?,
    };
    let Some(tenant) = tenant else { return Ok((caller, None)) };
    let tenant = app.tenant.resolve(tenant).await?;
    match app.auth.standing(&caller, &tenant.id).await? {
        Standing::Stranger => Err(Error::NotFound { what: "tenant" }),
        Standing::Platform | Standing::Member(_) | Standing::Key(_) => Ok((caller, Some(tenant.id.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        id::{TenantId, UserId},
        policy::Caller,
    };

    use super::{Admission, Admissions, TICKS_MAX};

    #[test]
    fn what_was_found_out_is_forgotten_in_time_and_when_something_changes() {
        let tenant = TenantId::parse("ten_0123456789abcdef0123456789abcdef").unwrap();
        let id = UserId::parse("usr_0123456789abcdef0123456789abcdef").unwrap();
        let ada = Caller::User { id, platform_admin: false, login: None };
        let mut known = Admissions::default();
        assert_eq!(known.find("token-of-ada", None, 0, 0), None);
        known.keep("token-of-ada", &ada, Some(("acme", tenant.clone())), 0, 0);
        assert_eq!(
            known.find("token-of-ada", Some("acme"), TICKS_MAX, 0),
            Some(Admission { caller: &ada, tenant: Some(&tenant) })
        );
        assert_eq!(known.find("token-of-ada", Some("globex"), 1, 0), None, "another tenant was not asked about");
        assert_eq!(known.find("Token-of-ada", Some("acme"), 1, 0), None, "the same end is not the same credential");
        assert_eq!(known.find("token-of-ada", Some("acme"), TICKS_MAX + 1, 0), None);
        assert_eq!(known.find("token-of-ada", Some("acme"), 1, 1), None, "something changed");
        known.keep("token-of-ada", &ada, Some(("acme", tenant)), 1, 0);
        assert_eq!(
            known.find("token-of-ada", Some("acme"), 1, 1),
            None,
            "what was asked before the change is not kept"
        );
    }
}
