//! What commands print: JSON as the platform sent it, or tables for people.

use std::io::Write;

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// For programs, or for people.
#[derive(Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// JSON where `json`.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether it is JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One thing: its fields below each other.
    pub fn thing(self, value: &Value, fields: &[&str]) {
        if self.json {
            return line(&format!("{value:#}"));
        }
        let width = fields.iter().map(|field| field.len()).max().unwrap_or(0);
        for field in fields {
            line(&format!("{field:<width$}  {}", cell(&value[*field])));
        }
    }

    /// A page of things: a row each.
    ///
    /// # Errors
    /// Where it is none: something that has other things in it must not look like nothing.
    pub fn page(self, value: &Value, columns: &[&str]) -> Result<()> {
        let items = value["items"].as_array().context("the answer has no items")?;
        if self.json {
            line(&format!("{value:#}"));
            return Ok(());
        }
        if items.is_empty() {
            line("none");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(columns.iter().map(|column| column.to_uppercase()));
        for item in items {
            table.add_row(columns.iter().map(|column| cell(&item[*column])));
        }
        line(&table.to_string());
        if let Some(cursor) = value["next_cursor"].as_str() {
            line(&format!("There are more: --cursor {cursor}"));
        }
        Ok(())
    }

    /// A sentence for people; `value` for programs.
    pub fn done(self, value: &Value, sentence: &str) {
        line(&if self.json { format!("{value:#}") } else { sentence.to_owned() });
    }

    /// One of what comes one after the other: a line each.
    pub fn news(self, value: &Value, sentence: &str) {
        line(&if self.json { value.to_string() } else { sentence.to_owned() });
    }
}

/// Prints a line. A reader that has gone away (`| head`) is no failure.
pub fn line(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

/// Prints text as it is, at once. A reader that has gone away is no failure here either.
pub fn text(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

/// Tells a person something beside what is printed.
pub fn aside(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").ok();
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // What others wrote must not steer the terminal.
        Value::String(text) => text.chars().filter(|character| !character.is_control()).collect(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
