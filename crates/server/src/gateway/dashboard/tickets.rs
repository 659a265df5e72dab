//! Links that work once, for a minute: kept in memory as hashes, worth nothing after.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use astrfleet_core::{
    id::{LoginId, TenantId, UserId},
    ports::Rng,
    time::Timestamp,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::auth::hash;

/// How long a link is good for.
pub const LIFETIME: Duration = Duration::from_mins(1);
/// Links that wait at the same moment; beyond that the oldest goes.
const TICKETS_MAX: usize = 10_000;

/// For whom a link is, and to whose bot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Whose bot.
    pub tenant: TenantId,
    /// Who may come in.
    pub user: UserId,
    /// The login with which they asked for it; none for the local administrator.
    pub login: Option<LoginId>,
}

/// Links that were given out and not used.
#[derive(Debug, Default)]
pub struct Tickets(Mutex<HashMap<[u8; 32], (Ticket, Timestamp)>>);

impl Tickets {
    /// Gives one out: 256 random bits.
    pub fn issue(&self, rng: &dyn Rng, ticket: Ticket, now: Timestamp) -> String {
        let mut random = [0; 32];
        rng.fill(&mut random);
        let secret = URL_SAFE_NO_PAD.encode(random);
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, until)| now < *until);
        if waiting.len() >= TICKETS_MAX
            && let Some(oldest) = waiting.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| *hash)
        {
            waiting.remove(&oldest);
        }
        waiting.insert(hash(&secret), (ticket, now.plus(LIFETIME)));
        secret
    }

    /// Takes one back, if it is for this tenant's bot; it works no second time. One that is shown to another bot is
    /// used up, too.
    pub fn redeem(&self, secret: &str, tenant: &TenantId, now: Timestamp) -> Option<Ticket> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ticket, until) = waiting.remove(&hash(secret))?;
        (now < until && ticket.tenant == *tenant).then_some(ticket)
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        id::{TenantId, UserId},
        ports::testing::CountingRng,
        time::Timestamp,
    };

    use super::{LIFETIME, Ticket, Tickets};

    const NOW: Timestamp = Timestamp::from_micros(1_795_402_721_000_042);

    fn tenant(digit: char) -> TenantId {
        TenantId::parse(&format!("ten_{}", digit.to_string().repeat(32))).unwrap()
    }

    fn issue(tickets: &Tickets) -> String {
        let user = UserId::parse("usr_0123456789abcdef0123456789abcdef").unwrap();
        tickets.issue(&CountingRng::default(), Ticket { tenant: tenant('1'), user, login: None }, NOW)
    }

    #[test]
    fn a_link_works_once_for_one_bot_within_its_time() {
        let tickets = Tickets::default();
        let secret = issue(&tickets);
        assert!(tickets.redeem("guessed", &tenant('1'), NOW).is_none());
        assert!(tickets.redeem(&secret, &tenant('1'), NOW).is_some());
        assert!(tickets.redeem(&secret, &tenant('1'), NOW).is_none(), "used");
        let secret = issue(&tickets);
        assert!(tickets.redeem(&secret, &tenant('1'), NOW.plus(LIFETIME)).is_none(), "too old");
        let secret = issue(&tickets);
        assert!(tickets.redeem(&secret, &tenant('2'), NOW).is_none(), "another bot's");
        assert!(tickets.redeem(&secret, &tenant('1'), NOW).is_none(), "and used up by that");
    }
}
