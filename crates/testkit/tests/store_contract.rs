//! Both engines of the store pass its suites, and every statement runs on both.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::{path::Path, time::Duration};

use astrfleet_core::{
    Error,
    budget::{Account, Ask},
    export::{LEFT_OUT, TAKEN_IN},
    id::TenantId,
    ports::{Begun, BudgetHolder, Store, StoredAnswer},
    quota::Level,
};
use astrfleet_store::{Db, PgSettings, migrate::MIGRATIONS};
use astrfleet_testkit::{
    contract::{
        audit::{entry, first_broken, whole},
        budgets::told,
        store::{Heard, Make, NOW, all},
        tenants::{erase, fill},
    },
    postgres::Postgres,
};
use sqlx::{AssertSqlSafe, PgPool, Row as _, SqlitePool};
use tracing_subscriber::layer::SubscriberExt;

/// The database under the store, behind its back.
enum Raw {
    Pg(PgPool),
    Lite(SqlitePool),
}

impl Raw {
    async fn sqlite(path: &Path) -> Self {
        Self::Lite(SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap())
    }

    async fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Pg(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
            Self::Lite(pool) => drop(sqlx::raw_sql(sql).execute(pool).await.unwrap()),
        }
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let sql = AssertSqlSafe(sql.to_owned());
        match self {
            Self::Pg(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
            Self::Lite(pool) => sqlx::query_scalar(sql).fetch_all(pool).await.unwrap(),
        }
    }

