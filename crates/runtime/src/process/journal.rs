//! A bot's log on disk: `bot.log`, `bot.log.1` and so on, each line with its moment. Only the platform writes it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use astrfleet_core::{ports::LogLine, time::Timestamp};
use serde::{
    Deserialize,
    de::{IntoDeserializer, value::Error as ValueError},
};

const NAME: &str = "bot.log";

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// A file that grew over this is rotated, in bytes.
    pub file_bytes_max: u64,
    /// How many files are kept, the one that is written to included.
    pub files: usize,
}

/// The log of one bot, open for writing.
pub(super) struct Journal {
    folder: PathBuf,
    limits: LogLimits,
    file: File,
    bytes: u64,
}

impl Journal {
    pub(super) fn open(folder: &Path, limits: LogLimits) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(NAME))?;
        let bytes = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), limits, file, bytes })
    }

    pub(super) fn write(&mut self, lines: &[LogLine]) -> io::Result<()> {
        let mut text = String::new();
        for LogLine { at, line } in lines {
            text.extend([at.to_string().as_str(), " ", line, "\n"]);
            if self.bytes + text.len() as u64 >= self.limits.file_bytes_max {
                self.append(&text)?;
                self.rotate()?;
                text.clear();
            }
        }
        self.append(&text)
    }

    fn append(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.bytes += text.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.limits.files).rev() {
            match fs::rename(numbered(&self.folder, number - 1), numbered(&self.folder, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.limits.files <= 1 {
            fs::remove_file(numbered(&self.folder, 0))?;
        }
        *self = Self::open(&self.folder, self.limits)?;
        Ok(())
    }
}

/// The last `count` lines, the newest last.
pub(super) fn tail(folder: &Path, limits: LogLimits, count: usize) -> io::Result<Vec<LogLine>> {
    let mut newest_first = Vec::new();
    for number in 0..limits.files.max(1) {
        let content = match fs::read(numbered(folder, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            content => content?,
        };
        let content = String::from_utf8_lossy(&content);
        newest_first.extend(content.lines().rev().filter_map(parse).take(count - newest_first.len()));
        if newest_first.len() == count {
            break;
        }
    }
    newest_first.reverse();
    Ok(newest_first)
}

/// Nothing for what a full disk cut off.
fn parse(line: &str) -> Option<LogLine> {
    let (at, line) = line.split_once(' ')?;
    let at = Timestamp::deserialize(IntoDeserializer::<ValueError>::into_deserializer(at)).ok()?;
    Some(LogLine { at, line: line.to_owned() })
}

fn numbered(folder: &Path, number: usize) -> PathBuf {
    match number {
        0 => folder.join(NAME),
        number => folder.join(format!("{NAME}.{number}")),
    }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{ports::LogLine, time::Timestamp};

    use super::{Journal, LogLimits, tail};

    #[test]
    fn rotates_and_reads_across_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let limits = LogLimits { file_bytes_max: 200, files: 3 };
        let line = |number: i64| LogLine { at: Timestamp::from_micros(number), line: format!("line {number}") };
        let mut journal = Journal::open(folder.path(), limits).unwrap();
        for number in 0..100 {
            journal.write(&[line(number)]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "no file more than is kept");
        let seen = tail(folder.path(), limits, 8).unwrap();
        assert_eq!(seen, (92..100).map(line).collect::<Vec<_>>());
        let all = tail(folder.path(), limits, 1_000).unwrap();
        assert!(all.len() < 100 && all.is_sorted_by_key(|line| line.at), "the oldest are gone, the order stays");
        assert_eq!(tail(folder.path(), limits, 0).unwrap(), []);
    }
}
