//! What a migration may do to a PostgreSQL database that is in use: nothing that keeps everybody else waiting, and
//! nothing that the program of the release before cannot live with. Judged by its words, statement by statement, those of
//! a `DO` and what it executes as text among them; what a script has made itself is empty and nobody's, so that anything
//! may be done to it. Not judged: what functions do when they are called, and the ways back, for which the platform is
//! stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

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
    let mut history = History::default();
    for name in names.iter().filter(|name| name.ends_with(".up.sql") && !name.ends_with(".sqlite.up.sql")) {
        let text = fs::read_to_string(folder.join(name)).with_context(|| format!("cannot read {name}"))?;
        wrong.extend(findings(name, &text, &mut history));
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

/// What earlier scripts have done.
#[derive(Debug, Default)]
struct History {
    /// Tables that they made: in use by now.
    tables: BTreeSet<String>,
    /// Which column a check keeps from being empty (`table.column`), by the check's name. It holds for new rows alone.
    checks: BTreeMap<String, String>,
    /// Columns of which that is proven for all rows.
    proven: BTreeSet<String>,
}

/// What is right though its words are not: the script, how the statement begins, and why.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    (
        "0016_contract_messages_by_month.pg.up.sql",
        "ALTER TABLE MESSAGES RENAME TO MESSAGES_BEGIN",
        "another table takes the name in the same transaction",
    ),
    ("0016_contract_messages_by_month.pg.up.sql", "ALTER INDEX", "nobody knows an index by its name"),
];

/// Looks at one script.
fn findings(name: &str, text: &str, history: &mut History) -> Vec<String> {
    let apart = text.starts_with(APART);
    let contracts = contracts(name);
    let statements = statements(text);
    let made: BTreeSet<&str> = statements.iter().filter_map(|words| made_table(words)).collect();
    // Names that the script has given another table: what was there before is not under them any more.
    let mut free = BTreeSet::new();
    let is_own = |table: &str, free: &BTreeSet<&str>| {
        made.contains(table) && (free.contains(table) || !history.tables.contains(table))
    };
    let alters = statements.iter().any(|words| {
        let statement = Words(words);
        statement.begins("ALTER TABLE") && !statement.has("VALIDATE") && !is_own(altered_table(words), &free)
    });
    let mut dropped = BTreeSet::new();
    let mut checks = BTreeMap::new();
    let mut proven = BTreeSet::new();
    let mut wrong = Vec::new();
    for words in &statements {
        let statement = Words(words);
        let alters_own = is_own(altered_table(words), &free);
        if statement.has("RENAME TO") && statement.begins("ALTER TABLE") {
            free.insert(altered_table(words));
        }
        if EXCEPTIONS.iter().any(|(script, begin, _)| *script == name && statement.begins(begin)) {
            continue;
        }
        let mut refuse = |reason: &str| wrong.push(format!("{name}: `{}`: {reason}", shown(words)));
        let concurrently = statement.has("CONCURRENTLY");
        if concurrently && !apart {
            refuse("CONCURRENTLY is not possible in a transaction: begin the script with `-- apart: no transaction`");
        }
        if statement.begins("CREATE INDEX") || statement.begins("CREATE UNIQUE INDEX") {
            let table = statement.after("ON").unwrap_or_default();
            if !concurrently && !is_own(table, &free) {
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
            ("ALTER INDEX", "keeps everybody waiting for the table"),
        ] {
            if statement.begins(begin) {
                refuse(reason);
            }
        }
        if statement.begins("REFRESH MATERIALIZED VIEW") && !concurrently {
            refuse("keeps readers waiting: CONCURRENTLY");
        }
        let drops = ["TABLE", "VIEW", "MATERIALIZED VIEW", "FUNCTION", "PROCEDURE", "TRIGGER", "TYPE", "SEQUENCE"];
        if drops.iter().any(|what| statement.begins(&format!("DROP {what}"))) && !contracts {
            refuse("the program before this one may use it: only in a step named NNNN_contract_…");
        }
        if alters && !apart && moved_table(words).is_some_and(|table| !is_own(table, &free)) {
            refuse("moves rows while everybody waits for what the script has altered: in a step of its own");
        }
        if statement.begins("ALTER TABLE") && !alters_own {
            let table = altered_table(words);
            let column = |column: &str| format!("{table}.{column}");
            for reason in altered(&statement, contracts) {
                refuse(reason);
            }
            if statement.has("SET NOT NULL") {
                let emptied = statement.after("COLUMN").or_else(|| statement.after("ALTER TABLE")).unwrap_or_default();
                if !history.proven.contains(&column(emptied)) {
                    refuse(
                        "reads the whole table while everybody waits: add CHECK (… IS NOT NULL) NOT VALID and VALIDATE it first",
                    );
                }
            }
            if let (Some(check), Some(kept)) = (statement.after("ADD CONSTRAINT"), statement.before("IS NOT NULL")) {
                checks.insert(check.to_owned(), column(kept));
            }
            if let Some(check) = statement.after("VALIDATE CONSTRAINT") {
                if checks.contains_key(check) {
                    refuse("in the same transaction as the constraint it keeps everybody waiting: in a later step");
                }
                proven.extend(history.checks.get(check).cloned());
            }
        }
    }
    history.tables.extend(made.into_iter().map(str::to_owned));
    history.checks.extend(checks);
    history.proven.extend(proven);
    wrong
}

/// What is wrong with an `ALTER TABLE` of a table that is in use, whatever came before.
fn altered(statement: &Words<'_>, contracts: bool) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    if statement.has("RENAME") {
        wrong.push("the program before this one knows the old name: add, move, and drop in a later release");
    }
    if statement.has_but_for("DROP", &["CONSTRAINT", "DEFAULT", "NOT", "EXPRESSION", "IDENTITY"]) && !contracts {
        wrong.push("the program before this one may use it: only in a step named NNNN_contract_…");
    }
    if statement.has("TYPE") && statement.has("ALTER") {
        wrong.push("writes the whole table anew while everybody waits: add a column, move, and drop the old one");
    }
    if statement.has_but_for("ADD", &["CONSTRAINT", "CHECK", "FOREIGN", "UNIQUE", "PRIMARY", "EXCLUDE"]) {
        if statement.has("NOT NULL") && !statement.has("DEFAULT") && !statement.has("GENERATED") {
            wrong.push("fails where there are rows, and the program before this one leaves it out: give it a DEFAULT");
        }
        if ["STORED", "SERIAL", "BIGSERIAL", "SMALLSERIAL", "IDENTITY"].iter().any(|word| statement.has(word))
            || statement.after("DEFAULT").is_some_and(|value| VOLATILE.contains(&value))
        {
            wrong.push("writes the whole table anew while everybody waits: add it empty, and fill it in a later step");
        }
        if statement.has("CHECK") || statement.has("REFERENCES") {
            wrong.push("reads the whole table while everybody waits: ADD CONSTRAINT … NOT VALID apart from the column");
        }
    } else if (statement.has("CHECK") || statement.has("FOREIGN KEY"))
        && statement.has("ADD")
        && !statement.has("NOT VALID")
    {
        wrong.push("reads the whole table while everybody waits: NOT VALID, and VALIDATE CONSTRAINT in a later step");
    }
    if (statement.has("UNIQUE") || statement.has("PRIMARY KEY"))
        && statement.has("ADD")
        && !statement.has("USING INDEX")
    {
        wrong.push("keeps everybody waiting while it makes an index: make it CONCURRENTLY, then ADD … USING INDEX");
    }
    if statement.has("EXCLUDE") {
        wrong.push("keeps everybody waiting while it makes an index, and there is no way around that");
    }
    if statement.has("ATTACH PARTITION") {
        wrong.push("reads the whole partition while everybody waits, unless a validated check says what is in it");
    }
    if ["SET TABLESPACE", "SET LOGGED", "SET UNLOGGED", "SET ACCESS METHOD"].iter().any(|words| statement.has(words)) {
        wrong.push("writes the whole table anew while everybody waits");
    }
    wrong
}

