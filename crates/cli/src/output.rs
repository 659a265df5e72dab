//! What commands print: JSON as the platform sent it, or tables for people.

use std::io::Write;

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
    pub fn page(self, value: &Value, columns: &[&str]) {
        if self.json {
            return line(&format!("{value:#}"));
        }
        let empty = Vec::new();
        let items = value["items"].as_array().unwrap_or(&empty);
        if items.is_empty() {
            return line("none");
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
    }

    /// A sentence for people; `value` for programs.
    pub fn done(self, value: &Value, sentence: &str) {
        line(&if self.json { format!("{value:#}") } else { sentence.to_owned() });
    }
}

/// Prints a line. A reader that has gone away (`| head`) is no failure.
pub fn line(text: &str) {
    writeln!(std::io::stdout().lock(), "{text}").ok();
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