    /// The tables that hold rows of tenants, and in which column it says so.
    async fn tenants_tables(&self) -> Vec<(String, String)> {
        let tables = match self {
            Self::Pg(_) => {
                "SELECT table_name || '.' || column_name FROM information_schema.columns
                 JOIN pg_class ON oid = table_name::regclass AND NOT relispartition
                 WHERE table_schema = 'public' AND column_name IN ('tenant_id', 'log') ORDER BY 1"
            }
            Self::Lite(_) => {
                "SELECT tables.name || '.' || columns.name FROM sqlite_master AS tables
                 JOIN pragma_table_info(tables.name) AS columns
                 WHERE tables.type = 'table' AND columns.name IN ('tenant_id', 'log') ORDER BY 1"
            }
        };
        let tables = self.texts(tables).await;
        tables.iter().map(|table| table.split_once('.').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
    }

    /// The tables that hold rows of `tenant`.
    async fn tables_with(&self, tenant: &TenantId) -> Vec<String> {
        let mut found = Vec::new();
        for (table, column) in self.tenants_tables().await {
            let sql = format!("SELECT {column} FROM {table} WHERE {column} = '{tenant}' LIMIT 1");
            if !self.texts(&sql).await.is_empty() {
                found.push(table);
            }
        }
        found
    }

    /// The tables with a text in any column of any row.
    async fn tables_that_say(&self, text: &str) -> Vec<String> {
        let tables = self.texts(match self {
            Self::Pg(_) => {
                "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
                AND relnamespace = 'public'::regnamespace ORDER BY 1"
            }
            Self::Lite(_) => "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1",
        });
        let mut found = Vec::new();
        for table in tables.await {
            let sql = match self {
                Self::Pg(_) => format!("SELECT '' FROM {table} AS one WHERE one::text LIKE '%{text}%' LIMIT 1"),
                Self::Lite(_) => {
                    let columns = self.texts(&format!("SELECT name FROM pragma_table_info('{table}')")).await;
                    let said: Vec<_> = columns.iter().map(|column| format!("{column} LIKE '%{text}%'")).collect();
                    format!("SELECT '' FROM {table} WHERE {} LIMIT 1", said.join(" OR "))
                }
            };
            if !self.texts(&sql).await.is_empty() {
                found.push(table);
            }
        }
        found
    }

    /// The tables that hold rows of tenants and whose key does not begin with the tenant.
    async fn keys_without_tenant(&self) -> Vec<String> {
        self.texts(match self {
            Self::Pg(_) => {
                "SELECT table_name::text FROM information_schema.columns
                 WHERE table_schema = 'public' AND column_name = 'tenant_id' AND table_name NOT IN (
                     SELECT keys.table_name FROM information_schema.table_constraints AS keys
                     JOIN information_schema.key_column_usage AS columns USING (constraint_schema, constraint_name)
                     WHERE keys.constraint_type = 'PRIMARY KEY' AND columns.column_name = 'tenant_id'
                     AND columns.ordinal_position = 1
                 )"
            }
            Self::Lite(_) => {
                "SELECT tables.name FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns
                 WHERE tables.type = 'table' AND columns.name = 'tenant_id' AND columns.pk <> 1"
            }
        })
        .await
    }

    /// References from one table of tenants to another that leave the tenant out.
    async fn references_without_tenant(&self) -> Vec<String> {
        self.texts(match self {
            Self::Pg(_) => {
                "SELECT conname::text FROM pg_constraint AS reference
                 WHERE contype = 'f' AND connamespace = 'public'::regnamespace
                 AND EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = conrelid AND attname = 'tenant_id')
                 AND EXISTS (SELECT 1 FROM pg_attribute WHERE attrelid = confrelid AND attname = 'tenant_id')
                 AND NOT EXISTS (
                     SELECT 1 FROM pg_attribute
                     WHERE attrelid = conrelid AND attname = 'tenant_id' AND attnum = ANY (conkey)
                 )"
            }
            Self::Lite(_) => {
                "SELECT tables.name || '.' || MIN(reference.\"from\")
                 FROM sqlite_master AS tables JOIN pragma_foreign_key_list(tables.name) AS reference
                 WHERE tables.type = 'table'
                 AND EXISTS (SELECT 1 FROM pragma_table_info(tables.name) WHERE name = 'tenant_id')
                 AND EXISTS (SELECT 1 FROM pragma_table_info(reference.\"table\") WHERE name = 'tenant_id')
                 GROUP BY tables.name, reference.id HAVING SUM(reference.\"from\" = 'tenant_id') = 0"
            }
        })
        .await
    }

    /// How the engine would run a statement of the store, where an index is preferred to all rows.
    async fn plan(&self, statement: &str, values: &[&str]) -> String {
        let mut sql = astrfleet_store::texts()[statement].clone();
        for (number, value) in values.iter().enumerate() {
            sql = sql.replace(&format!("${}", number + 1), value);
        }
        let lines: Vec<String> = match self {
            Self::Pg(pool) => {
                let mut connection = pool.acquire().await.unwrap();
                sqlx::raw_sql("SET enable_seqscan = off; SET enable_bitmapscan = off")
                    .execute(&mut *connection)
                    .await
                    .unwrap();
                let plan =
                    sqlx::query_scalar(AssertSqlSafe(format!("EXPLAIN {sql}"))).fetch_all(&mut *connection).await;
                sqlx::raw_sql("RESET ALL").execute(&mut *connection).await.unwrap();
                plan.unwrap()
            }
            Self::Lite(pool) => {
                let plan =
                    sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(pool).await.unwrap();
                plan.iter().map(|row| row.get("detail")).collect()
            }
        };
        lines.join("\n")
    }

    /// All of the schema but the list of migrations.
    async fn schema(&self) -> Vec<String> {
        self.texts(match self {
            Self::Pg(_) => {
                "SELECT table_name || '.' || column_name || ' ' || data_type || is_nullable
                    FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'schema_migrations'
                 UNION ALL SELECT indexdef FROM pg_indexes
                    WHERE schemaname = 'public' AND tablename <> 'schema_migrations'
                 UNION ALL SELECT tablename || policyname || qual FROM pg_policies WHERE schemaname = 'public'
                 UNION ALL SELECT relname || relrowsecurity || relforcerowsecurity FROM pg_class
                    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'schema_migrations'
                 UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                    WHERE connamespace = 'public'::regnamespace AND conrelid <> 'schema_migrations'::regclass
                 ORDER BY 1"
            }
            Self::Lite(_) => {
                "SELECT name || ' ' || COALESCE(sql, '') FROM sqlite_master WHERE tbl_name <> 'schema_migrations'
                 ORDER BY 1"
            }
        })
        .await
    }
}

/// Everything, on an empty database.
async fn everything(db: &Db, again: &Db, raw: &Raw) {
    let heard = Heard::default();
    let listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(heard.clone()));
    Box::pin(migrations(db, again, raw)).await;
    all(db).await;
    erasure_forgets_no_table(db, raw).await;
    a_changed_entry_is_noticed(db, raw).await;
    lines_of_the_previous_release_are_counted(db, raw).await;
    a_tenant_is_told_or_will_be(db, raw).await;
    a_page_of_the_ledger_reads_nothing_before_it(raw).await;
    drop(listening);
    databases_that_are_not_ours(db, raw).await;
    assert_eq!(heard.missing(), Vec::<&str>::new(), "statements that no suite ran");
}

async fn migrations(db: &Db, again: &Db, raw: &Raw) {
    let names: Vec<_> = MIGRATIONS.iter().map(|step| step.name).collect();
    assert!(db.migration_status().await.unwrap().iter().all(|step| step.applied_at.is_none()));
    let (one, other) = tokio::join!(db.migrate_up(NOW), again.migrate_up(NOW));
    let mut made = [one.unwrap(), other.unwrap()].concat();
    made.sort_unstable();
    assert_eq!(made, names, "two at the same moment make each step once");
    let up = raw.schema().await;

    for to in (0..MIGRATIONS.len()).rev() {
        let undone = db.migrate_down(i64::try_from(to).unwrap()).await.unwrap();
        assert_eq!(undone, [names[to]], "one step at a time");
    }
    assert_eq!(raw.schema().await, Vec::<String>::new(), "nothing is left of what was undone");
    assert_eq!(db.migrate_up(NOW).await.unwrap(), names);
    assert_eq!(raw.schema().await, up);
    assert_eq!(db.migrate_up(NOW).await.unwrap(), Vec::<&str>::new());
    let status = db.migration_status().await.unwrap();
    assert!(status.iter().all(|step| step.applied_at == Some(NOW)));
    assert_eq!(raw.keys_without_tenant().await, Vec::<String>::new(), "the key is (tenant_id, id)");
    assert_eq!(raw.references_without_tenant().await, Vec::<String>::new(), "a reference names the tenant too");
    assert_eq!(status.iter().map(|step| step.name.as_str()).collect::<Vec<_>>(), names);
}

async fn a_page_of_the_ledger_reads_nothing_before_it(raw: &Raw) {
    let plan = raw.plan("usage.between", &["'ten_1'", "111", "222", "'use_1'", "10"]).await;
    let bounds = match raw {
        Raw::Pg(_) => plan.lines().find(|line| line.contains("Index Cond")),
        Raw::Lite(_) => plan.lines().find(|line| line.contains("USING INDEX usage_records_at")),
    };
    let bounds = bounds.unwrap_or_else(|| panic!("no index: {plan}"));
    assert!(bounds.contains(if matches!(raw, Raw::Pg(_)) { "at >= " } else { "at>?" }), "{plan}");
}

async fn erasure_forgets_no_table(db: &Db, raw: &Raw) {
    let make = Make::after_the_suites();
    let (tenant, owner) = make.stored_tenant_with_owner(db, "erased-whole").await;
    fill(db, &make, &tenant, &owner).await;
    let tables: Vec<_> = raw.tenants_tables().await.into_iter().map(|(table, _)| table).collect();
    assert_eq!(raw.tables_with(&tenant).await, tables, "a table that this suite puts nothing into: see `fill`");
    // What somebody who is no part of the tenant was answered about it.
    let answers = db.idempotency(make.ids.user().as_str());
    assert_eq!(answers.begin("asked", &[1; 32], Duration::ZERO).await.unwrap(), Begun::New);
    let body = format!("{{\"tenant_id\":\"{tenant}\"}}");
    answers.finish("asked", &StoredAnswer { status: 201, body }).await.unwrap();

    let erased = erase(db, &make, &tenant).await.unwrap();
    assert_eq!(raw.tables_with(&tenant).await, Vec::<String>::new(), "rows that outlive their tenant");
    let counted: Vec<_> = erased.iter().filter(|(_, rows)| **rows > 0).map(|(table, _)| table.as_str()).collect();
    for table in &tables {
        // Its rows go with the messages, by a trigger.
        assert!(
            counted.contains(&table.as_str()) || table == "message_keys",
            "{table} is not in the proof: {erased:?}"
        );
    }
    assert_eq!((erased["idempotency"], erased["tenants"]), (2, 1));
    for table in &tables {
        let of = |list: &[(&str, &str)]| list.iter().filter(|(name, _)| name == table).count();
        assert_eq!(of(TAKEN_IN) + of(LEFT_OUT), 1, "does an export have {table}, or why not? See `core/src/export.rs`");
    }
    // Not a byte of it in any column of any table, but that the platform's own log says which tenant was erased.
    assert_eq!(raw.tables_that_say(tenant.as_str()).await, ["audit_log"]);
    assert_eq!(raw.tables_that_say("erased-whole@tenants").await, Vec::<String>::new());
}

async fn a_changed_entry_is_noticed(db: &Db, raw: &Raw) {
    let make = Make::after_the_suites();
    let tenant = make.stored_tenant(db, "audited-and-changed").await;
    let log = db.audit(Some(&tenant));
    for action in ["tenant.create", "tenant.suspend", "tenant.resume"] {
        log.append(&entry(&make, Some(&tenant), action)).await.unwrap();
    }
    assert_eq!(first_broken(Some(&tenant), &whole(&*log).await), None);
    raw.execute(&format!("UPDATE audit_log SET actor = 'usr_other' WHERE log = '{tenant}' AND seq = 2")).await;
    assert_eq!(first_broken(Some(&tenant), &whole(&*log).await), Some(2));
    raw.execute(&format!("DELETE FROM audit_log WHERE log = '{tenant}' AND seq = 2")).await;
    assert_eq!(first_broken(Some(&tenant), &whole(&*log).await), Some(2));
    let next = log.append(&entry(&make, Some(&tenant), "tenant.update")).await.unwrap();
    assert_eq!(next.seq, 4, "a place is never given twice");
}

/// A notice whose entry cannot be written is given the next time.
async fn a_tenant_is_told_or_will_be(db: &Db, raw: &Raw) {
    let make = Make::after_the_suites();
    let tenant = make.stored_tenant(db, "told-later").await;
    let (budgets, month) = (db.budgets(&tenant), NOW.month_start());
    let notice = async || budgets.notice("storage_bytes", month, Level::Warning, &told(&make, &tenant)).await;
    // Somebody has the place of the next entry.
    raw.execute(&format!(
        "INSERT INTO audit_log (log, seq, id, at, actor, action, target, detail, request_id, hash, previous_hash)
         VALUES ('{tenant}', 1, 'aud_1', 1, 'a', 'b', 'c', '{{}}', 'd', 'e', '')"
    ))
    .await;
    notice().await.unwrap_err();
    raw.execute(&format!("DELETE FROM audit_log WHERE log = '{tenant}'")).await;
    assert!(notice().await.unwrap(), "it was noted, and nobody told");
    assert_eq!(whole(&*db.audit(Some(&tenant))).await.len(), 1);
    assert!(!notice().await.unwrap());
}

/// It adds lines to the ledger and knows nothing of accounts.
async fn lines_of_the_previous_release_are_counted(db: &Db, raw: &Raw) {
    let make = Make::after_the_suites();
    let tenant = make.stored_tenant(db, "counted-anew").await;
    let holder = BudgetHolder { name: "one".to_owned(), ttl: std::time::Duration::from_hours(1) };
    let spent = async || {
        let (budgets, month) = (db.budgets(&tenant), NOW.month_start());
        budgets.lease(&Account::Tokens, month, 1_000, &holder, &Ask::default()).await.unwrap().spent
    };
    assert_eq!(spent().await, 0);
    raw.execute(&format!(
        "INSERT INTO usage_records (tenant_id, id, instance_id, upstream, model, prompt_tokens, completion_tokens,
             estimated, outcome, at, duration_ms)
         VALUES ('{tenant}', '{}', '{}', 'first', 'm', 30, 12, FALSE, 'complete', {}, 1)",
        make.ids.usage(),
        make.ids.instance(),
        NOW.micros(),
    ))
    .await;
    assert_eq!(spent().await, 0, "not each time");
    let minutes = 11 * 60 * 1_000_000_i64;
    raw.execute(&format!(
        "UPDATE budget_accounts SET counted_at = counted_at - {minutes} WHERE tenant_id = '{tenant}'"
    ))
    .await;
    assert_eq!(spent().await, 42, "but after a while");
}

async fn databases_that_are_not_ours(db: &Db, raw: &Raw) {
    let refusal = |outcome: Result<Vec<&str>, Error>| match outcome {
        Err(Error::Conflict { reason }) => reason,
        other => panic!("expected a refusal, not {other:?}"),
    };
    let newest = MIGRATIONS.len();
    let later = |name: &str| format!("INSERT INTO schema_migrations VALUES ({}, '{name}', 1, 'sum')", newest + 2);
    raw.execute(&later("0099_later")).await;
    assert_eq!(db.migrate_up(NOW).await.unwrap(), Vec::<&str>::new(), "what only adds is borne");
    assert_eq!(db.missing_steps(i64::MAX).await.unwrap(), []);
    let reason = refusal(db.migrate_down(0).await);
    assert_eq!(reason, format!("a newer astrfleet made step {}: undo its steps with that version first", newest + 2));
    raw.execute("DELETE FROM schema_migrations WHERE name = '0099_later'").await;

    raw.execute(&later("0099_contract_later")).await;
    let reason = refusal(db.migrate_up(NOW).await);
    assert_eq!(
        reason,
        format!(
            "a newer astrfleet took something from the database that this one uses (migration 0099_contract_later; this \
             one knows {newest}): use that version, or restore a backup"
        )
    );
    assert_eq!(refusal(db.migrate_down(0).await), reason);
    raw.execute("DELETE FROM schema_migrations WHERE name = '0099_contract_later'").await;

    raw.execute("UPDATE schema_migrations SET checksum = 'other' WHERE version = 1").await;
    assert!(refusal(db.migrate_up(NOW).await).contains("another text of migration 1 (0001_platform)"));
    raw.execute("DELETE FROM schema_migrations WHERE version = 1").await;
    refusal(db.migrate_up(NOW).await);
}

#[tokio::test]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let db = Db::open_sqlite(&path).await.unwrap();
    let again = Db::open_sqlite(&path).await.unwrap();
    everything(&db, &again, &Raw::sqlite(&path).await).await;
}

