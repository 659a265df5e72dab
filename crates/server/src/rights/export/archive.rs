//! An archive as it is written: a tar (POSIX ustar, with GNU's sizes for files of 8 GiB and more) under Zstandard, in
//! pieces, so that no more than a piece is ever held in memory. The last file in it is `manifest.json`, with the size and
//! the SHA-256 of all others.

use std::io::{self, Write as _};

use astrfleet_core::{Error, Result};
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

/// What is sent at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Zstandard's own default.
const LEVEL: i32 = 3;
const BLOCK: usize = 512;

/// A file of the archive, for its manifest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct File {
    /// Its path in the archive.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// In hex.
    pub sha256: String,
}

/// Being written.
pub(super) struct Archive {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    out: mpsc::Sender<io::Result<Bytes>>,
    /// Of what was sent.
    hash: Context,
    sent: u64,
    modified_s: u64,
    /// What is in it.
    pub files: Vec<File>,
    open: Option<Open>,
}

/// The file that is being written.
struct Open {
    name: String,
    bytes: u64,
    written: u64,
    hash: Context,
}

impl Archive {
    /// Sends its pieces to `out`. `modified_s`: the time of all files, in seconds since 1970.
    pub(super) fn new(out: mpsc::Sender<io::Result<Bytes>>, modified_s: u64) -> Result<Self> {
        let encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(PIECE_BYTES * 2), LEVEL);
        Ok(Self {
            encoder: encoder.map_err(Error::internal)?,
            out,
            hash: Context::new(&SHA256),
            sent: 0,
            modified_s,
            files: Vec::new(),
            open: None,
        })
    }

    /// Adds a whole file.
    pub(super) async fn file(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.begin(name, content.len() as u64).await?;
        self.piece(content).await?;
        self.end().await
    }

    /// Begins a file of this size.
    pub(super) async fn begin(&mut self, name: &str, bytes: u64) -> Result<()> {
        let header = header(name, bytes, self.modified_s)?;
        self.write(&header).await?;
        self.open = Some(Open { name: name.to_owned(), bytes, written: 0, hash: Context::new(&SHA256) });
        Ok(())
    }

    /// Adds to the file that was begun.
    pub(super) async fn piece(&mut self, content: &[u8]) -> Result<()> {
        let Some(open) = &mut self.open else { return Err(Error::internal("no file of the archive was begun")) };
        open.written += content.len() as u64;
        if open.written > open.bytes {
            return Err(Error::internal(format!("{} is larger than it was said to be", open.name)));
        }
        open.hash.update(content);
        self.write(content).await
    }

    /// Ends it.
    pub(super) async fn end(&mut self) -> Result<()> {
        let Some(open) = self.open.take() else { return Err(Error::internal("no file of the archive was begun")) };
        if open.written != open.bytes {
            return Err(Error::internal(format!("{} is smaller than it was said to be", open.name)));
        }
        let rest = usize::try_from(open.bytes % BLOCK as u64).unwrap_or(0);
        if rest > 0 {
            self.write(&[0; BLOCK][rest..]).await?;
        }
        self.files.push(File { name: open.name, bytes: open.bytes, sha256: hex(open.hash) });
        Ok(())
    }

    /// Ends the archive. Returns its size and the SHA-256 of all of it.
    pub(super) async fn finish(mut self) -> Result<(u64, String)> {
        self.write(&[0; BLOCK * 2]).await?;
        let rest = self.encoder.finish().map_err(Error::internal)?;
        self.hash.update(&rest);
        let size = self.sent + rest.len() as u64;
        self.out.send(Ok(rest.into())).await.map_err(|_| gone())?;
        Ok((size, hex(self.hash)))
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES));
            self.encoder.write_all(now).map_err(Error::internal)?;
            bytes = later;
            if self.encoder.get_ref().len() >= PIECE_BYTES {
                let piece = std::mem::take(self.encoder.get_mut());
                self.hash.update(&piece);
                self.sent += piece.len() as u64;
                self.out.send(Ok(piece.into())).await.map_err(|_| gone())?;
            }
        }
        Ok(())
    }
}

/// Whoever stores the archive has stopped: their own error says why.
fn gone() -> Error {
    Error::unavailable("the storage of files", "the archive is not taken any more")
}

pub(super) fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().fold(String::with_capacity(64), |text, byte| format!("{text}{byte:02x}"))
}

/// The header of a file, which nobody but its owner may read.
fn header(name: &str, bytes: u64, modified_s: u64) -> Result<[u8; BLOCK]> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).map_err(Error::internal)?;
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes);
    header.set_mtime(modified_s);
    header.set_cksum();
    Ok(*header.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use tokio::sync::mpsc;

    use super::Archive;

    #[tokio::test]
    async fn what_is_written_is_what_tar_and_zstd_read() {
        let (out, mut pieces) = mpsc::channel(1_000);
        let mut archive = Archive::new(out, 1_795_402_721).unwrap();
        archive.file("one.txt", b"eins").await.unwrap();
        archive.begin("two/large", 1_000_000).await.unwrap();
        for _ in 0..10 {
            archive.piece(&vec![7; 100_000]).await.unwrap();
        }
        archive.end().await.unwrap();
        archive.file("three", b"").await.unwrap();
        assert_eq!(archive.files[0].sha256, "bfd6b995588ec54ce16871bc82a7ac86dd43a2c22309ea68e479a50043683937");
        let (size, _) = archive.finish().await.unwrap();
        let mut whole = Vec::new();
        while let Some(piece) = pieces.recv().await {
            whole.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(whole.len() as u64, size);
        let mut read = tar::Archive::new(zstd::stream::read::Decoder::new(&*whole).unwrap());
        let mut files = Vec::new();
        for file in read.entries().unwrap() {
            let mut file = file.unwrap();
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            files.push((file.path().unwrap().display().to_string(), content));
        }
        let large = vec![7; 1_000_000];
        assert!(files == [("one.txt".into(), b"eins".into()), ("two/large".into(), large), ("three".into(), vec![])]);
    }

    #[test]
    fn a_file_may_be_larger_than_a_plain_tar_can_say() {
        let header = super::header("messages.jsonl", 20 << 30, 0).unwrap();
        assert_eq!(tar::Header::from_byte_slice(&header).size().unwrap(), 20 << 30);
    }

    #[tokio::test]
    async fn a_file_of_another_size_than_was_said_is_refused() {
        let (out, _pieces) = mpsc::channel(1_000);
        let mut archive = Archive::new(out, 0).unwrap();
        archive.begin("short", 2).await.unwrap();
        archive.piece(b"x").await.unwrap();
        assert!(archive.end().await.is_err());
        archive.begin("long", 2).await.unwrap();
        assert!(archive.piece(b"xxx").await.is_err());
    }
}
