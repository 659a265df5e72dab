//! Webhooks: where a tenant is told of events, and how often it is tried. Nothing in here sends anything.
//!
//! Each event is told at least once, those of one session one after the other: a later one waits until the one before it
//! was taken or is given up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    event::Kind,
    id::{DeliveryId, EventId, SessionId, TenantId, WebhookId},
    time::Timestamp,
};

/// The wait before each try, counted from the one before: at once, 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h. It is Svix's
/// (<https://docs.svix.com/retries>), which most receivers are built for.
pub const SCHEDULE: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(10),
];
/// A wait is longer than [`SCHEDULE`] says by up to this part of it, so that many do not come back at the same moment.
const DISORDER: f64 = 0.1;
/// A receiver may ask for a longer wait than that (`Retry-After`), up to this.
const ASKED_WAIT_MAX: Duration = Duration::from_hours(1);
/// A webhook is not switched off for failing before so many tries have failed in a row, however long ago the first was: as
/// many as one delivery has. One that hears little is not given up for two bad moments.
pub const TRIES_MIN: u32 = 8;
const _: () = assert!(SCHEDULE.len() == TRIES_MIN as usize);
/// The longest address.
pub const URL_BYTES_MAX: usize = 2_048;
/// The longest description.
pub const DESCRIPTION_CHARS_MAX: usize = 200;

/// Why a webhook is not enabled, where nobody asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Nothing was taken for too long.
    Failing,
    /// The receiver said that it is gone (410).
    Gone,
}

/// Where a tenant is told of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Webhook {
    /// `whk_…`
    pub id: WebhookId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Where events are sent.
    #[schema(example = "https://example.com/astrfleet")]
    pub url: String,
    /// Which kinds of events; none: all.
    pub events: Vec<Kind>,
    /// For people.
    pub description: String,
    /// Whether anything is sent. What happens while it is not is never sent.
    pub enabled: bool,
    /// Only where nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<DisabledReason>,
    /// Since when nothing was taken; missing where the last try succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Timestamp>,
    /// Until when the secret before this one signs as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_secret_until: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Grows with every change that somebody asked for: its `ETag`.
    pub version: i64,
}

impl Webhook {
    /// Whether it is to be told of events of this kind.
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.events.is_empty() || self.events.iter().any(|wanted| wanted.name() == kind)
    }
}

/// How far a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeliveryState)]
pub enum State {
    /// It will be tried, or tried again.
    Pending,
    /// The receiver took it. The end.
    Succeeded,
    /// It is given up. The end.
    Failed,
}

/// One event for one webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Delivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// For which webhook.
    pub webhook_id: WebhookId,
    /// Which event; also the header `webhook-id`, the same in every try.
    pub event_id: EventId,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The conversation, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// See [`State`].
    pub state: State,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, if nothing of its session is before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,
    /// The status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<u16>,
    /// The beginning of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_body: Option<String>,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The delivery that this one does again, because somebody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<DeliveryId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last tried, or given up.
    pub updated_at: Timestamp,
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What it means.
    pub outcome: Outcome,
    /// The status of the answer.
    pub status: Option<u16>,
    /// The beginning of the answer.
    pub body: Option<String>,
    /// Why it failed, in words for the tenant.
    pub error: Option<String>,
}

/// What a try means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken.
    Taken,
    /// It was not; the receiver may ask for a wait.
    Refused(Option<Duration>),
    /// The receiver wants nothing any more.
    Gone,
    /// It can never be sent: what it tells of is not there any more.
    Impossible,
}

/// What follows from a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is done.
    Succeeded,
    /// It is tried again, not before this.
    Again(Timestamp),
    /// It is given up.
    Failed,
}

impl Next {
    /// The state of the delivery then.
    #[must_use]
    pub fn state(self) -> State {
        match self {
            Self::Succeeded => State::Succeeded,
            Self::Again(_) => State::Pending,
            Self::Failed => State::Failed,
        }
    }
}

/// What follows from try number `attempt` (1 for the first) at `now`, `disorder` being a random number.
#[must_use]
pub fn next(attempt: u32, outcome: Outcome, now: Timestamp, disorder: u32) -> Next {
    let asked = match outcome {
        Outcome::Taken => return Next::Succeeded,
        Outcome::Gone | Outcome::Impossible => return Next::Failed,
        Outcome::Refused(asked) => asked.unwrap_or_default().min(ASKED_WAIT_MAX),
    };
    let tried = usize::try_from(attempt.max(1)).unwrap_or(usize::MAX);
    let Some(wait) = SCHEDULE.get(tried) else { return Next::Failed };
    let disordered = wait.mul_f64(1.0 + DISORDER * f64::from(disorder) / f64::from(u32::MAX));
    Next::Again(now.plus(disordered.max(asked)))
}

