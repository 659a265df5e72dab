//! A statement has a name: it is its span, its label in metrics, and the key by which the contract suite proves that it
//! has run on both engines. How one is run: alone or with others, on either engine, within a [`crate::scope::Scope`].

use std::{future::Future, time::Duration};

use astrfleet_core::Result;
use tokio::time::timeout;
use tracing::Instrument;

use crate::failed::Failed;

/// A statement, declared once, with `statements!`.
#[derive(Debug)]
pub struct Statement {
    /// `aggregate.verb`
    pub name: &'static str,
    /// What there is none of where it finds no row, in the words of the API.
    pub what: &'static str,
    /// Works on both engines.
    pub sql: &'static str,
}

/// Begins a transaction.
pub(crate) const BEGIN: Statement = Statement { name: "transaction.begin", what: "transaction", sql: "BEGIN" };
/// Ends one.
pub(crate) const COMMIT: Statement = Statement { name: "transaction.commit", what: "transaction", sql: "COMMIT" };
/// Ends one that changed nothing.
pub(crate) const ROLLBACK: Statement = Statement { name: "transaction.rollback", what: "transaction", sql: "ROLLBACK" };

/// Declares the statements of a module: `"what"; NAME = "aggregate.verb", "SQL"; …`. `STATEMENTS` lists them.
macro_rules! statements {
    ($what:literal; $($(#[$doc:meta])* $name:ident = $label:literal, $sql:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) const $name: $crate::statement::Statement =
                $crate::statement::Statement { name: $label, what: $what, sql: $sql };
        )*
        /// All of this module, in the order of their declaration.
        pub(crate) const STATEMENTS: &[&$crate::statement::Statement] = &[$(&$name),*];
    };
}
pub(crate) use statements;

/// Runs one statement that reads: `read!(db, scope, GET, pool => sqlx::query(GET.sql)….fetch_one(pool))`.
macro_rules! read {
    ($db:expr, $scope:expr, $statement:expr, $pool:ident => $query:expr) => {
        $crate::statement::read_with!(begin_read, $db, $scope, $statement, $pool => $query)
    };
}
pub(crate) use read;

/// The same where a replica of the server may answer, which may lag behind: lists, history, usage.
macro_rules! read_stale {
    ($db:expr, $scope:expr, $statement:expr, $pool:ident => $query:expr) => {
        $crate::statement::read_with!(begin_stale_read, $db, $scope, $statement, $pool => $query)
    };
}
pub(crate) use read_stale;

/// What [`read!`] and [`read_stale!`] have in common. The transaction is not committed: it wrote nothing, and its end
/// goes with the connection's way back into the pool, for which nobody waits.
macro_rules! read_with {
    ($begin:ident, $db:expr, $scope:expr, $statement:expr, $pool:ident => $query:expr) => {
        match &$db.engine {
            $crate::db::Engine::Pg(servers) => {
                let mut tries = $crate::postgres::Tries::default();
                loop {
                    let outcome = match servers.$begin(&$scope, &tries).await {
                        Ok(mut begun) => {
                            let $pool = &mut *begun;
                            servers.within_limit($crate::statement::run(&$statement, $query), &$statement).await
                        }
                        Err(failed) => Err(failed),
                    };
                    match outcome {
                        Err(failed) if tries.another(failed.may_be_tried_again()).await => {}
                        outcome => break outcome,
                    }
                }
            }
            $crate::db::Engine::Lite { reader: $pool, .. } => $crate::statement::run(&$statement, $query).await,
        }
    };
}
pub(crate) use read_with;

/// Runs one statement that writes and returns rows, like [`read!`].
macro_rules! change {
    ($db:expr, $scope:expr, $statement:expr, $pool:ident => $query:expr) => {
        match &$db.engine {
            $crate::db::Engine::Pg(servers) => {
                let mut tries = $crate::postgres::Tries::default();
                loop {
                    let outcome = match servers.begin_write(&$scope).await {
                        Ok(mut begun) => {
                            let ran = {
                                let $pool = &mut *begun;
                                servers.within_limit($crate::statement::run(&$statement, $query), &$statement).await
                            };
                            match ran {
                                Ok(answer) => servers.commit(begun, &$scope).await.map(|()| answer),
                                Err(failed) => Err(failed),
                            }
                        }
                        Err(failed) => Err(failed),
                    };
                    match outcome {
                        Err(failed) if tries.another(failed.may_be_tried_again()).await => {}
                        outcome => break outcome,
                    }
                }
            }
            $crate::db::Engine::Lite { writer: $pool, .. } => $crate::statement::run(&$statement, $query).await,
        }
    };
}
pub(crate) use change;

/// Runs one statement that writes and returns none, and counts the rows that it touched:
/// `affected!(db, scope, DELETE, sqlx::query(DELETE.sql)…)`.
macro_rules! affected {
    ($db:expr, $scope:expr, $statement:expr, $query:expr) => {{
        let touched: ::core::result::Result<u64, $crate::failed::Failed> =
            $crate::statement::change!($db, $scope, $statement, pool => {
                let query = $query;
                async move { query.execute(pool).await.map(|done| done.rows_affected()) }
            });
        touched
    }};
}
pub(crate) use affected;

/// Runs a block in a transaction that may write: `transaction!(db, scope, connection => { …; Ok(answer) })`. Committed
/// where it ends in `Ok`. Within it: `run(&GET, sqlx::query(GET.sql)….fetch_one(&mut *connection)).await?`. The block
/// may run more than once, each time as if it had not before.
macro_rules! transaction {
    ($db:expr, $scope:expr, $connection:ident => $body:block) => {
        match &$db.engine {
            $crate::db::Engine::Pg(servers) => {
                let mut tries = $crate::postgres::Tries::default();
                loop {
                    let outcome: astrfleet_core::Result<_> = match servers.begin_write(&$scope).await {
                        Ok(mut begun) => {
                            let ran: astrfleet_core::Result<_> = {
                                let $connection = &mut *begun;
                                let limit = servers.answer_limit();
                                $crate::statement::ANSWER_LIMIT.scope(limit, async { $body }).await
                            };
                            match ran {
                                Ok(answer) => servers.commit(begun, &$scope).await.map(|()| answer).map_err(Into::into),
                                Err(error) => {
                                    if let Some(failed) = $crate::statement::failed(&error) {
                                        servers.note(failed);
                                    }
                                    Err(error)
                                }
                            }
                        }
                        Err(failed) => Err(failed.into()),
                    };
                    match outcome {
                        Err(error) if tries.another($crate::statement::may_be_tried_again(&error)).await => {}
                        outcome => break outcome,
                    }
                }
            }
            $crate::db::Engine::Lite { writer, .. } => {
                let begin = writer.begin_with($crate::dialect::SQLITE_BEGIN);
                let mut begun = $crate::statement::run(&$crate::statement::BEGIN, begin).await?;
                let outcome: astrfleet_core::Result<_> = {
                    let $connection = &mut *begun;
                    async { $body }.await
                };
                $crate::statement::end(begun, outcome).await
            }
        }
    };
}
pub(crate) use transaction;

tokio::task_local! {
    /// How long each statement of a [`transaction!`] may be without an answer from PostgreSQL: the network may have
    /// swallowed it.
    pub(crate) static ANSWER_LIMIT: Duration;
}

/// Runs a statement within its span, and within the limit of its transaction, where it is in one.
pub(crate) async fn run<T>(
    statement: &'static Statement,
    query: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, Failed> {
    let span = tracing::debug_span!("statement", db.statement = statement.name);
    let query = query.instrument(span);
    let answer = match ANSWER_LIMIT.try_with(|limit| *limit) {
        Ok(limit) => timeout(limit, query).await.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
        Err(_) => query.await,
    };
    answer.map_err(|source| Failed::new(statement, source))
}

/// Commits what went well; what did not is rolled back.
pub(crate) async fn end<T, D: sqlx::Database>(begun: sqlx::Transaction<'_, D>, outcome: Result<T>) -> Result<T> {
    let answer = outcome?;
    run(&COMMIT, begun.commit()).await?;
    Ok(answer)
}

/// [`Failed::may_be_tried_again`] of what it has become.
pub(crate) fn may_be_tried_again(error: &astrfleet_core::Error) -> bool {
    failed(error).is_some_and(Failed::may_be_tried_again)
}

/// The statement whose failure has become this.
pub(crate) fn failed(error: &astrfleet_core::Error) -> Option<&Failed> {
    let astrfleet_core::Error::Unavailable { source, .. } = error else { return None };
    source.downcast_ref()
}
