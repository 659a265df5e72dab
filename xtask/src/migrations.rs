//! What a migration may do to a PostgreSQL database that is in use: nothing that keeps everybody else waiting, and
//! nothing that the program of the release before cannot live with. Judged by its words, statement by statement; what a
//! script has made itself is empty and nobody's, so that anything may be done to it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, bail};

use crate::{errand::Workspace, previous};

const FOLDER: &str = "crates/store/migrations";
/// The first line of a script whose statements run one by one (`migrate::APART` of the store).
const APART: &str = "-- apart: no transaction";

/// Fails with one line for each finding.
pub fn run(workspace: &Workspace) -> Result<()> {
    let folder = workspace.root.join(FOLDER);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {FOLDER}"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let mut wrong = pairs(&names);
    wrong.extend(order(&names, previous::read(workspace)?.newest_step));
    let mut proven = BTreeSet::new();
    for name in names.iter().filter(|name| name.ends_with(".up.sql") && !name.ends_with(".sqlite.up.sql")) {
        let text = fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name}"))?;
        wrong.extend(findings(name, &text, &mut proven));
    }
    for line in &wrong {
        eprintln!("  {line}");
    }
    if !wrong.is_empty() {
        bail!("{} finding(s) in the migrations: see docs/recipes/add-a-table.md", wrong.len());
    }
    Ok(())
}

/// What the release before does not know is made while its program runs, but for contracts: so they come last.
fn order(names: &[String], known: usize) -> Vec<String> {
    let mut contract = None;
    let mut wrong = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".up.sql") && number(name) > known) {
        match contract {
            _ if contracts(name) => contract = Some(name),
            Some(contract) => wrong.push(format!("{name}: comes after {contract} of the same release: contracts last")),
            None => {}
        }
    }
    wrong
}