/// Functions that give another value for each row: a column with one as its default is written into every row.
const VOLATILE: [&str; 6] =
    ["GEN_RANDOM_UUID", "RANDOM", "CLOCK_TIMESTAMP", "NEXTVAL", "TIMEOFDAY", "UUID_GENERATE_V4"];

/// The words of one statement: keywords and names in upper case, without quotes and brackets.
struct Words<'a>(&'a [String]);

impl<'a> Words<'a> {
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
    fn after(&self, text: &str) -> Option<&'a str> {
        let behind = self.at(text)? + text.split(' ').count();
        let mut words = self.0.get(behind..)?.iter().map(String::as_str);
        words.find(|word| !matches!(*word, "IF" | "NOT" | "EXISTS" | "ONLY"))
    }

    /// Whether `text` stands before a word that is none of `others`.
    fn has_but_for(&self, text: &str, others: &[&str]) -> bool {
        self.0.windows(2).any(|pair| pair[0] == text && !others.contains(&pair[1].as_str()))
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

/// The table in use of which a statement may touch every row.
fn moved_table(words: &[String]) -> Option<&str> {
    let statement = Words(words);
    if statement.begins("INSERT INTO") && !statement.has("SELECT") {
        return None;
    }
    let verb = ["UPDATE", "DELETE FROM", "INSERT INTO"].into_iter().find(|verb| statement.begins(verb))?;
    statement.after(verb)
}

/// Words of a `DO` after which a statement begins.
const OPENERS: [&str; 5] = ["DO", "BEGIN", "THEN", "ELSE", "LOOP"];

/// The statements of a script, each as its words. Comments are no words, bodies of functions neither; a text in quotes
/// is one that says nothing, but in a `DO`, where it may be executed.
fn statements(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    // Within a `DO`: a body in dollars.
    let mut does = false;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let skip = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let mut taken = character.len_utf8();
        match character {
            '-' if rest.starts_with("--") => taken = skip("\n", 2),
            '/' if rest.starts_with("/*") => taken = skip("*/", 2),
            '$' if dollars(rest).is_some() => {
                finish(&mut word, &mut words);
                let quote = dollars(rest).unwrap_or_default();
                taken = quote.len();
                if does || words.last().is_some_and(|word| word == "DO") {
                    does = !does;
                } else {
                    taken = skip(quote, taken);
                }
            }
            '\'' => {
                taken = skip("'", 1);
                finish(&mut word, &mut words);
                if does {
                    all.extend(self::statements(rest[1..taken].trim_end_matches('\'')));
                }
                words.push("''".to_owned());
            }
            ';' => {
                finish(&mut word, &mut words);
                all.push(std::mem::take(&mut words));
            }
            character if character.is_alphanumeric() || character == '_' || character == '.' => {
                word.extend(character.to_uppercase());
                rest = &rest[taken..];
                continue;
            }
            _ => {}
        }
        finish(&mut word, &mut words);
        if does && words.last().is_some_and(|word| OPENERS.contains(&word.as_str())) {
            words.clear();
        }
        rest = &rest[taken..];
    }
    finish(&mut word, &mut words);
    all.push(words);
    all.retain(|words| !words.is_empty());
    all
}

