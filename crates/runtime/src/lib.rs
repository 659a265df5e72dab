//! Starts bots and talks to them: the environment they run in, their processes, and the client of one `AstrBot`. The
//! only crate that starts a process. It knows no SQL, no HTTP API of ours and no configuration file.

pub mod astrbot;
pub mod elsewhere;
pub mod environment;
pub mod process;