fn number(name: &str) -> usize {
    name.split('_').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a step takes away what the release before this one has already stopped using.
fn contracts(name: &str) -> bool {
    name.split_once('_').is_some_and(|(_, rest)| rest.starts_with("contract_"))
}

/// Every step has its way back, on each engine, and the numbers have no gap.
fn pairs(names: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut numbers = BTreeSet::new();
    for name in names {
        let Some(stem) = name.strip_suffix(".up.sql") else { continue };
        if !names.contains(&format!("{stem}.down.sql")) {
            wrong.push(format!("{name}: there is no {stem}.down.sql"));
        }
        if let Some(of_postgres) = stem.strip_suffix(".pg")
            && !names.contains(&format!("{of_postgres}.sqlite.up.sql"))
        {
            wrong.push(format!("{name}: there is no {of_postgres}.sqlite.up.sql"));
        }
        numbers.insert(number(name));
    }
    if !numbers.iter().copied().eq(1..=numbers.len()) {
        wrong.push(format!("the numbers of the migrations have gaps: {numbers:?}"));
    }
    wrong
}

/// Looks at one script; `proven` holds the columns (`table.column`) that a validated check keeps from being empty.
fn findings(name: &str, text: &str, proven: &mut BTreeSet<String>) -> Vec<String> {
    let apart = text.starts_with(APART);
    let contracts = contracts(name);
    let statements = statements(text);
    let made: BTreeSet<&str> = statements.iter().filter_map(|words| made_table(words)).collect();
    let mut dropped = BTreeSet::new();
    let mut checks = BTreeSet::new();
    let mut wrong = Vec::new();
    for words in &statements {
        let mut refuse = |reason: &str| wrong.push(format!("{name}: `{}`: {reason}", shown(words)));
        let statement = Words(words);
        let concurrently = statement.has("CONCURRENTLY");
        if concurrently && !apart {
            refuse("CONCURRENTLY is not possible in a transaction: begin the script with `-- apart: no transaction`");
        }
        if statement.begins("CREATE INDEX") || statement.begins("CREATE UNIQUE INDEX") {
            let table = statement.after("ON").unwrap_or_default();
            if !concurrently && !made.contains(table) {
                refuse("keeps writers waiting: CREATE INDEX CONCURRENTLY");
            }
            let index = statement.after(if concurrently { "CONCURRENTLY" } else { "INDEX" }).unwrap_or_default();
            if concurrently && !dropped.contains(index) {
                refuse("a try that was cut off leaves a broken index: DROP INDEX CONCURRENTLY IF EXISTS it first");
            }
        }
        if statement.begins("DROP INDEX") {
            dropped.insert(words.last().cloned().unwrap_or_default());
            if !concurrently {
                refuse("keeps everybody waiting: DROP INDEX CONCURRENTLY");
            }
        }
        for (begin, reason) in [
            ("LOCK", "keeps everybody waiting"),
            ("TRUNCATE", "empties a table for good"),
            ("VACUUM", "is for whoever runs the database"),
            ("CLUSTER", "keeps everybody waiting while it writes the table anew"),
            ("REINDEX", "keeps writers waiting: make another index CONCURRENTLY"),
        ] {
            if statement.begins(begin) {
                refuse(reason);
            }
        }
        if statement.begins("DROP TABLE") && !contracts {
            refuse("the program before this one may use it: only in a step named NNNN_contract_…");
        }
        if statement.begins("ALTER TABLE") {
            let table = altered_table(words).to_owned();
            if made.contains(table.as_str()) {
                continue;
            }
            for reason in altered(&statement, &table, contracts, proven, &mut checks) {
                refuse(reason);
            }
        }
    }
    wrong
}

/// What is wrong with an `ALTER TABLE` of a table that is in use.
fn altered(
    statement: &Words<'_>,
    table: &str,
    contracts: bool,
    proven: &mut BTreeSet<String>,
    checks: &mut BTreeSet<String>,
) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    if statement.has("RENAME") {
        wrong.push("the program before this one knows the old name: add, move, and drop in a later release");
    }
    if statement.has("DROP COLUMN") && !contracts {
        wrong.push("the program before this one may use it: only in a step named NNNN_contract_…");
    }
    if statement.has("TYPE") && statement.has("ALTER") {
        wrong.push("writes the whole table anew while everybody waits: add a column, move, and drop the old one");
    }
    if statement.has("ADD COLUMN") && statement.has("NOT NULL") && !statement.has("DEFAULT") {
        wrong.push("fails where there are rows, and the program before this one leaves it out: give it a DEFAULT");
    }
    if statement.has("SET NOT NULL") {
        let column = statement.after("COLUMN").or_else(|| statement.after("ALTER TABLE")).unwrap_or_default();
        if !proven.contains(&format!("{table}.{column}")) {
            wrong.push("reads the whole table while everybody waits: add CHECK (… IS NOT NULL) NOT VALID and VALIDATE it first");
        }
    }
    let adds = statement.has("ADD CONSTRAINT") || statement.has("ADD CHECK") || statement.has("ADD FOREIGN");
    if adds && (statement.has("CHECK") || statement.has("FOREIGN KEY")) {
        if !statement.has("NOT VALID") {
            wrong.push(
                "reads the whole table while everybody waits: NOT VALID, and VALIDATE CONSTRAINT in a later step",
            );
        }
        if let (Some(constraint), Some(column)) = (statement.after("CONSTRAINT"), statement.before("IS NOT NULL")) {
            checks.insert(format!("{constraint} {table}.{column}"));
            proven.insert(format!("unproven {constraint} {table}.{column}"));
        }
    }
    if let Some(constraint) = statement.after("VALIDATE CONSTRAINT") {
        if checks.iter().any(|check| check.starts_with(&format!("{constraint} "))) {
            wrong.push("in the same transaction as the constraint it keeps everybody waiting: in a later step");
        }
        let begin = format!("unproven {constraint} ");
        let found: Vec<_> = proven.iter().filter_map(|check| check.strip_prefix(&begin)).map(str::to_owned).collect();
        proven.extend(found);
    }
    if (statement.has("UNIQUE") || statement.has("PRIMARY KEY"))
        && statement.has("ADD")
        && !statement.has("USING INDEX")
    {
        wrong.push("keeps everybody waiting while it makes an index: make it CONCURRENTLY, then ADD … USING INDEX");
    }
    if statement.has("SET TABLESPACE") || statement.has("SET LOGGED") || statement.has("SET UNLOGGED") {
        wrong.push("writes the whole table anew while everybody waits");
    }
    wrong
}

