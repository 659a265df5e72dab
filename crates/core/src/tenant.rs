//! Tenants: whom the bots belong to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{error::Error, id::TenantId, time::Timestamp};

/// Where a tenant is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Served.
    Active,
    /// Its bot is stopped and nothing is accepted; everything is kept.
    Suspended,
    /// Will be erased, with its bot's data, when the grace period is over; until then it can be resumed.
    Deleting,
}

/// What can happen to a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An administrator stops it for a while.
    Suspended,
    /// An administrator has it served again, also out of its grace period.
    Resumed,
    /// Its end was asked for.
    Deleted,
}

/// The status after `event`. Asking twice changes nothing.
#[must_use]
pub fn next(status: Status, event: Event) -> Status {
    match (status, event) {
        (_, Event::Resumed) => Status::Active,
        (Status::Deleting, Event::Suspended) | (_, Event::Deleted) => Status::Deleting,
        (Status::Active | Status::Suspended, Event::Suspended) => Status::Suspended,
    }
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tenant {
    /// `ten_…`
    pub id: TenantId,
    /// A DNS label, unique: also the host of its bot's dashboard.
    pub name: String,
    /// For people; the name where nothing else was given.
    pub display_name: String,
    /// Of whoever answers for it; unique, in lower case.
    pub email: String,
    /// A plan of the configuration.
    pub plan: String,
    /// See [`Status`].
    pub status: Status,
    /// When it will be erased; only while it is `deleting`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erase_at: Option<Timestamp>,
    /// Days for which it keeps messages; absent: as long as its plan says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Grows with every change: its `ETag`.
    pub version: i64,
}

impl Tenant {
    /// What the tenant is after `event` at `now`, `grace` being the time between its end and its erasure.
    #[must_use]
    pub fn after(&self, event: Event, now: Timestamp, grace: Duration) -> Self {
        let status = next(self.status, event);
        let erase_at = match status {
            Status::Deleting => self.erase_at.or(Some(now.plus(grace))),
            Status::Active | Status::Suspended => None,
        };
        Self { status, erase_at, updated_at: now, ..self.clone() }
    }

    /// Nothing is taken in for a tenant that is not served.
    ///
    /// # Errors
    /// [`Error::Forbidden`] that says why.
    pub fn must_be_served(&self) -> Result<(), Error> {
        match self.status {
            Status::Active => Ok(()),
            Status::Suspended => {
                Err(Error::Forbidden { reason: "this tenant is suspended: an administrator can resume it".to_owned() })
            }
            Status::Deleting => Err(Error::Forbidden {
                reason: "this tenant is about to be erased: an administrator can still resume it".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Event, Status, next};

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![Just(Event::Suspended), Just(Event::Resumed), Just(Event::Deleted)]
    }

    proptest! {
        #[test]
        fn only_a_resume_leads_out_of_deleting(events in prop::collection::vec(event(), 0..20)) {
            let mut status = Status::Active;
            for event in events {
                let before = status;
                status = next(status, event);
                prop_assert_eq!(next(status, event), status, "asking twice changes nothing");
                prop_assert!(before != Status::Deleting || status == before || event == Event::Resumed);
            }
        }
    }
}
