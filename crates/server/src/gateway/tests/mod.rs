//! The proxied path over real sockets: raw upstreams whose every byte is decided by the test, and raw clients.

mod forwarding;
mod listening;
mod parts;
mod sharing;
mod slowness;
