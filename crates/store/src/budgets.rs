//! Budgets: what was spent in a period, and which replica may spend how much of the rest. The arithmetic is the core's.
//!
//! Whoever changes anything in a period first takes its account (of tokens: the tenant's, also for a key's): so they
//! come one after the other, and what is counted under it is exact.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use astrfleet_core::{
    Error, Result,
    audit::NewEntry,
    budget::{Account, Ask, Granted, Held, Settled, decide},
    id::{InstanceId, MessageId, TenantId},
    ports::{BudgetHolder, Budgets},
    quota::{Kind, Level},
    time::Timestamp,
    usage::UsageRecord,
};
use async_trait::async_trait;

use crate::{
    audit::{append_entry, stored_entry},
    db::Db,
    rows::MAX_ROWS,
    scope::Scope,
    statement::{read, run, statements, transaction},
    usage::{self, append},
    values::{read_number, token_count, word},
};

statements! {
    "tenant";
    /// Takes an account, and makes it where there is none.
    OPEN = "budget.open", "INSERT INTO budget_accounts (tenant_id, account, period, spent, fence, counted_at)
        VALUES ($1, $2, $3, 0, 0, 0)
        ON CONFLICT (tenant_id, account, period) DO UPDATE SET fence = budget_accounts.fence
        RETURNING spent, counted_at";
    CLOCK = "budget.clock", "SELECT micros FROM database_clock";
    EXPIRE = "budget.expire",
        "DELETE FROM budget_leases WHERE tenant_id = $1 AND account = $2 AND period = $3 AND expires_at <= $4";
    LEASES = "budget.leases",
        "SELECT holder, fence, tokens FROM budget_leases WHERE tenant_id = $1 AND account = $2 AND period = $3";
    COUNT_TOKENS = "budget.count_tokens", "UPDATE budget_accounts SET counted_at = $5, spent = (
            SELECT CAST(COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS BIGINT) FROM usage_records
            WHERE tenant_id = $1 AND at >= $3 AND at < $4)
        WHERE tenant_id = $1 AND account = $2 AND period = $3 RETURNING spent";
    COUNT_TOKENS_OF = "budget.count_tokens_of", "UPDATE budget_accounts SET counted_at = $5, spent = (
            SELECT CAST(COALESCE(SUM(prompt_tokens + completion_tokens), 0) AS BIGINT) FROM usage_records
            WHERE tenant_id = $1 AND at >= $3 AND at < $4 AND instance_id = $6)
        WHERE tenant_id = $1 AND account = $2 AND period = $3 RETURNING spent";
    /// By their ids, which begin with the time at which they came to us: when a message of an IM channel was written, its bot
    /// says.
    COUNT_MESSAGES = "budget.count_messages", "UPDATE budget_accounts SET counted_at = $5, spent = (
            SELECT COUNT(*) FROM messages
            WHERE tenant_id = $1 AND author = 'user' AND id >= $6 AND id < $4)
        WHERE tenant_id = $1 AND account = $2 AND period = $3 RETURNING spent";
    RAISE = "budget.raise", "UPDATE budget_accounts SET fence = fence + 1
        WHERE tenant_id = $1 AND account = $2 AND period = $3 RETURNING fence";
    PUT_LEASE = "budget.put_lease", "INSERT INTO budget_leases (
            tenant_id, account, period, holder, fence, tokens, expires_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (tenant_id, account, period, holder)
        DO UPDATE SET fence = excluded.fence, tokens = excluded.tokens, expires_at = excluded.expires_at";
    DROP_LEASE = "budget.drop_lease",
        "DELETE FROM budget_leases WHERE tenant_id = $1 AND account = $2 AND period = $3 AND holder = $4";
    SPEND = "budget.spend", "UPDATE budget_accounts SET spent = spent + $4
        WHERE tenant_id = $1 AND account = $2 AND period = $3 RETURNING spent";
    HOLD = "budget.hold", "UPDATE budget_leases SET tokens = $6, expires_at = $7
        WHERE tenant_id = $1 AND account = $2 AND period = $3 AND holder = $4 AND fence = $5 AND expires_at > $8";
    /// Of the same account, long ago.
    PRUNE = "budget.prune", "DELETE FROM budget_accounts WHERE tenant_id = $1 AND account = $2 AND period < $3";
    /// One state at a time: SQLite would read all of the tenant's messages for a list of them.
    CHATS = "budget.chats", "SELECT (SELECT COUNT(*) FROM messages
            WHERE tenant_id = $1 AND state = 'delivering' AND state IN ('accepted', 'delivering', 'streaming'))
        + (SELECT COUNT(*) FROM messages
            WHERE tenant_id = $1 AND state = 'streaming' AND state IN ('accepted', 'delivering', 'streaming'))";
    NOTICE = "budget.notice", "INSERT INTO quota_notices (tenant_id, quota, period, level, told_at)
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
}

