//! `errors`: every code that the API answers with, as it is committed in `docs/errors.md`.

use std::fmt::Write as _;

use astrfleet_server::problem::CODES;
use serde_json::{Value, json};

use crate::output::{line, text};

/// Prints them: a table in Markdown, or JSON.
pub fn run(json: bool) {
    if json {
        let all = CODES.iter().map(|(code, status, about)| described(code, *status, about)).collect();
        line(&format!("{:#}", Value::Array(all)));
    } else {
        text(&table());
    }
}

fn described(code: &str, status: u16, about: &str) -> Value {
    json!({"code": code, "status": status, "about": about})
}

fn table() -> String {
    let mut table = String::from("| code | status | what it means, and what to do |\n|---|---|---|\n");
    for (code, status, about) in CODES {
        let _ = writeln!(table, "| `{code}` | {status} | {} |", about.replace('|', "\\|"));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CODES, table};

    #[test]
    fn every_code_has_one_row() {
        let codes: BTreeSet<&str> = CODES.iter().map(|(code, ..)| *code).collect();
        assert_eq!((codes.len(), table().lines().count()), (CODES.len(), CODES.len() + 2));
        assert!(table().contains("| `not_found` | 404 | "));
    }
}
