//! A statement that failed, and what that is in the words of the core. No statement is known here.

use std::{error::Error as StdError, fmt};

use astrfleet_core::Error;
use sqlx::error::{DatabaseError, ErrorKind};

use crate::{dialect, statement::Statement};

/// What there is too little of, in the words of an error.
pub(crate) const STORAGE: &str = "storage";
/// The same, and why.
pub(crate) const DISK_FULL: &str = "storage (its disk is full)";

/// A statement that failed. `?` makes it an [`Error`]; whoever expects a violation asks first.
pub(crate) struct Failed {
    statement: &'static Statement,
    source: sqlx::Error,
}

impl Failed {
    /// Of `statement`.
    pub(crate) fn new(statement: &'static Statement, source: sqlx::Error) -> Self {
        Self { statement, source }
    }

    /// Whether the rows are to blame, so that others might do.
    pub(crate) fn is_about_a_row(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_about_a_row)
    }

    /// Whether the connection is of no more use.
    pub(crate) fn is_disconnect(&self) -> bool {
        match &self.source {
            sqlx::Error::Database(error) => dialect::is_disconnect(error.as_ref()),
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
            _ => false,
        }
    }

    /// Whether no answer came in time.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self.source, sqlx::Error::PoolTimedOut)
    }

    /// Whether the server cannot be written to any more, though it answers.
    pub(crate) fn is_demoted(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_demoted)
    }

    /// Whether the database does not let us.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_forbidden)
    }

    /// Whether somebody held a table for longer than we wait.
    pub(crate) fn is_locked(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_locked)
    }

    /// Whether there is no such table.
    pub(crate) fn is_missing_table(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_missing_table)
    }

    /// Whether there is no such function.
    pub(crate) fn is_missing_function(&self) -> bool {
        self.source.as_database_error().is_some_and(dialect::is_missing_function)
    }

    /// Whether nothing of its transaction was kept, so that the same may be tried again. Only what failed before the
    /// `COMMIT` was sent: after that nobody knows.
    pub(crate) fn may_be_tried_again(&self) -> bool {
        let undone = self.source.as_database_error().is_some_and(dialect::is_undone);
        undone || (self.is_disconnect() && self.statement.name != crate::statement::COMMIT.name)
    }

    /// Whether a row with the same `column` stands in `table` already.
    pub(crate) fn is_taken(&self, table: &str, column: &str) -> bool {
        self.violation(&ErrorKind::UniqueViolation).is_some_and(|violation| {
            // PostgreSQL names the constraint, SQLite the columns.
            violation.constraint() == Some(format!("{table}_{column}_key").as_str())
                || violation.message().contains(&format!("{table}.{column}"))
        })
    }

    /// [`Error::NotFound`] of `what` where it refers to a row that is not there.
    pub(crate) fn or_missing(self, what: &'static str) -> Error {
        match self.violation(&ErrorKind::ForeignKeyViolation) {
            Some(_) => Error::NotFound { what },
            None => self.into(),
        }
    }

    fn violation(&self, kind: &ErrorKind) -> Option<&dyn DatabaseError> {
        self.source.as_database_error().filter(|error| error.kind() == *kind)
    }
}

/// The one place where an engine's failure becomes ours.
impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        use sqlx::Error as E;
        match &failed.source {
            E::RowNotFound => Self::NotFound { what: failed.statement.what },
            E::Database(error) if dialect::is_disk_full(error.as_ref()) => Self::unavailable(DISK_FULL, failed),
            // A row of another tenant, or no right to the table: neither is the caller's doing.
            E::Database(error) if dialect::is_forbidden(error.as_ref()) => Self::internal(failed),
            // It will not hold it the next time either.
            E::Database(error) if dialect::is_about_a_value(error.as_ref()) => Self::internal(failed),
            E::Database(error) if matches!(error.kind(), ErrorKind::CheckViolation | ErrorKind::NotNullViolation) => {
                Self::internal(failed)
            }
            E::ColumnDecode { .. } | E::ColumnNotFound(_) | E::ColumnIndexOutOfBounds { .. } | E::Encode(_) => {
                Self::internal(failed)
            }
            _ => Self::unavailable(STORAGE, failed),
        }
    }
}

impl StdError for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "statement {}: ", self.statement.name)?;
        match &self.source {
            sqlx::Error::PoolTimedOut => formatter.write_str(
                "no connection became free in time: the server does not answer, statements are slow, or \
                 database.max_connections is too low",
            ),
            source => fmt::Display::fmt(source, formatter),
        }
    }
}

/// The same: an engine's own `Debug` repeats the row that it refused, with all that is in it.
impl fmt::Debug for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}
