//! One object on its way in. It is visible when it is finished; given up or dropped, its parts are deleted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, Result, aws::AmazonS3, path::Path};
use tokio::{runtime::Handle, task::JoinSet, time::timeout};

/// Parts that are on their way at the same time.
const PARTS_AT_ONCE: usize = 2;
/// The first parts. S3 takes none under 5 MiB but the last; three of them are in memory, and each has to be taken within
/// `blobs.timeout_s`.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// After so many parts they grow by the size of the first, since S3 takes 10,000: together these are 429 GiB. All are of
/// one size, on which some storages insist, in everything up to 8 GB.
const PARTS_OF_ONE_SIZE: usize = 1_000;
/// How long deleting the parts may take; after that they are left to the bucket's own rule.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(30);

/// Takes content until it is finished.
pub(super) struct Upload {
    store: Arc<AmazonS3>,
    path: Path,
    /// Parts that were sent.
    parts: usize,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Once there is more than one part.
    begun: Option<Box<dyn MultipartUpload>>,
    on_their_way: JoinSet<Result<()>>,
}

impl Upload {
    pub(super) fn new(store: Arc<AmazonS3>, path: Path) -> Self {
        let on_their_way = JoinSet::new();
        Self { store, path, parts: 0, waiting: Vec::new(), waiting_bytes: 0, begun: None, on_their_way }
    }

    /// Takes more, and waits while too much is on its way.
    pub(super) async fn take(&mut self, mut piece: Bytes) -> Result<()> {
        while self.waiting_bytes + piece.len() > part_bytes(self.parts) {
            let rest = piece.split_off(part_bytes(self.parts) - self.waiting_bytes);
            self.keep(piece);
            self.send().await?;
            piece = rest;
        }
        self.keep(piece);
        Ok(())
    }

    /// Makes it visible, whole.
    pub(super) async fn finish(mut self) -> Result<()> {
        if self.begun.is_none() {
            let whole = std::mem::take(&mut self.waiting).into_iter().collect::<PutPayload>();
            return self.store.put(&self.path, whole).await.map(|_| ());
        }
        if self.waiting_bytes > 0 {
            self.send().await?;
        }
        while let Some(sent) = self.on_their_way.join_next().await {
            arrived(sent)?;
        }
        if let Some(begun) = &mut self.begun {
            begun.complete().await?;
        }
        self.begun = None;
        Ok(())
    }

    /// Deletes what has been sent.
    pub(super) async fn give_up(mut self) {
        self.on_their_way.shutdown().await;
        if let Some(begun) = self.begun.take() {
            abort(begun).await;
        }
    }

    fn keep(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.waiting_bytes += piece.len();
            self.waiting.push(piece);
        }
    }

    async fn send(&mut self) -> Result<()> {
        let begun = match &mut self.begun {
            Some(begun) => begun,
            none => none.insert(self.store.put_multipart(&self.path).await?),
        };
        let part = std::mem::take(&mut self.waiting).into_iter().collect::<PutPayload>();
        self.waiting_bytes = 0;
        self.parts += 1;
        let sending = begun.put_part(part);
        self.on_their_way.spawn(sending);
        while self.on_their_way.len() >= PARTS_AT_ONCE {
            if let Some(sent) = self.on_their_way.join_next().await {
                arrived(sent)?;
            }
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Also where whoever sent it has gone away, and nobody waits for us any more.
        if let (Some(begun), Ok(runtime)) = (self.begun.take(), Handle::try_current()) {
            self.on_their_way.abort_all();
            runtime.spawn(abort(begun));
        }
    }
}

/// The size of the part after so many.
fn part_bytes(parts: usize) -> usize {
    PART_BYTES * (1 + parts / PARTS_OF_ONE_SIZE)
}

fn arrived(sent: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    sent.unwrap_or_else(|error| Err(object_store::Error::JoinError { source: error }))
}

async fn abort(mut begun: Box<dyn MultipartUpload>) {
    match timeout(GIVE_UP_LIMIT, begun.abort()).await {
        Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => {}
        Ok(Err(error)) => tracing::warn!(%error, "parts of an unfinished upload stay in the bucket"),
        Err(_) => tracing::warn!("parts of an unfinished upload stay in the bucket: deleting them took too long"),
    }
}

#[cfg(test)]
mod tests {
    use super::part_bytes;

    const MIB: usize = 1024 * 1024;

    #[test]
    fn parts_are_small_until_there_are_many() {
        let sizes: Vec<usize> = (0..10_000).map(part_bytes).collect();
        assert_eq!((sizes[0], sizes[999]), (8 * MIB, 8 * MIB), "8 GB of one size");
        assert!(sizes.is_sorted() && sizes[9_999] <= 80 * MIB);
        assert!(sizes.iter().sum::<usize>() > 400 * 1024 * MIB, "as many as S3 takes hold a large export");
    }
}