#[tokio::test]
async fn postgres() {
    let database = Postgres::shared().await.database().await;
    let (url, settings) = (database.url().into(), PgSettings::default());
    let db = Db::open_postgres(&url, &settings).await.unwrap();
    let again = Db::open_postgres(&url, &settings).await.unwrap();
    everything(&db, &again, &Raw::Pg(database.pool.clone())).await;
    db.close().await;
    again.close().await;
}

#[tokio::test]
async fn sqlite_keeps_what_it_has_and_from_others_eyes() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let make = Make::new();
    let db = Db::open_sqlite(&path).await.unwrap();
    db.migrate_up(NOW).await.unwrap();
    let tenant = make.stored_tenant(&db, "kept").await;
    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", file.path().display());
    }
    db.close().await;
    let db = Db::open_sqlite(&path).await.unwrap();
    assert_eq!(db.tenants().get(&tenant).await.unwrap().name, "kept");
}

#[tokio::test]
async fn what_is_no_database_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    std::fs::write(&path, "a text that is somebody's and long enough to be taken for a header of something".repeat(9))
        .unwrap();
    let outcome = match Db::open_sqlite(&path).await {
        Ok(db) => db.migrate_up(NOW).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(matches!(outcome, Err(Error::Unavailable { what: "storage", .. })), "{outcome:?}");

    let missing = folder.path().join("no-such-folder").join("store.db");
    assert!(matches!(Db::open_sqlite(&missing).await.err(), Some(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_none_without_its_password() {
    let settings = PgSettings { acquire_timeout: std::time::Duration::from_millis(200), ..PgSettings::default() };
    let url = "postgres://us:secretword@127.0.0.1:1/none".to_owned().into();
    let error = Db::open_postgres(&url, &settings).await.err().unwrap();
    assert!(matches!(error, Error::Unavailable { what: "storage", .. }));
    assert!(!format!("{error} {error:?}").contains("secretword"));
    let error = Db::open_postgres(&"postgres://us:secretword@[".to_owned().into(), &settings).await.err().unwrap();
    assert!(matches!(error, Error::Invalid { .. }));
    assert!(!format!("{error} {error:?}").contains("secretword"));
}

/// What is still to be done is a handful of rows, whatever a tenant has stored: the index of those alone is read.
#[tokio::test]
async fn sqlite_counts_what_is_open_without_reading_what_is_done() {
    use sqlx::Row;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    Db::open_sqlite(&path).await.unwrap().migrate_up(NOW).await.unwrap();
    let pool = SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    for name in ["budget.chats", "message.count_waiting"] {
        let text = &astrfleet_store::texts()[name];
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {text}"));
        let plan = sqlx::query(explain).bind("ten_").fetch_all(&pool).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let reads: Vec<_> = steps.iter().filter(|step| step.contains(" messages ")).collect();
        assert!(!reads.is_empty() && reads.iter().all(|step| step.contains("messages_open")), "{name}: {steps:?}");
    }
}
