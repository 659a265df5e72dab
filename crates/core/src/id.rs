//! Identifiers: a prefix that says of what, and a `UUIDv7`, so that they sort by time: `ses_019ab2…`.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    error::Error,
    ports::{Clock, Rng},
    time::Timestamp,
};

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name(Arc<str>);

            impl $name {
                /// What every one of these begins with.
                pub const PREFIX: &'static str = concat!($prefix, "_");

                /// Reads one.
                ///
                /// # Errors
                /// [`Error::NotFound`] for whatever cannot be one: it names nothing.
                pub fn parse(text: &str) -> Result<Self, Error> {
                    let tail = text.strip_prefix(Self::PREFIX).unwrap_or_default();
                    let well_formed = tail.len() == 32 && tail.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                    if well_formed { Ok(Self(text.into())) } else { Err(Error::NotFound { what: $what }) }
                }

                /// What sorts before everything that is made at `moment` or later, and behind everything made before it:
                /// an edge between ids, and itself none.
                #[must_use]
                pub fn edge(moment: Timestamp) -> String {
                    let millis = u64::try_from(moment.micros() / 1_000).unwrap_or(0);
                    format!("{}{millis:012x}", Self::PREFIX)
                }

                /// As text.
                #[must_use]
                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    formatter.write_str(&self.0)
                }
            }

            impl fmt::Debug for $name {
                fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    formatter.write_str(&self.0)
                }
            }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    serializer.serialize_str(&self.0)
                }
            }

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                    Self::parse(&text).map_err(|_| serde::de::Error::custom(concat!("expected an id that begins with ", $prefix, "_")))
                }
            }

            impl utoipa::ToSchema for $name {}

            impl utoipa::PartialSchema for $name {
                fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                    utoipa::openapi::ObjectBuilder::new()
                        .schema_type(utoipa::openapi::schema::Type::String)
                        .pattern(Some(concat!("^", $prefix, "_[0-9a-f]{32}$")))
                        .into()
                }
            }
        )*
    };
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $make:ident, $prefix:literal, $what:literal;)*) => {
        id_types! { $($(#[$doc])* $name, $prefix, $what;)* }

        impl Ids {
            $(
                /// A new one, later than all before it.
                #[must_use]
                pub fn $make(&self) -> $name {
                    let mut tail = uuid::Uuid::encode_buffer();
                    $name([$name::PREFIX, self.next().simple().encode_lower(&mut tail)].concat().into())
                }
            )*
        }
    };
}

ids! {
    /// A tenant.
    TenantId, tenant, "ten", "tenant";
    /// A person with a password.
    UserId, user, "usr", "user";
    /// An API key (not its secret).
    ApiKeyId, api_key, "key", "API key";
    /// An invitation to become a member.
    InvitationId, invitation, "inv", "invitation";
    /// A refresh token (not its secret).
    RefreshTokenId, refresh_token, "rft", "refresh token";
    /// All refresh tokens that descend from one login.
    LoginId, login, "log", "login";
    /// An entry of the audit log.
    AuditId, audit, "aud", "audit entry";
    /// A tenant's bot.
    InstanceId, instance, "bot", "instance";
    /// A conversation.
    SessionId, session, "ses", "session";
    /// A message of a conversation.
    MessageId, message, "msg", "message";
    /// A file or image of a message.
    AttachmentId, attachment, "att", "attachment";
    /// An entry of a blocklist.
    BlockId, block, "blk", "block";
    /// An export of a tenant.
    ExportId, export, "exp", "export";
    /// A line of the usage ledger.
    UsageId, usage, "use", "usage record";
    /// A process of the platform, from its start to its end.
    ReplicaId, replica, "rep", "replica";
    /// Where a tenant is told of events.
    WebhookId, webhook, "whk", "webhook";
    /// One event for one webhook.
    DeliveryId, delivery, "dlv", "delivery";
    /// A request to us.
    RequestId, request, "req", "request";
}

id_types! {
    /// An event: its place in its tenant's sequence, and whose that is.
    EventId, "evt", "event";
}

/// As many characters of a tenant's id stand in the ids of its events.
const EVENT_OWNER_CHARS: usize = 16;

impl EventId {
    /// Of the event at a place, from 1, of a tenant's sequence. Those of one tenant sort as they happened.
    #[must_use]
    pub fn of(tenant: &TenantId, seq: i64) -> Self {
        Self(format!("{}{:016x}{}", Self::PREFIX, seq.max(0), Self::owner(tenant)).into())
    }

    /// The place in the sequence.
    #[must_use]
    pub fn seq(&self) -> i64 {
        let digits = self.0.get(Self::PREFIX.len()..Self::PREFIX.len() + 16).unwrap_or_default();
        i64::from_str_radix(digits, 16).unwrap_or(i64::MAX)
    }

    /// Whether it is one of this tenant's.
    #[must_use]
    pub fn is_of(&self, tenant: &TenantId) -> bool {
        self.0.ends_with(Self::owner(tenant))
    }

    fn owner(tenant: &TenantId) -> &str {
        &tenant.0[tenant.0.len() - EVENT_OWNER_CHARS..]
    }
}

impl MessageId {
    /// The same where it is later than `earlier`, else one that is: for whoever learns only after an id was made what it
    /// has to come after.
    #[must_use]
    pub fn after(self, earlier: Option<&Self>) -> Self {
        let Some(earlier) = earlier.filter(|earlier| **earlier >= self) else { return self };
        let number = |id: &Self| u128::from_str_radix(&id.0[Self::PREFIX.len()..], 16).unwrap_or(0);
        let step = 1 + (number(&self) & u128::from(u32::MAX));
        Self(format!("{}{:032x}", Self::PREFIX, number(earlier).saturating_add(step)).into())
    }
}

/// Makes identifiers that only ever grow within this process, also when the clock is set back.
pub struct Ids {
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    last: Mutex<u128>,
}

impl Ids {
    /// Takes its time and its randomness from outside.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, rng: Arc<dyn Rng>) -> Self {
        Self { clock, rng, last: Mutex::new(0) }
    }

    /// A new one for a message that comes after `earlier`, which another process made by a clock of its own: later than
    /// that one too. Ids of others are not drawn along by a clock that is far ahead.
    #[must_use]
    pub fn message_after(&self, earlier: Option<&MessageId>) -> MessageId {
        self.message().after(earlier)
    }

    fn next(&self) -> uuid::Uuid {
        let mut random = [0; 10];
        self.rng.fill(&mut random);
        let millis = u64::try_from(self.clock.now().micros() / 1_000).unwrap_or(0);
        let fresh = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Within a millisecond the random part would decide the order: count on from the last one instead. The
        // step is random, so that an id does not give away its neighbours.
        let step = 1 + u128::from(u32::from_le_bytes([random[0], random[1], random[2], random[3]]));
        *last = if fresh > *last { fresh } else { *last + step };
        uuid::Uuid::from_u128(*last)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{EventId, Ids, MessageId, TenantId};
    use crate::ports::{
        Clock,
        testing::{CountingRng, FixedClock},
    };

    #[test]
    fn grow_within_one_millisecond() {
        let ids = Ids::new(Arc::new(FixedClock::at(1_000)), Arc::new(CountingRng::default()));
        let made: Vec<_> = (0..1_000).map(|_| ids.message()).collect();
        assert!(made.is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn a_message_comes_after_one_of_a_clock_that_is_ahead() {
        let ids = |at| Ids::new(Arc::new(FixedClock::at(at)), Arc::new(CountingRng::default()));
        let (behind, ahead) = (ids(1_000), ids(3_600_000_000));
        let first = ahead.message();
        let second = behind.message_after(Some(&first));
        let third = ahead.message_after(Some(&second));
        assert!(first < second && second < third);
        assert_eq!(MessageId::parse(second.as_str()).unwrap(), second);
        assert!(behind.message() < first, "what has nothing to do with it goes by its own clock");
        assert!(behind.message_after(None) < first);
    }

    #[test]
    fn an_edge_lies_between_what_was_made_before_and_after() {
        let clock = Arc::new(FixedClock::at(1_795_402_721_000_000));
        let ids = Ids::new(Arc::clone(&clock) as _, Arc::new(CountingRng::default()));
        let before = ids.tenant();
        clock.advance(std::time::Duration::from_millis(1));
        let edge = TenantId::edge(clock.now());
        let after = ids.tenant();
        assert!(before.as_str() < edge.as_str() && edge.as_str() < after.as_str(), "{before} {edge} {after}");
    }

    #[test]
    fn an_event_is_named_by_its_place_and_its_tenant() {
        let ids = Ids::new(Arc::new(FixedClock::at(1_000)), Arc::new(CountingRng::default()));
        let (ours, theirs) = (ids.tenant(), ids.tenant());
        let events: Vec<_> = [1, 2, 9, 10, 255, 256, i64::MAX].map(|seq| EventId::of(&ours, seq)).into();
        assert!(events.is_sorted_by(|earlier, later| earlier < later));
        assert_eq!(events[4].seq(), 255);
        assert_eq!(EventId::parse(events[4].as_str()).unwrap(), events[4]);
        assert!(events[4].is_of(&ours) && !events[4].is_of(&theirs));
        assert_eq!(EventId::parse(&format!("evt_{}", "f".repeat(32))).unwrap().seq(), i64::MAX, "later than all");
    }

    #[test]
    fn what_is_not_one_names_nothing() {
        for text in
            ["", "ten_", "ten_zz", "usr_00000000000000000000000000000000", "ten_0000000000000000000000000000000G"]
        {
            assert!(TenantId::parse(text).is_err(), "{text}");
        }
        assert!(TenantId::parse("ten_0123456789abcdef0123456789abcdef").is_ok());
    }
}