/// The `$$` or `$name$` that a text begins with.
fn dollars(text: &str) -> Option<&str> {
    let end = text[1..].find('$')? + 2;
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    text[1..end - 1].chars().all(is_name).then(|| &text[..end])
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
        findings(name, text, &mut History::default()).len()
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
            "/* CREATE TABLE things (); */ LOCK TABLE things;",
            "DO $$ BEGIN LOCK TABLE things; END $$;",
            "DO $$ BEGIN IF TRUE THEN ALTER TABLE things ADD CONSTRAINT once UNIQUE (name); END IF; END $$;",
            "DO $name$ BEGIN EXECUTE format('LOCK TABLE %I', 'things'); END $name$;",
            "ALTER TABLE things ADD name TEXT NOT NULL;",
            "ALTER TABLE things ADD COLUMN key UUID DEFAULT gen_random_uuid();",
            "ALTER TABLE things ADD COLUMN twice BIGINT GENERATED ALWAYS AS (number * 2) STORED;",
            "ALTER TABLE things ADD COLUMN number BIGSERIAL;",
            "ALTER TABLE things ADD COLUMN number BIGINT CHECK (number > 0);",
            "ALTER TABLE things ADD COLUMN owner TEXT REFERENCES owners (id);",
            "ALTER TABLE things ADD EXCLUDE USING gist (span WITH &&);",
            "ALTER TABLE things ATTACH PARTITION one FOR VALUES IN (1);",
            "ALTER TABLE things SET ACCESS METHOD heap2;",
            "ALTER INDEX things_name RENAME TO names;",
            "REFRESH MATERIALIZED VIEW things;",
            "ALTER TABLE things ADD COLUMN kind TEXT; UPDATE things SET kind = 'x';",
        ] {
            assert_eq!(found("0009_more.up.sql", text), 1, "{text}");
        }
    }

    #[test]
    fn what_the_program_before_cannot_live_with_is_refused_until_a_contract() {
        for text in [
            "ALTER TABLE things DROP COLUMN name;",
            "ALTER TABLE things DROP name;",
            "DROP TABLE things;",
            "DROP VIEW things;",
            "DROP FUNCTION thing;",
            "DROP TRIGGER thing ON things;",
        ] {
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
        let mut history = History::default();
        assert_eq!(findings("0009_more.up.sql", text, &mut history).len(), 0);
        assert_eq!(findings("0010_again.up.sql", text, &mut history).len(), 2, "it was there already");
    }

    #[test]
    fn what_nobody_waits_for_is_allowed() {
        let text = "ALTER TABLE things ADD COLUMN name TEXT; -- DROP TABLE things;
                    ALTER TABLE things ADD COLUMN kind TEXT NOT NULL DEFAULT 'DROP TABLE things;';
                    ALTER TABLE things ADD CONSTRAINT known CHECK (name <> '') NOT VALID;
                    ALTER TABLE things ENABLE ROW LEVEL SECURITY; ALTER TABLE things DROP CONSTRAINT known;
                    CREATE FUNCTION later() RETURNS void LANGUAGE plpgsql AS $$ BEGIN LOCK TABLE things; END $$;
                    INSERT INTO things (name) VALUES ('one');";
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
        let mut history = History::default();
        let check = "ALTER TABLE things ADD CONSTRAINT named CHECK (name IS NOT NULL) NOT VALID;";
        let validate = "ALTER TABLE things VALIDATE CONSTRAINT named;";
        let require = "ALTER TABLE things ALTER COLUMN name SET NOT NULL;";
        assert_eq!(findings("0001_a.up.sql", check, &mut history).len(), 0);
        assert_eq!(findings("0002_b.up.sql", require, &mut history).len(), 1, "not yet");
        assert_eq!(findings("0002_b.up.sql", validate, &mut history).len(), 0);
        assert_eq!(findings("0003_c.up.sql", require, &mut history).len(), 0);
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
