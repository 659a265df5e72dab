//! Pages of a list: `limit`, `cursor`, `next_cursor`. A cursor is the id of the last thing seen, so it never expires.

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a page holds where the caller does not say.
pub const DEFAULT_LIMIT: u32 = 50;
/// What a page holds at the most.
pub const MAX_LIMIT: u32 = 200;

/// Which part of a list is wanted.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// At most so many, 1 to [`MAX_LIMIT`].
    pub limit: u32,
    /// Only what comes after this id.
    pub after: Option<String>,
}

impl PageRequest {
    /// Checks what a caller sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a limit out of range and for a cursor that we did not make.
    pub fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, Error> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid("limit", format!("must be 1 to {MAX_LIMIT}")));
        }
        let well_formed = |cursor: &str| {
            (1..=64).contains(&cursor.len()) && cursor.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match cursor {
            Some(cursor) if !well_formed(cursor) => {
                Err(Error::invalid("cursor", "is not one of ours: use `next_cursor` of the page before, unchanged"))
            }
            cursor => Ok(Self { limit, after: cursor.map(str::to_owned) }),
        }
    }

    /// The first page, as large as pages get.
    #[must_use]
    pub fn first() -> Self {
        Self { limit: MAX_LIMIT, after: None }
    }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// To be sent as `cursor` for what follows; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of what a query with `limit + 1` rows brought.
    #[must_use]
    pub fn from_rows(mut rows: Vec<T>, request: &PageRequest, id: impl Fn(&T) -> String) -> Self {
        let limit = request.limit as usize;
        let next_cursor = if rows.len() > limit {
            rows.truncate(limit);
            rows.last().map(id)
        } else {
            None
        };
        Self { items: rows, next_cursor }
    }

    /// The same page of something else.
    #[must_use]
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(change).collect(), next_cursor: self.next_cursor }
    }
}