/// Whether a webhook is to be switched off, which has taken nothing since `failing_since` in this many tries.
#[must_use]
pub fn gives_up(
    failing_since: Timestamp,
    tries: u32,
    outcome: Outcome,
    now: Timestamp,
    after: Duration,
) -> Option<DisabledReason> {
    match outcome {
        Outcome::Taken | Outcome::Impossible => None,
        Outcome::Gone => Some(DisabledReason::Gone),
        Outcome::Refused(_) => {
            (now.since(failing_since) >= after && tries >= TRIES_MIN).then_some(DisabledReason::Failing)
        }
    }
}

/// The host of an address, for those who may not see the whole: what follows it is often a secret.
#[must_use]
pub fn host(url: &str) -> &str {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    host.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(host, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{DisabledReason, Next, Outcome, SCHEDULE, gives_up, host, next};
    use crate::time::Timestamp;

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            1 => Just(Outcome::Taken),
            9 => Just(Outcome::Refused(None)),
            3 => (0_u64..100_000).prop_map(|wait| Outcome::Refused(Some(Duration::from_secs(wait)))),
            1 => Just(Outcome::Gone),
            1 => Just(Outcome::Impossible),
        ]
    }

    proptest! {
        /// The whole life of a delivery, however its receiver behaves.
        #[test]
        fn it_comes_to_an_end_and_waits_as_the_schedule_says(
            outcomes in prop::collection::vec((outcome(), any::<u32>(), 0_u64..60), 20),
        ) {
            let mut now = Timestamp::from_micros(1_000_000);
            for (attempt, (outcome, disorder, late)) in (1..).zip(outcomes) {
                prop_assert!(attempt <= 8, "never tried more than eight times");
                match next(attempt, outcome, now, disorder) {
                    Next::Succeeded => {
                        prop_assert_eq!(outcome, Outcome::Taken);
                        return Ok(());
                    }
                    Next::Failed => {
                        let last = attempt == 8 || matches!(outcome, Outcome::Gone | Outcome::Impossible);
                        prop_assert!(last, "given up too early");
                        return Ok(());
                    }
                    Next::Again(at) => {
                        let Outcome::Refused(asked) = outcome else { panic!("tried again after {outcome:?}") };
                        let (wait, planned) = (at.since(now), SCHEDULE[attempt as usize]);
                        prop_assert!(wait >= planned, "too early");
                        let longest = planned.mul_f64(1.1).max(asked.unwrap_or_default());
                        prop_assert!(wait <= longest.max(planned) + Duration::from_micros(1), "too late");
                        prop_assert!(wait <= Duration::from_hours(11));
                        now = at.plus(Duration::from_secs(late));
                    }
                }
            }
            prop_assert!(false, "no end");
        }

        #[test]
        fn a_webhook_is_given_up_when_its_time_is_over_and_never_for_a_success(
            outcome in outcome(), failing in 0_u64..1_000_000, after in 1_u64..500_000, tries in 1_u32..20,
        ) {
            let since = Timestamp::from_micros(7);
            let (now, after) = (since.plus(Duration::from_secs(failing)), Duration::from_secs(after));
            let expected = match outcome {
                Outcome::Gone => Some(DisabledReason::Gone),
                Outcome::Refused(_) if Duration::from_secs(failing) >= after && tries >= 8 => Some(DisabledReason::Failing),
                _ => None,
            };
            prop_assert_eq!(gives_up(since, tries, outcome, now, after), expected);
        }
    }

    /// As <https://docs.svix.com/retries> has it, in seconds.
    #[test]
    fn the_schedule_is_that_of_svix() {
        let waits = SCHEDULE.map(|wait| wait.as_secs());
        assert_eq!(waits, [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 36_000]);
    }

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        for (url, shown) in [
            ("https://example.com/hook/s3cret?token=s3cret", "example.com"),
            ("https://example.com?token=s3cret", "example.com"),
            ("https://example.com:8443/hook", "example.com"),
            ("http://[2606:4700::1111]:8080/a", "[2606:4700::1111]"),
            ("http://[2606:4700::1111]/a", "[2606:4700::1111]"),
            ("https://user:s3cret@example.com", "example.com"),
        ] {
            assert_eq!(host(url), shown, "{url}");
        }
    }
}
