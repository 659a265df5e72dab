//! What handlers take out of a request. Permission is in a handler's signature: [`InTenant`] and [`OnPlatform`] name
//! the action, and without one of them a handler reaches no data.

mod body;
mod caller;
mod etag;
pub mod may;
mod page;
mod peer;

pub use body::Body;
pub use caller::{Authenticated, InTenant, OnPlatform, Person, credential};
pub use etag::{IfMatch, etag};
pub use page::{PageParams, PageQuery};
pub(crate) use peer::take_anonymous;
pub use peer::{Anonymous, Peer, peer, place};