/// The previous release adds lines without counting them here, for as long as it runs beside this one.
const COUNTED_FOR: Duration = Duration::from_mins(10);
/// Older accounts of the same name go when a new one is made.
const KEPT_FOR: Duration = Duration::from_hours(400 * 24);

/// The budgets of one tenant.
pub struct BudgetRows {
    db: Db,
    tenant: TenantId,
}

impl BudgetRows {
    /// Of `tenant`.
    #[must_use]
    pub fn new(db: &Db, tenant: &TenantId) -> Self {
        Self { db: db.clone(), tenant: tenant.clone() }
    }
}

/// An account, as it stands.
#[derive(sqlx::FromRow)]
struct AccountRow {
    spent: i64,
    counted_at: i64,
}

/// A lease, as it stands.
#[derive(sqlx::FromRow)]
struct LeaseRow {
    holder: String,
    fence: i64,
    tokens: i64,
}

/// Runs a statement whose first parameters are the key of an account: tenant, account, period.
macro_rules! of_account {
    ($statement:ident, $tenant:expr, $account:expr, $period:expr, $($more:expr),* ; $query:ident => $run:expr) => {{
        let $query = sqlx::query_scalar::<_, i64>($statement.sql)
            .bind($tenant.as_str())
            .bind($account)
            .bind($period.micros())
            $(.bind($more))*;
        run(&$statement, $run).await.map_err(|failed| failed.or_missing("tenant"))
    }};
}

/// Takes an account.
macro_rules! open {
    ($connection:ident, $tenant:expr, $account:expr, $period:expr) => {
        run(
            &OPEN,
            sqlx::query_as::<_, AccountRow>(OPEN.sql)
                .bind($tenant.as_str())
                .bind($account)
                .bind($period.micros())
                .fetch_one(&mut *$connection),
        )
        .await
        .map_err(|failed| failed.or_missing("tenant"))
    };
}

/// What a database can hold.
fn amount(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX)
}

fn ends_at(now: i64, holder: &BudgetHolder) -> i64 {
    Timestamp::from_micros(now).plus(holder.ttl).micros()
}

/// When a period ends.
fn period_end(account: &Account, period: Timestamp) -> Timestamp {
    match account.kind() {
        Kind::MessagesPerDay => period.plus(Duration::from_hours(24)),
        _ => period.plus(Duration::from_hours(32 * 24)).month_start(),
    }
}

