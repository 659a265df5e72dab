//! A connection for commands on keys: to the one server that has them all, or to a cluster that finds each.

use ::redis::{
    Cmd, Pipeline, RedisResult, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster_async::ClusterConnection,
    cmd,
};
use futures_util::future::try_join_all;

/// Connected.
#[derive(Clone)]
pub(crate) enum Link {
    /// To one server.
    One(MultiplexedConnection),
    /// To all masters of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Sends all commands at once and gives their answers in the same order. Where one fails, all of them count as
    /// failed, though some may have been done.
    pub(crate) async fn run(&mut self, commands: Vec<Cmd>) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command);
                }
                pipeline.query_async(connection).await
            }
            Self::Cluster(connection) => {
                // Each key lies with a node of its own: the client sends what goes to one node in one write.
                try_join_all(commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(&command).await }
                }))
                .await
            }
        }
    }

    /// One command on one key that changes nothing.
    pub(crate) async fn ping(&mut self, key: &str) -> RedisResult<()> {
        let mut exists = cmd("EXISTS");
        exists.arg(key);
        self.run(vec![exists]).await.map(|_| ())
    }
}
