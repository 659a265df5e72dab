//! Statements that write many rows at once: `INSERT … VALUES (…), (…), …`, one text for each number of rows, so that
//! each is prepared once.

use std::sync::{Arc, LazyLock};

/// Rows in one statement, at the most. More gained nothing where it was measured.
pub(crate) const MAX_ROWS: usize = 64;

/// The texts of one statement for 1 to [`MAX_ROWS`] rows.
pub(crate) type Texts = LazyLock<Vec<Arc<str>>>;

/// Writes the texts.
pub(crate) fn many(text: impl Fn(usize) -> String) -> Vec<Arc<str>> {
    (1..=MAX_ROWS).map(|rows| text(rows).into()).collect()
}

/// Writes the texts: `head`, so many rows of `columns` numbered placeholders, `tail`.
pub(crate) fn texts(head: &str, columns: usize, tail: &str) -> Vec<Arc<str>> {
    many(|rows| format!("{head} VALUES {} {tail}", values(columns, rows)))
}

/// The same for SQLite alone, with placeholders that have no number: it looks for a numbered one among all that there
/// are, once for each, which took a tenth of the time of all that counting calls of models takes.
pub(crate) fn unnumbered_texts(head: &str, columns: usize, tail: &str) -> Vec<Arc<str>> {
    let row = format!("({})", vec!["?"; columns].join(", "));
    many(|rows| format!("{head} VALUES {} {tail}", vec![&*row; rows].join(", ")))
}

/// So many rows of `columns` numbered placeholders.
pub(crate) fn values(columns: usize, rows: usize) -> String {
    let row = |row: usize| {
        let placeholders: Vec<_> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", placeholders.join(", "))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    rows.join(", ")
}

#[cfg(test)]
mod tests {
    use super::{MAX_ROWS, texts, unnumbered_texts};

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