#[async_trait]
impl Budgets for BudgetRows {
    async fn lease(
        &self,
        account: &Account,
        period: Timestamp,
        limit: u64,
        holder: &BudgetHolder,
        ask: &Ask,
    ) -> Result<Granted> {
        let (tenant, name, end) = (&self.tenant, account.to_string(), period_end(account, period));
        let tokens = Account::Tokens.to_string();
        transaction!(&self.db, Scope::Tenant(tenant), connection => {
            if matches!(account, Account::TokensOf(_)) {
                open!(connection, tenant, &tokens, period)?;
            }
            let opened = open!(connection, tenant, &name, period)?;
            let now = run(&CLOCK, sqlx::query_scalar::<_, i64>(CLOCK.sql).fetch_one(&mut *connection)).await?;
            let expire = sqlx::query(EXPIRE.sql).bind(tenant.as_str()).bind(&name).bind(period.micros()).bind(now);
            let expired = run(&EXPIRE, expire.execute(&mut *connection)).await?.rows_affected();
            let fresh = now - opened.counted_at < i64::try_from(COUNTED_FOR.as_micros()).unwrap_or(i64::MAX);
            let spent = match account {
                Account::Messages => of_account!(COUNT_MESSAGES, tenant, &name, period, MessageId::edge(end), now, MessageId::edge(period);
                    query => query.fetch_one(&mut *connection))?,
                // Of a replica that died, more may be written than it had told.
                _ if fresh && expired == 0 => opened.spent,
                Account::Tokens => of_account!(COUNT_TOKENS, tenant, &name, period, end.micros(), now;
                    query => query.fetch_one(&mut *connection))?,
                Account::TokensOf(instance) => {
                    of_account!(COUNT_TOKENS_OF, tenant, &name, period, end.micros(), now, instance.as_str();
                        query => query.fetch_one(&mut *connection))?
                }
            };
            if opened.counted_at == 0 {
                let before = period.minus(KEPT_FOR).micros();
                let prune = sqlx::query(PRUNE.sql).bind(tenant.as_str()).bind(&name).bind(before);
                run(&PRUNE, prune.execute(&mut *connection)).await?;
            }
            let leases = sqlx::query_as::<_, LeaseRow>(LEASES.sql)
                .bind(tenant.as_str())
                .bind(&name)
                .bind(period.micros())
                .fetch_all(&mut *connection);
            let leases = run(&LEASES, leases).await?;
            let (mut others, mut has) = (0_u64, None);
            for lease in leases {
                let size: u64 = read_number("budget_leases.tokens", lease.tokens)?;
                if lease.holder != holder.name {
                    others = others.saturating_add(size);
                } else if lease.fence == amount(ask.fence) {
                    has = Some(size);
                }
            }
            let spent = read_number("budget_accounts.spent", spent)?;
            let total = decide(limit, spent, others, has, ask);
            if total == 0 {
                let drop = sqlx::query(DROP_LEASE.sql)
                    .bind(tenant.as_str())
                    .bind(&name)
                    .bind(period.micros())
                    .bind(&holder.name);
                run(&DROP_LEASE, drop.execute(&mut *connection)).await?;
                return Ok(Granted { fence: ask.fence, total, spent, others });
            }
            let fence = match has {
                Some(_) => amount(ask.fence),
                None => of_account!(RAISE, tenant, &name, period, ; query => query.fetch_one(&mut *connection))?,
            };
            let put = sqlx::query(PUT_LEASE.sql)
                .bind(tenant.as_str())
                .bind(&name)
                .bind(period.micros())
                .bind(&holder.name)
                .bind(fence)
                .bind(amount(total))
                .bind(ends_at(now, holder));
            run(&PUT_LEASE, put.execute(&mut *connection)).await?;
            Ok(Granted { fence: read_number("budget_leases.fence", fence)?, total, spent, others })
        })
    }

    async fn settle(
        &self,
        period: Timestamp,
        records: &[UsageRecord],
        holder: &BudgetHolder,
        held: &[Held],
    ) -> Result<Vec<Settled>> {
        settle(&self.db, &self.tenant, period, records, holder, held).await
    }

    async fn chats_in_progress(&self) -> Result<u64> {
        let scope = Scope::Tenant(&self.tenant);
        let chats = read!(&self.db, scope, CHATS, pool => sqlx::query_scalar::<_, i64>(CHATS.sql)
            .bind(self.tenant.as_str())
            .fetch_one(pool))?;
        read_number("messages.count", chats)
    }