/// The words of one statement: keywords and names in upper case, without quotes and brackets.
struct Words<'a>(&'a [String]);

impl Words<'_> {
    fn begins(&self, text: &str) -> bool {
        self.at(text) == Some(0)
    }

    fn has(&self, text: &str) -> bool {
        self.at(text).is_some()
    }

    /// Where these words stand one after the other.
    fn at(&self, text: &str) -> Option<usize> {
        let wanted: Vec<&str> = text.split(' ').collect();
        self.0.windows(wanted.len()).position(|words| words.iter().eq(wanted.iter()))
    }

    /// The word behind these, `IF [NOT] EXISTS` and `ONLY` left out.
    fn after(&self, text: &str) -> Option<&str> {
        let behind = self.at(text)? + text.split(' ').count();
        let mut words = self.0.get(behind..)?.iter().map(String::as_str);
        words.find(|word| !matches!(*word, "IF" | "NOT" | "EXISTS" | "ONLY"))
    }

    fn before(&self, text: &str) -> Option<&str> {
        self.at(text)?.checked_sub(1).and_then(|index| self.0.get(index)).map(String::as_str)
    }
}

fn made_table(words: &[String]) -> Option<&str> {
    let statement = Words(words);
    if !statement.begins("CREATE TABLE") {
        return None;
    }
    let name = words.iter().skip(2).find(|word| !matches!(word.as_str(), "IF" | "NOT" | "EXISTS"))?;
    Some(name)
}

fn altered_table(words: &[String]) -> &str {
    words.iter().skip(2).find(|word| !matches!(word.as_str(), "IF" | "EXISTS" | "ONLY")).map_or("", String::as_str)
}

/// The statements of a script, each as its words. Comments are no words; a text in quotes is one that says nothing.
fn statements(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut words = Vec::new();
    let mut word = String::new();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '-' if characters.peek() == Some(&'-') => {
                for skipped in characters.by_ref() {
                    if skipped == '\n' {
                        break;
                    }
                }
                finish(&mut word, &mut words);
            }
            '\'' => {
                for skipped in characters.by_ref() {
                    if skipped == '\'' {
                        break;
                    }
                }
                finish(&mut word, &mut words);
                words.push("''".to_owned());
            }
            ';' => {
                finish(&mut word, &mut words);
                all.push(std::mem::take(&mut words));
            }
            character if character.is_alphanumeric() || character == '_' || character == '.' => {
                word.extend(character.to_uppercase());
            }
            _ => finish(&mut word, &mut words),
        }
    }
    finish(&mut word, &mut words);
    all.push(words);
    all.retain(|words| !words.is_empty());
    all
}

