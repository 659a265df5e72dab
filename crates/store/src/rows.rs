//! Statements that write many rows at once: `INSERT … VALUES (…), (…), …`, one text for each number of rows, so that
//! each is prepared once.

use std::sync::{Arc, LazyLock};

use crate::scope::SETTING;

/// Rows in one statement, at the most. More gained nothing where it was measured.
pub(crate) const MAX_ROWS: usize = 64;

/// The texts of one statement for 1 to [`MAX_ROWS`] rows.
pub(crate) type Texts = LazyLock<Vec<Arc<str>>>;

/// Writes the texts: `head`, so many rows of `columns` numbered placeholders, `tail`.
pub(crate) fn texts(head: &str, columns: usize, tail: &str) -> Vec<Arc<str>> {
    (1..=MAX_ROWS).map(|rows| text(head, columns, rows, tail).into()).collect()
}

/// The same for SQLite alone, with placeholders that have no number: it looks for a numbered one among all that there
/// are, once for each, which took a tenth of the time of all that counting calls of models takes.
pub(crate) fn unnumbered_texts(head: &str, columns: usize, tail: &str) -> Vec<Arc<str>> {
    let row = format!("({})", vec!["?"; columns].join(", "));
    (1..=MAX_ROWS).map(|rows| format!("{head} VALUES {} {tail}", vec![&*row; rows].join(", ")).into()).collect()
}

/// The same for PostgreSQL, with one parameter more at the end: the list of those whose rows they are. It becomes the
/// scope of the statement before there is any row.
pub(crate) fn scoped_texts(head: &str, columns: usize, tail: &str) -> Vec<Arc<str>> {
    let scoped = |rows: usize| {
        let list = rows * columns + 1;
        let values = text("", columns, rows, "");
        format!(
            "{head} SELECT * FROM ({}) AS said WHERE (SELECT set_config('{SETTING}', ${list}, true)) IS NOT NULL {tail}",
            values.trim()
        )
    };
    (1..=MAX_ROWS).map(|rows| scoped(rows).into()).collect()
}

fn text(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    let row = |row: usize| {
        let placeholders: Vec<_> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", placeholders.join(", "))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    format!("{head} VALUES {} {tail}", rows.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{MAX_ROWS, scoped_texts, texts, unnumbered_texts};

    #[test]
    fn the_scope_is_the_last_parameter() {
        let texts = scoped_texts("INSERT INTO t (a, b)", 2, "ON CONFLICT DO NOTHING");
        assert_eq!(
            &*texts[1],
            "INSERT INTO t (a, b) SELECT * FROM (VALUES ($1, $2), ($3, $4)) AS said \
             WHERE (SELECT set_config('astrfleet.scope', $5, true)) IS NOT NULL ON CONFLICT DO NOTHING"
        );
    }

    #[test]
    fn each_row_has_placeholders_of_its_own() {
        let texts = texts("INSERT INTO t (a, b)", 2, "ON CONFLICT DO NOTHING");
        assert_eq!(texts.len(), MAX_ROWS);
        assert_eq!(&*texts[0], "INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        assert_eq!(&*texts[1], "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING");
    }

    #[test]
    fn sqlite_counts_placeholders_by_itself() {
        let texts = unnumbered_texts("INSERT INTO t (a, b)", 2, "ON CONFLICT DO NOTHING");
        assert_eq!(texts.len(), MAX_ROWS);
        assert_eq!(&*texts[1], "INSERT INTO t (a, b) VALUES (?, ?), (?, ?) ON CONFLICT DO NOTHING");
    }
}
