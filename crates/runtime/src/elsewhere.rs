//! No bots on this side: what a process has that does not keep them. It starts none and finds none.

use astrfleet_core::{
    error::{Error, Result},
    id::InstanceId,
    ports::{BotSpec, BotStatus, FoundBot, LogLine, LogStream, Runtime},
};

/// Bots are kept by other processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elsewhere;

fn elsewhere() -> Error {
    Error::unavailable("the bot's process", "bots are kept by processes with the role manager: ask one of them")
}

#[async_trait::async_trait]
impl Runtime for Elsewhere {
    fn astrbot_version(&self) -> &'static str {
        ""
    }

    fn bridge_version(&self) -> &'static str {
        ""
    }

    async fn find(&self) -> Result<Vec<FoundBot>> {
        Ok(Vec::new())
    }

    async fn start(&self, _: &BotSpec) -> Result<()> {
        Err(elsewhere())
    }

    async fn stop(&self, _: &InstanceId) -> Result<()> {
        Err(elsewhere())
    }

    async fn status(&self, _: &InstanceId) -> Result<BotStatus> {
        Err(elsewhere())
    }

    async fn log(&self, _: &InstanceId, _: usize) -> Result<Vec<LogLine>> {
        Err(elsewhere())
    }

    async fn follow_log(&self, _: &InstanceId) -> Result<LogStream> {
        Err(elsewhere())
    }

    async fn erase(&self, _: &InstanceId) -> Result<()> {
        Err(elsewhere())
    }

    async fn free_port(&self, _: &[u16]) -> Result<u16> {
        Err(elsewhere())
    }
}
