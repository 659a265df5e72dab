//! Server-sent events as bytes come: however they are cut, the same events come out. It keeps at most one event, and
//! lets go of one that is too large instead of growing.

/// What came so far of one event.
pub(super) struct EventParser {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    too_large: bool,
    event_bytes_max: usize,
}

impl EventParser {
    pub(super) fn new(event_bytes_max: usize) -> Self {
        Self { line: Vec::new(), data: None, too_large: false, event_bytes_max }
    }

    /// Takes the next bytes, and hands over the data of every event that they end.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut event: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            self.end_line(&mut event);
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if kept + bytes.len() > self.event_bytes_max {
            self.too_large = true;
        }
        if !self.too_large {
            self.line.extend_from_slice(bytes);
            return;
        }
        // Only whether this line is empty still matters: an empty one ends the event. At most two bytes tell.
        let room = 2_usize.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.data = None;
    }

    fn end_line(&mut self, event: &mut impl FnMut(&[u8])) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.is_empty() {
            if let Some(data) = self.data.take()
                && !self.too_large
            {
                event(&data);
            }
            if self.too_large {
                tracing::debug!(bytes_max = self.event_bytes_max, "an event of a bot was too large");
            }
            self.too_large = false;
        } else if !self.too_large
            && let Some(value) = line.strip_prefix(b"data:")
        {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                None => self.data = Some(value.to_vec()),
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
        // Everything else (comments, which are heartbeats; names and numbers, which bots do not use) says nothing.
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::EventParser;

    fn events(pieces: &[&[u8]], event_bytes_max: usize) -> Vec<String> {
        let mut parser = EventParser::new(event_bytes_max);
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, |data| events.push(String::from_utf8_lossy(data).into_owned()));
        }
        events
    }

    #[test]
    fn comments_and_other_fields_are_not_data() {
        let text = b": heartbeat\n\nevent: x\ndata: one\nid: 7\n\n\ndata:two\r\ndata: three\r\n\r\ndata: cut off";
        assert_eq!(events(&[text], 100), ["one", "two\nthree"]);
    }

    #[test]
    fn what_is_too_large_is_left_out_and_the_next_one_is_there() {
        let text = format!("data: {}\n\ndata: small\n\n", "x".repeat(1_000));
        let halves: Vec<&[u8]> = text.as_bytes().chunks(7).collect();
        assert_eq!(events(&halves, 100), ["small"]);
        let many_lines = format!("{}\n\ndata: small\n\n", "data: 1234567890\n".repeat(50).trim_end());
        assert_eq!(events(&[many_lines.as_bytes()], 100), ["small"]);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(text in "(data: ?[a-zé]{0,9}\r?\n|: [a-z]{0,5}\n|\n|\r\n|[a-z:]{0,40}\n){0,30}", cuts in proptest::collection::vec(0_usize..400, 0..9)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            for bytes_max in [30, 10_000] {
                prop_assert_eq!(events(&pieces, bytes_max), events(&[bytes], bytes_max));
                prop_assert_eq!(events(&single, bytes_max), events(&[bytes], bytes_max));
            }
        }
    }
}
