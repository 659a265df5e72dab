//! A connection for commands on keys: to the one server that has them all, or to a cluster that finds each.

use std::time::Duration;

use ::redis::{
    Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cmd,
};
use futures_util::future::join_all;

use super::within;

/// Connected.
#[derive(Clone)]
pub(crate) enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To all masters of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Sends all commands at once and gives their answers in the same order, each within `limit`. Where nobody answers
    /// that is an error; of a cluster, a part may be away while the rest goes on.
    ///
    /// What has no answer may have been done all the same.
    pub(crate) async fn run(&mut self, commands: Vec<Cmd>, limit: Duration) -> RedisResult<Vec<Option<Value>>> {
        match self {
            Self::One(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                let answers: Vec<Value> = within(limit, pipeline.query_async(connection)).await?;
                Ok(answers.into_iter().map(Some).collect())
            }
            Self::Cluster(connection) => {
                // Each key lies with a node of its own: the client finds it.
                let answers = join_all(commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { within(limit, connection.req_packed_command(&command)).await }
                }))
                .await;
                if let Some(Err(error)) = answers.first().filter(|_| answers.iter().all(Result::is_err)) {
                    return Err(error.clone());
                }
                Ok(answers.into_iter().map(Result::ok).collect())
            }
        }
    }

    /// One command on one key that changes nothing.
    pub(crate) async fn ping(&mut self, key: &str, limit: Duration) -> RedisResult<()> {
        let mut exists = cmd("EXISTS");
        exists.arg(key);
        self.run(vec![exists], limit).await.map(|_| ())
    }
}
