//! How sessions are looked up for messages that come at the same moment: together. Alone, each lookup is a transaction of
//! its own, and three messages to PostgreSQL cost it more than storing the message does.
//!
//! One task takes whatever waits and reads it within the scope of their tenants. It knows nothing that a lookup alone
//! does not find out: whoever gets no answer here looks alone, and learns then why.

use std::{collections::HashMap, time::Duration};

use astrfleet_core::id::{SessionId, TenantId};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};

use crate::{
    failed::Failed,
    postgres::Servers,
    rows::MAX_ROWS,
    scope::{self, Access, Scope},
    sessions::{RowWithNewest, session_columns},
    statement::{BEGIN, ROLLBACK, Statement, run},
};

/// Not declared: PostgreSQL alone has it, and `session.get_with_newest` is what it stands for.
const FIND: Statement = Statement {
    name: "session.find_with_newest",
    what: "session",
    sql: concat!(
        "SELECT ",
        session_columns!(),
        ", (SELECT messages.id FROM messages
            WHERE messages.tenant_id = sessions.tenant_id AND messages.session_id = sessions.id
            ORDER BY messages.id DESC LIMIT 1) AS newest
        FROM sessions WHERE (tenant_id, id) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))"
    ),
};

/// For [`crate::texts`].
pub(crate) const TEXT: (&str, &str) = ("session.find_with_newest (PostgreSQL)", FIND.sql);

/// How long anybody waits for the others. Mostly they all have their answer within a millisecond.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Lookups that wait, at the most: more are made alone.
const QUEUE_MAX: usize = 1_024;

/// The way to the task, which ends when all of them are gone, or with [`Lookups::close`].
#[derive(Clone)]
pub(crate) struct Lookups {
    queue: mpsc::Sender<Asked>,
    task: AbortHandle,
}

/// Whom a session is looked up for.
struct Asked {
    tenant: TenantId,
    session: SessionId,
    answer: oneshot::Sender<RowWithNewest>,
}

impl Lookups {
    /// Starts the task.
    pub(crate) fn start(servers: Servers) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(Reader { servers, connection: None }.run(waiting)).abort_handle();
        Self { queue, task }
    }

    /// Ends the task, and its connection with it.
    pub(crate) fn close(&self) {
        self.task.abort();
    }

    /// The session, where it was found together with others.
    pub(crate) async fn find(&self, tenant: &TenantId, session: &SessionId) -> Option<RowWithNewest> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Asked { tenant: tenant.clone(), session: session.clone(), answer }).ok()?;
        timeout(WAIT_MAX, answered).await.ok()?.ok()
    }
}

/// The task.
struct Reader {
    servers: Servers,
    /// Beside the pool, so that nobody waits for a free one.
    connection: Option<PgConnection>,
}

impl Reader {
    async fn run(mut self, mut queue: mpsc::Receiver<Asked>) {
        let mut batch = Vec::with_capacity(MAX_ROWS);
        while queue.recv_many(&mut batch, MAX_ROWS).await > 0 {
            batch.retain(|asked| !asked.answer.is_closed());
            let asked = std::mem::replace(&mut batch, Vec::with_capacity(MAX_ROWS));
            // Given up half-way, the connection is gone: the next batch makes another one.
            if let Ok(Err(failed)) = timeout(WAIT_MAX, self.answer(asked)).await {
                tracing::debug!(error = %failed, "sessions were not found together: each is looked up alone");
            }
        }
    }

    async fn answer(&mut self, asked: Vec<Asked>) -> Result<(), Failed> {
        if asked.is_empty() {
            return Ok(());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.servers.connect(&FIND).await?,
        };
        let scope = scope::list(asked.iter().map(|asked| &asked.tenant));
        let within = AssertSqlSafe(Scope::Tenants(&scope).begin(Access::Read));
        let mut begun = run(&BEGIN, connection.begin_with(within)).await?;
        let (tenants, sessions): (Vec<_>, Vec<_>) =
            asked.iter().map(|asked| (asked.tenant.as_str(), asked.session.as_str())).unzip();
        let find = sqlx::query_as::<_, RowWithNewest>(FIND.sql).bind(tenants).bind(sessions);
        let rows = run(&FIND, find.fetch_all(&mut *begun)).await?;
        let found: HashMap<_, _> = rows.iter().map(|row| (row.session.key(), row)).collect();
        for Asked { tenant, session, answer } in asked {
            if let Some(&row) = found.get(&(tenant.as_str(), session.as_str())) {
                answer.send(row.clone()).ok();
            }
        }
        // Whoever asked has gone on already. It wrote nothing.
        run(&ROLLBACK, begun.rollback()).await?;
        self.connection = Some(connection);
        Ok(())
    }
}
