//! The way in: one plain hyper service per core in front of the router, so that what is only passed on stays cheap.
//!
//! `listen` owns sockets and connections, `gate` asks a [`gate::Front`] where each request goes, `forward` passes it to an
//! upstream over the connections of `upstream`. Nothing in these files knows a tenant, a token or a status code of ours.

pub mod body;
mod connection;
pub mod forward;
pub mod gate;
pub mod headers;
pub mod listen;
#[cfg(test)]
mod tests;
pub mod ticks;
mod tunnel;
pub mod upstream;
