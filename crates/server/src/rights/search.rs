//! Search in what was said, and the loop `rights.index`, which makes it quick for tenants with a long history.
//!
//! Messages that no block of the index holds yet are read one by one, so that what was said a moment ago is found; of the
//! others only the blocks that the index leads to. A page reads no more than [`READ_MAX`] messages: where that was not
//! enough, it is short, even empty, and has a cursor nevertheless.

use std::{collections::BTreeSet, time::Duration};

use astrfleet_core::{
    Result,
    id::{MessageId, TenantId},
    page::{Page, PageRequest},
    ports::{NewSearchBlock, Search},
    search::{BLOCK_MESSAGES, BLOCK_WORDS, Found, Query, bucketed, words},
};

use crate::{app::App, loops::Loop, problem::chain};

/// Messages that are read for one page, at the most, and some hundreds more.
const READ_MAX: usize = 20_000;
/// Messages that are read at once: each has at most 32 KiB.
const CHUNK: u32 = 128;
/// Blocks that are looked up at once.
const BLOCKS: u32 = 64;
/// Before all ids of messages, and behind them.
const BEFORE_ALL: &str = "msg_";
const AFTER_ALL: &str = "msg_g";
/// Younger messages are in no block: an answer gets its id before it is whole, and clocks differ.
const SETTLED_AFTER: Duration = Duration::from_hours(1);
const PERIOD: Duration = Duration::from_mins(5);
/// Blocks that one run makes for one tenant, at the most: others have their turn too.
const BLOCKS_PER_RUN: u64 = 64;

/// One page on its way.
struct Reader<'a> {
    rows: Box<dyn Search>,
    query: &'a Query,
    /// How many are wanted.
    limit: usize,
    found: Vec<Found>,
    read: usize,
    /// The oldest message that was judged, or what sorts behind the next one to be.
    reached: String,
}

impl Reader<'_> {
    /// Judges the messages from `from` on that were not judged yet. Returns whether there may be more to do.
    async fn read(&mut self, from: &str) -> Result<bool> {
        loop {
            let said = self.rows.newest(from, &self.reached, CHUNK).await?;
            let last = said.len() < CHUNK as usize;
            self.read += said.len();
            for one in said {
                one.id.as_str().clone_into(&mut self.reached);
                self.found.extend(one.found(self.query));
                if self.found.len() == self.limit {
                    return Ok(false);
                }
            }
            if last {
                return Ok(true);
            }
            if self.read >= READ_MAX {
                return Ok(false);
            }
        }
    }
}

/// A page of the messages of `tenant` in which `query` is found, the newest first.
pub(super) async fn search(app: &App, tenant: &TenantId, query: &Query, page: &PageRequest) -> Result<Page<Found>> {
    let rows = app.store.search(tenant);
    let indexed_to = rows.indexed_to().await?;
    let mut reader = Reader {
        rows,
        query,
        limit: page.limit as usize,
        found: Vec::new(),
        read: 0,
        reached: page.after.clone().unwrap_or_else(|| AFTER_ALL.to_owned()),
    };
    let mut more = reader.read(indexed_to.as_ref().map_or(BEFORE_ALL, MessageId::as_str)).await?;
    let probes = query.probes();
    let mut blocks_are_left = indexed_to.is_some();
    while more && blocks_are_left {
        let blocks = reader.rows.blocks(&probes, &reader.reached, BLOCKS).await?;
        blocks_are_left = blocks.len() == BLOCKS as usize;
        for block in blocks {
            // Between this block and the one that was read before it, there is nothing to be found.
            let behind = format!("{}0", block.last);
            if behind < reader.reached {
                reader.reached = behind;
            }
            more = reader.read(block.first.as_str()).await?;
            if !more {
                break;
            }
            reader.reached = block.first.to_string();
        }
    }
    let next_cursor = (!more).then_some(reader.reached);
    Ok(Page { items: reader.found, next_cursor })
}

pub(super) fn index(app: &App) -> Loop {
    let app = app.clone();
    Loop::every("rights.index", PERIOD, move || {
        let app = app.clone();
        async move { run(&app).await }
    })
}

/// Returns how many blocks it made. A tenant that cannot be indexed does not keep the others.
async fn run(app: &App) -> Result<u64> {
    let edge = MessageId::edge(app.clock.now().minus(SETTLED_AFTER));
    let (mut made, mut page) = (0, PageRequest::first());
    loop {
        let tenants = app.store.tenants().list(&page).await?;
        for tenant in &tenants.items {
            match index_tenant(&*app.store.search(&tenant.id), &edge).await {
                Ok(blocks) => made += blocks,
                Err(error) => {
                    tracing::warn!(tenant_id = %tenant.id, error = chain(&error), "a history could not be indexed yet");
                }
            }
        }
        match tenants.next_cursor {
            Some(cursor) if !app.stop.is_cancelled() => page.after = Some(cursor),
            _ => return Ok(made),
        }
    }
}

async fn index_tenant(rows: &dyn Search, edge: &str) -> Result<u64> {
    for made in 0..BLOCKS_PER_RUN {
        let indexed_to = rows.indexed_to().await?;
        let begin = indexed_to.as_ref().map_or(BEFORE_ALL, MessageId::as_str);
        if !rows.has(begin, edge, BLOCK_MESSAGES).await? {
            return Ok(made);
        }
        let Some(block) = read_block(rows, begin, edge).await? else { return Ok(made) };
        rows.add(&block).await?;
    }
    Ok(BLOCKS_PER_RUN)
}

/// The words of the messages after `begin`.
async fn read_block(rows: &dyn Search, begin: &str, edge: &str) -> Result<Option<NewSearchBlock>> {
    let (mut first, mut last) = (None, None::<MessageId>);
    let (mut known, mut count) = (BTreeSet::new(), 0);
    while count < BLOCK_MESSAGES && known.len() < BLOCK_WORDS {
        let after = last.as_ref().map_or(begin, MessageId::as_str).to_owned();
        let said = rows.oldest(&after, edge, CHUNK.min(BLOCK_MESSAGES - count)).await?;
        if said.is_empty() {
            break;
        }
        for one in said {
            known.extend(words(&one.text));
            first.get_or_insert_with(|| one.id.clone());
            last = Some(one.id);
            count += 1;
        }
    }
    Ok(first.zip(last).map(|(first, last)| NewSearchBlock { first, last, buckets: bucketed(&known) }))
}
