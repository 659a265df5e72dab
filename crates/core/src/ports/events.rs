//! Where events are kept.

use async_trait::async_trait;

use crate::{
    error::Result,
    event::{Brief, Event, NewEvent},
    id::SessionId,
};

/// What happened to one tenant: one sequence, without gaps but for what was deleted at its beginning. Whatever is at a
/// place was there before anything at a later one could be seen, so nobody who asks for what comes after the last one
/// that they saw misses any.
#[async_trait]
pub trait Events: Send + Sync {
    /// The places of the oldest that is kept and of the newest that there ever was. Where none is kept, the oldest is
    /// the one after the newest; from 1.
    async fn bounds(&self) -> Result<(i64, i64)>;
    /// At most `limit` after a place, the oldest first, each with the message that it is about, as that stands now.
    /// `session` narrows them.
    async fn after(&self, seq: i64, session: Option<&SessionId>, limit: u32) -> Result<Vec<Event>>;
    /// At most `limit` after a place, the oldest first, without what they say.
    async fn brief_after(&self, seq: i64, limit: u32) -> Result<Vec<Brief>>;
    /// Tells of something that is no message and no session: those are told of by whoever stores them.
    async fn append(&self, event: &NewEvent) -> Result<()>;
}
