//! What can go wrong, without a word of HTTP. The text of an error may be shown to whoever called;
//! its `source` goes to the log and nowhere else.

use std::{error::Error as StdError, time::Duration};

/// With our error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause for the log.
pub type Source = Box<dyn StdError + Send + Sync>;

/// Every failure that crosses a wall of this program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request says something that cannot be.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which field, as the API names it, `body` for the whole.
        field: &'static str,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// Nobody we know is asking.
    #[error("{reason}")]
    Unauthenticated {
        /// What was missing or wrong, and how to get it.
        reason: &'static str,
    },
    /// Known, but not allowed to.
    #[error("{reason}")]
    Forbidden {
        /// What it would take.
        reason: String,
    },
    /// The end user is on the tenant's blocklist.
    #[error("this end user is blocked: the tenant's blocklist says until when, and why")]
    Blocked,
    /// There is no such thing, or the caller may not know that there is.
    #[error("no such {what}")]
    NotFound {
        /// The kind of thing, in the words of the API.
        what: &'static str,
    },
    /// The thing is there, but in a state that does not allow this.
    #[error("{reason}")]
    Conflict {
        /// Says which state, and what would be possible instead.
        reason: String,
    },
    /// Somebody else changed it since the caller read it.
    #[error("this {what} was changed meanwhile: read it again, and try with its new ETag")]
    Stale {
        /// The kind of thing.
        what: &'static str,
    },
    /// The `Idempotency-Key` was used before, for something else.
    #[error("this Idempotency-Key was used before with another request: use a new one")]
    KeyReused,
    /// More than is taken in.
    #[error("{what} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit.
        limit_bytes: u64,
    },
    /// Too often for now.
    #[error("too many {what}: try again in {} s", retry_after.as_secs().max(1))]
    TooMany {
        /// Of what.
        what: &'static str,
        /// When it may succeed.
        retry_after: Duration,
    },
    /// The plan's amount is used up.
    #[error("the plan's {quota} are used up ({limit}): {next_step}")]
    QuotaExceeded {
        /// Which quota, in the words of the API.
        quota: &'static str,
        /// Its amount.
        limit: u64,
        /// When it is refilled or whom to ask.
        next_step: String,
    },
    /// A part that we need did not answer, or not in time.
    #[error("{what} is not available: try again")]
    Unavailable {
        /// Which part, in words for the caller: `storage`, `the bot`.
        what: &'static str,
        /// For the log.
        #[source]
        source: Source,
    },
    /// A defect of ours.
    #[error("an error of ours: it is logged under this request's id")]
    Internal {
        /// For the log.
        #[source]
        source: Source,
    },
}

impl Error {
    /// [`Error::Invalid`] in one line.
    #[must_use]
    pub fn invalid(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { field, reason: reason.into() }
    }

    /// [`Error::Conflict`] in one line.
    #[must_use]
    pub fn conflict(reason: impl Into<String>) -> Self {
        Self::Conflict { reason: reason.into() }
    }

    /// [`Error::Unavailable`] in one line.
    #[must_use]
    pub fn unavailable(what: &'static str, source: impl Into<Source>) -> Self {
        Self::Unavailable { what, source: source.into() }
    }

    /// [`Error::Internal`] in one line.
    #[must_use]
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::Internal { source: source.into() }
    }

    /// Whether the same call may succeed later, unchanged.
    #[must_use]
    pub fn retryable(&self) -> bool {
        // No wildcard: a new variant has to say.
        match self {
            Self::TooMany { .. } | Self::Unavailable { .. } => true,
            Self::Invalid { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::Blocked
            | Self::NotFound { .. }
            | Self::Conflict { .. }
            | Self::Stale { .. }
            | Self::KeyReused
            | Self::TooLarge { .. }
            | Self::QuotaExceeded { .. }
            | Self::Internal { .. } => false,
        }
    }
}
