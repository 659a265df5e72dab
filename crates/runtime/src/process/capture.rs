//! Reads what a bot writes, as it comes: from a file and not from a pipe, so that a bot outlives the platform and
//! nothing is lost while the platform is away.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::Arc,
    time::Duration,
};

use astrfleet_core::ports::{Clock, LogLine};
use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    journal::{Journal, LogLimits},
    lines::Lines,
    places::Places,
};

/// At most so much is taken at once.
const BATCH_BYTES: usize = 256 * 1024;
/// What is left at a bot's end: more only comes from something that it started and that outlived it.
const REST_BATCHES_MAX: usize = 256;
/// While lines come.
const QUICK: Duration = Duration::from_millis(50);
/// While none came for a while.
const SLOW: Duration = Duration::from_secs(1);
/// While none came for a while and somebody is watching.
const WATCHED: Duration = Duration::from_millis(200);

/// What a capture needs besides the bot's place.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub clock: Arc<dyn Clock>,
    pub log: LogLimits,
    /// How much of what was read may take up space in the file that the bot writes to.
    pub raw_bytes_max: u64,
}

/// The capture of one bot.
pub(super) struct Capture {
    raw: File,
    position: File,
    offset: u64,
    /// Up to here the file holds nothing any more.
    freed: u64,
    lines: Lines,
    journal: Journal,
    around: Surroundings,
    followers: broadcast::Sender<LogLine>,
}

impl Capture {
    /// Goes on where the last capture of this bot ended.
    pub(super) fn open(
        places: &Places,
        around: Surroundings,
        followers: broadcast::Sender<LogLine>,
    ) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path);
        let position = open(places.raw_position())?;
        let offset = fs::read_to_string(places.raw_position())?.trim().parse().unwrap_or_default();
        let raw = open(places.raw_log())?;
        let journal = Journal::open(&places.state, around.log)?;
        Ok(Self { raw, position, offset, freed: 0, lines: Lines::default(), journal, around, followers })
    }

    /// Takes all that is there, and empties the file: for before another process begins to write to it.
    pub(super) fn start_over(&mut self) -> io::Result<()> {
        self.take_rest()?;
        self.raw.set_len(0)?;
        (self.offset, self.freed) = (0, 0);
        self.remember()
    }

    /// Runs until `end`, and then takes what is left.
    pub(super) async fn run(mut self, end: CancellationToken) {
        let mut pause = QUICK;
        let mut failed = false;
        loop {
            let over = end.is_cancelled();
            if over || self.has_more() {
                let worked = tokio::task::spawn_blocking(move || {
                    let taken = if over { self.take_rest() } else { self.take().map(|_| ()) };
                    (self, taken)
                });
                let Ok((back, taken)) = worked.await else { return };
                self = back;
                if let Err(error) = &taken
                    && !failed
                {
                    tracing::warn!(%error, "a bot's log cannot be written: lines of it are lost until it can");
                }
                failed = taken.is_err();
                pause = QUICK;
            }
            if over {
                return;
            }
            tokio::select! {
                () = end.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            let slowest = if self.followers.receiver_count() > 0 { WATCHED } else { SLOW };
            pause = (pause * 2).min(slowest);
        }
    }

    fn has_more(&self) -> bool {
        self.raw.metadata().is_ok_and(|raw| raw.len() != self.offset)
    }

    /// Takes all that is there, the line that was begun included: nobody writes any more.
    pub(super) fn take_rest(&mut self) -> io::Result<()> {
        for _ in 0..REST_BATCHES_MAX {
            if !self.take()? {
                break;
            }
        }
        let last = self.lines.finish();
        self.tell(last.into_iter().collect())?;
        self.remember()
    }

    /// Takes some, and says whether there was any.
    fn take(&mut self) -> io::Result<bool> {
        let length = self.raw.metadata()?.len();
        if length < self.offset {
            // Somebody else emptied it.
            (self.offset, self.freed) = (0, 0);
        }
        let mut bytes = vec![0; BATCH_BYTES];
        let count = self.raw.read_at(&mut bytes, self.offset)?;
        self.offset += count as u64;
        let lines = self.lines.push(&bytes[..count]);
        let told = self.tell(lines);
        self.remember()?;
        if self.offset - self.freed > self.around.raw_bytes_max {
            self.free()?;
        }
        told.map(|()| count > 0)
    }

    /// Gives back the space of what was read. Where the file system can, the bot's end of the file stays where it is,
    /// so that a line that comes at this moment is not lost; where it cannot, such a line is.
    fn free(&mut self) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.raw, hole, 0, self.offset) {
            Ok(()) => self.freed = self.offset,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if self.raw.metadata()?.len() == self.offset => {
                self.raw.set_len(0)?;
                (self.offset, self.freed) = (0, 0);
                self.remember()?;
            }
            // More came meanwhile: next time.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn tell(&mut self, lines: Vec<String>) -> io::Result<()> {
        let at = self.around.clock.now();
        let lines: Vec<LogLine> = lines.into_iter().map(|line| LogLine { at, line }).collect();
        let written = self.journal.write(&lines);
        for line in lines {
            // Nobody may be listening.
            let _ = self.followers.send(line);
        }
        written
    }

    /// For the capture after a sudden end of ours: the line that was begun is read again.
    fn remember(&self) -> io::Result<()> {
        let whole = self.offset.saturating_sub(self.lines.pending_bytes());
        self.position.write_all_at(format!("{whole:020}").as_bytes(), 0)
    }
}