fn finish(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

/// The beginning of a statement, for people.
fn shown(words: &[String]) -> String {
    let shown = words.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(" ");
    if words.len() > 8 { format!("{shown} …") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        findings(name, text, &mut BTreeSet::new()).len()
    }

    #[test]
    fn what_keeps_others_waiting_is_refused() {
        for text in [
            "CREATE INDEX things_name ON things (name);",
            "create unique index things_name on things (name);",
            "DROP INDEX things_name;",
            "ALTER TABLE things ALTER COLUMN name SET NOT NULL;",
            "ALTER TABLE things ALTER COLUMN number TYPE BIGINT;",
            "ALTER TABLE things ALTER number SET DATA TYPE BIGINT;",
            "ALTER TABLE things ADD COLUMN name TEXT NOT NULL;",
            "ALTER TABLE things ADD CONSTRAINT known CHECK (name <> '');",
            "ALTER TABLE things ADD CONSTRAINT known FOREIGN KEY (a) REFERENCES others (a);",
            "ALTER TABLE things ADD CONSTRAINT once UNIQUE (name);",
            "ALTER TABLE things ADD PRIMARY KEY (name);",
            "LOCK TABLE things;",
            "TRUNCATE things;",
            "CLUSTER things;",
            "VACUUM FULL things;",
            "REINDEX TABLE things;",
        ] {
            assert_eq!(found("0009_more.up.sql", text), 1, "{text}");
        }
    }

    #[test]
    fn what_the_program_before_cannot_live_with_is_refused_until_a_contract() {
        for text in ["ALTER TABLE things DROP COLUMN name;", "DROP TABLE things;"] {
            assert_eq!(found("0009_more.up.sql", text), 1, "{text}");
            assert_eq!(found("0009_contract_things.up.sql", text), 0, "{text}");
        }
        for text in ["ALTER TABLE things RENAME TO others;", "ALTER TABLE things RENAME COLUMN a TO b;"] {
            assert_eq!(found("0009_contract_things.up.sql", text), 1, "{text}");
        }
    }

    #[test]
    fn what_a_script_has_made_itself_is_its_own() {
        let text = "CREATE TABLE IF NOT EXISTS things (name TEXT); CREATE INDEX things_name ON things (name);
                    ALTER TABLE things ALTER COLUMN name SET NOT NULL;";
        assert_eq!(found("0009_more.up.sql", text), 0);
    }

    #[test]
    fn what_nobody_waits_for_is_allowed() {
        let text = "ALTER TABLE things ADD COLUMN name TEXT; -- DROP TABLE things;
                    ALTER TABLE things ADD COLUMN kind TEXT NOT NULL DEFAULT 'DROP TABLE things;';
                    ALTER TABLE things ADD CONSTRAINT known CHECK (name <> '') NOT VALID;
                    ALTER TABLE things ENABLE ROW LEVEL SECURITY;";
        assert_eq!(found("0009_more.up.sql", text), 0);
    }

    #[test]
    fn an_index_of_a_table_in_use_is_made_apart_and_after_what_an_earlier_try_left() {
        let begin = "DROP INDEX CONCURRENTLY IF EXISTS things_name;\n";
        let make = "CREATE INDEX CONCURRENTLY things_name ON things (name);\n";
        assert_eq!(found("0009_more.up.sql", &format!("{APART}\n{begin}{make}")), 0);
        assert_eq!(found("0009_more.up.sql", &format!("{APART}\n{make}")), 1);
        assert_eq!(found("0009_more.up.sql", &format!("{begin}{make}")), 2, "in a transaction");
    }

    #[test]
    fn a_column_may_be_required_once_a_check_was_validated() {
        let mut proven = BTreeSet::new();
        let check = "ALTER TABLE things ADD CONSTRAINT named CHECK (name IS NOT NULL) NOT VALID;";
        let validate = "ALTER TABLE things VALIDATE CONSTRAINT named;";
        let require = "ALTER TABLE things ALTER COLUMN name SET NOT NULL;";
        assert_eq!(findings("0001_a.up.sql", check, &mut proven).len(), 0);
        assert_eq!(findings("0002_b.up.sql", require, &mut proven).len(), 1, "not yet");
        assert_eq!(findings("0002_b.up.sql", validate, &mut proven).len(), 0);
        assert_eq!(findings("0003_c.up.sql", require, &mut proven).len(), 0);
        assert_eq!(found("0001_a.up.sql", &format!("{check}{validate}")), 1, "in one transaction");
    }

    #[test]
    fn every_step_has_its_way_back_and_its_number() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(pairs(&names(&["0001_a.down.sql", "0001_a.up.sql"])), Vec::<String>::new());
        assert_eq!(pairs(&names(&["0001_a.up.sql"])).len(), 1);
        assert_eq!(pairs(&names(&["0002_a.up.sql", "0002_a.down.sql"])).len(), 1);
        assert_eq!(pairs(&names(&["0001_a.pg.up.sql", "0001_a.pg.down.sql"])).len(), 1);
    }
    #[test]
    fn a_contract_is_the_last_of_its_release() {
        let names = ["0001_a.up.sql", "0002_contract_b.up.sql", "0003_c.up.sql"].map(str::to_owned);
        assert_eq!(order(&names, 0).len(), 1);
        assert_eq!(order(&names, 2), Vec::<String>::new(), "of the release before");
        assert_eq!(order(&names[..2], 1), Vec::<String>::new());
    }
}
