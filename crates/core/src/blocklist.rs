//! Whom a tenant does not want to hear from: an end user, on one channel or on all of them, until some moment or for
//! good.

use serde::{Deserialize, Serialize};

use crate::{error::Error, id::BlockId, text, time::Timestamp};

/// Entries of one tenant's list, at the most: all that are in force are kept in memory.
pub const BLOCKS_MAX: u64 = 10_000;
/// Characters of an end user's name, as in a session.
const END_USER_CHARS_MAX: usize = 128;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 500;

/// One entry of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Block {
    /// `blk_…`
    pub id: BlockId,
    /// Where they are not heard: a session's channel. Absent: on every one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The tenant's own name of them, as in a session.
    pub end_user: String,
    /// For people of the tenant; the end user is never told. Absent: none was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// They are heard again from here on. Absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Who put them on the list: a user's or an API key's id.
    pub created_by: String,
    /// When they were first put there.
    pub created_at: Timestamp,
}

impl Block {
    /// Whether this entry keeps `end_user` of `channel` out at `now`.
    #[must_use]
    pub fn holds(&self, channel: &str, end_user: &str, now: Timestamp) -> bool {
        self.end_user == end_user
            && self.channel.as_deref().is_none_or(|own| own == channel)
            && self.until.is_none_or(|until| until > now)
    }

    /// The same with texts that have been checked.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what no session could match, a reason that is no line of text, and an end that is over at
    /// `now`.
    pub fn checked(self, now: Timestamp) -> Result<Self, Error> {
        let end_user = text::display_name("end_user", &self.end_user, END_USER_CHARS_MAX)?;
        if let Some(channel) = &self.channel {
            text::channel("channel", channel)?;
        }
        let reason = self.reason.map(|reason| text::display_name("reason", &reason, REASON_CHARS_MAX)).transpose()?;
        if self.until.is_some_and(|until| until <= now) {
            return Err(Error::invalid("until", "must lie ahead; leave it out to block for good"));
        }
        Ok(Self { end_user, reason, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::Block;
    use crate::{id::BlockId, time::Timestamp};

    fn block(channel: Option<&str>, until: Option<i64>) -> Block {
        Block {
            id: BlockId::parse("blk_0190000000007000800000000000abcd").unwrap(),
            channel: channel.map(str::to_owned),
            end_user: "ada".to_owned(),
            reason: None,
            until: until.map(Timestamp::from_micros),
            created_by: "usr_1".to_owned(),
            created_at: Timestamp::default(),
        }
    }

    #[test]
    fn an_entry_holds_on_its_channel_until_its_end() {
        let at = Timestamp::from_micros;
        assert!(block(None, None).holds("telegram", "ada", at(9)));
        assert!(!block(None, None).holds("telegram", "Ada", at(9)));
        assert!(block(Some("api"), None).holds("api", "ada", at(9)));
        assert!(!block(Some("api"), None).holds("telegram", "ada", at(9)));
        assert!(block(None, Some(10)).holds("api", "ada", at(9)));
        assert!(!block(None, Some(10)).holds("api", "ada", at(10)));
    }

    #[test]
    fn what_could_hold_nobody_is_refused() {
        let now = Timestamp::from_micros(10);
        assert_eq!(block(None, Some(11)).checked(now).unwrap(), block(None, Some(11)));
        assert!(block(None, Some(10)).checked(now).is_err());
        assert!(block(Some("Not A Channel"), None).checked(now).is_err());
        assert!(Block { end_user: " ".to_owned(), ..block(None, None) }.checked(now).is_err());
        let because = |reason: &str| Block { reason: Some(reason.to_owned()), ..block(None, None) }.checked(now);
        for bad in ["", "spam\t", "two\r\nlines", &"x".repeat(501)] {
            assert!(because(bad).is_err(), "{bad:?}");
        }
        assert_eq!(because(" spam ").unwrap().reason.unwrap(), "spam");
    }
}
