//! Events as text between processes: the version, who tells it, what it is, and its ids, each after a space. A process
//! of the release before and one of the release after listen to each other: what is not understood is
//! [`BusEvent::Missed`], never an error.

use astrfleet_core::{
    id::{ApiKeyId, InstanceId, LoginId, MessageId, SessionId, TenantId, UserId},
    ports::BusEvent,
};

/// Grows where old processes would understand something else than is meant.
const VERSION: &str = "1";

/// Writes what `origin` tells.
pub(super) fn write(origin: &str, event: &BusEvent) -> String {
    let (what, ids): (_, [&str; 2]) = match event {
        BusEvent::InstanceChanged { tenant, instance } => ("instance", [tenant.as_str(), instance.as_str()]),
        BusEvent::TenantChanged(tenant) => ("tenant", [tenant.as_str(), ""]),
        BusEvent::SessionChanged(tenant, session) => ("session", [tenant.as_str(), session.as_str()]),
        BusEvent::MessageAccepted(tenant, message) => ("message", [tenant.as_str(), message.as_str()]),
        BusEvent::QueueReleased(tenant) => ("queue", [tenant.as_str(), ""]),
        BusEvent::MembershipChanged(user) => ("membership", [user.as_str(), ""]),
        BusEvent::LoginEnded(login) => ("login", [login.as_str(), ""]),
        BusEvent::KeyRevoked(key) => ("key", [key.as_str(), ""]),
        BusEvent::Missed => ("missed", ["", ""]),
    };
    let text = format!("{VERSION} {origin} {what} {} {}", ids[0], ids[1]);
    text.trim_end().to_owned()
}

/// Reads what another process tells; nothing where `own` told it itself.
pub(super) fn read(own: &str, text: &str) -> Option<BusEvent> {
    let mut words = text.split(' ');
    if words.next() != Some(VERSION) {
        return Some(BusEvent::Missed);
    }
    if words.next() == Some(own) {
        return None;
    }
    Some(event(words).unwrap_or(BusEvent::Missed))
}

fn event<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<BusEvent> {
    let what = words.next()?;
    let mut id = || words.next().unwrap_or_default();
    Some(match what {
        "instance" => {
            BusEvent::InstanceChanged { tenant: TenantId::parse(id()).ok()?, instance: InstanceId::parse(id()).ok()? }
        }
        "tenant" => BusEvent::TenantChanged(TenantId::parse(id()).ok()?),
        "session" => BusEvent::SessionChanged(TenantId::parse(id()).ok()?, SessionId::parse(id()).ok()?),
        "message" => BusEvent::MessageAccepted(TenantId::parse(id()).ok()?, MessageId::parse(id()).ok()?),
        "queue" => BusEvent::QueueReleased(TenantId::parse(id()).ok()?),
        "membership" => BusEvent::MembershipChanged(UserId::parse(id()).ok()?),
        "login" => BusEvent::LoginEnded(LoginId::parse(id()).ok()?),
        "key" => BusEvent::KeyRevoked(ApiKeyId::parse(id()).ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use astrfleet_core::{
        id::Ids,
        ports::testing::{CountingRng, FixedClock},
    };
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_event_arrives_as_it_was_told() {
        let ids = Ids::new(Arc::new(FixedClock::at(0)), Arc::new(CountingRng::default()));
        for event in [
            BusEvent::InstanceChanged { tenant: ids.tenant(), instance: ids.instance() },
            BusEvent::TenantChanged(ids.tenant()),
            BusEvent::SessionChanged(ids.tenant(), ids.session()),
            BusEvent::MessageAccepted(ids.tenant(), ids.message()),
            BusEvent::QueueReleased(ids.tenant()),
            BusEvent::MembershipChanged(ids.user()),
            BusEvent::LoginEnded(ids.login()),
            BusEvent::KeyRevoked(ids.api_key()),
            BusEvent::Missed,
        ] {
            let text = write("me", &event);
            assert_eq!(read("you", &text).as_ref(), Some(&event), "{text}");
            assert_eq!(read("me", &text), None, "{text}");
        }
    }

    #[test]
    fn what_a_newer_release_tells_is_something_missed() {
        for text in ["2 you tenant ten_1", "1 you planet pla_1", "1 you tenant mars", "1 you", "1", ""] {
            assert_eq!(read("me", text), Some(BusEvent::Missed), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC*|1 [a-z]* [a-z]* [a-z_0-9]*") {
            read("me", &text);
        }
    }
}