    async fn notice(&self, quota: &str, period: Timestamp, level: Level, entry: &NewEntry) -> Result<bool> {
        let (tenant, level) = (&self.tenant, word(&level)?);
        let entry = stored_entry(Some(tenant), entry);
        transaction!(&self.db, Scope::Tenant(tenant), connection => {
            let notice = sqlx::query(NOTICE.sql)
                .bind(tenant.as_str())
                .bind(quota)
                .bind(period.micros())
                .bind(&level)
                .bind(entry.at.micros());
            let told = run(&NOTICE, notice.execute(&mut *connection)).await;
            let is_new = told.map_err(|failed| failed.or_missing("tenant"))?.rows_affected() > 0;
            if is_new {
                append_entry!(connection, tenant.as_str(), entry.clone());
            }
            Ok(is_new)
        })
    }
}

/// Writes lines, all of one month, counts them, and notes what is left of leases.
pub(crate) async fn settle(
    db: &Db,
    tenant: &TenantId,
    period: Timestamp,
    records: &[UsageRecord],
    holder: &BudgetHolder,
    held: &[Held],
) -> Result<Vec<Settled>> {
    let month = |record: &UsageRecord| record.at.month_start();
    if records.iter().any(|record| record.tenant_id != *tenant || month(record) != period) {
        return Err(Error::internal("a line of the ledger belongs to another tenant, or to another month"));
    }
    let texts = usage::append_texts(&db.engine);
    let outcomes = records.iter().map(|record| word(&record.outcome)).collect::<Result<Vec<_>>>()?;
    transaction!(db, Scope::Tenant(tenant), connection => {
        let tokens = Account::Tokens.to_string();
        let mut spent = open!(connection, tenant, &tokens, period)?.spent;
        let mut added = HashSet::new();
        for (some, outcomes) in records.chunks(MAX_ROWS).zip(outcomes.chunks(MAX_ROWS)) {
            let append = append!(texts, tenant, some, outcomes);
            let ids = run(&usage::APPEND, append.fetch_all(&mut *connection)).await;
            added.extend(ids.map_err(|failed| failed.or_missing("tenant"))?);
        }
        let (mut new, mut new_of) = (0_i64, BTreeMap::<&InstanceId, i64>::new());
        for record in records.iter().filter(|record| added.contains(record.id.as_str())) {
            let took = token_count(record.tokens.prompt_tokens) + token_count(record.tokens.completion_tokens);
            new += took;
            *new_of.entry(&record.instance_id).or_default() += took;
        }
        if new > 0 {
            spent = of_account!(SPEND, tenant, &tokens, period, new; query => query.fetch_one(&mut *connection))?;
        }
        let mut spent_of = BTreeMap::new();
        for (instance, new) in new_of {
            // Only a key that has an amount of its own has an account.
            let account = Account::TokensOf(instance.clone());
            let spent = of_account!(SPEND, tenant, account.to_string(), period, new;
                query => query.fetch_optional(&mut *connection))?;
            spent_of.insert(account, spent);
        }
        let now = run(&CLOCK, sqlx::query_scalar::<_, i64>(CLOCK.sql).fetch_one(&mut *connection)).await?;
        let mut settled = Vec::with_capacity(held.len());
        for held in held {
            let renew = sqlx::query(HOLD.sql)
                .bind(tenant.as_str())
                .bind(held.account.to_string())
                .bind(period.micros())
                .bind(&holder.name)
                .bind(amount(held.fence))
                .bind(amount(held.tokens))
                .bind(ends_at(now, holder))
                .bind(now);
            let lives = run(&HOLD, renew.execute(&mut *connection)).await?.rows_affected() > 0;
            let spent = match &held.account {
                Account::Tokens => Some(spent),
                account => spent_of.get(account).copied().flatten(),
            };
            let spent = spent.map(|spent| read_number("budget_accounts.spent", spent)).transpose()?;
            settled.push(Settled { account: held.account.clone(), lives, spent });
        }
        Ok(settled)
    })
}
