//! HTTP in, HTTP out: the roles, and the gateway in front of them.

pub mod gateway;
