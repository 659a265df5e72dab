//! Bytes of a log become lines: bounded, without colours, without anything that a terminal would obey. No I/O.

/// A longer line is cut.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;

/// Where in an escape sequence we are.
#[derive(Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// In `ESC [ … letter`, as colours are.
    Control,
    /// In `ESC ] … BEL`, as titles are.
    Text,
}

/// Takes bytes as they come, in pieces of any size.
#[derive(Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    taken: u64,
    escape: Escape,
}

impl Lines {
    /// The lines that end within `bytes`.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut ended = Vec::new();
        for &byte in bytes {
            self.taken += 1;
            if byte == b'\n' {
                ended.extend(self.finish());
                continue;
            }
            self.escape = match (self.escape, byte) {
                (Escape::None, 0x1b) => Escape::Begun,
                (Escape::None, byte) => {
                    let printable = byte >= b' ' && byte != 0x7f;
                    if (printable || byte == b'\t') && self.line.len() < LINE_BYTES_MAX {
                        self.line.push(byte);
                    }
                    Escape::None
                }
                (Escape::Begun, b'[') => Escape::Control,
                (Escape::Begun, b']') => Escape::Text,
                (Escape::Control, byte) if !(0x40..=0x7e).contains(&byte) => Escape::Control,
                (Escape::Text, byte) if byte != 0x07 && byte != 0x1b => Escape::Text,
                (Escape::Text, 0x1b) => Escape::Begun,
                (Escape::Begun | Escape::Control | Escape::Text, _) => Escape::None,
            };
        }
        ended
    }

    /// The line that was begun, if there is one: nothing more comes of it.
    pub(super) fn finish(&mut self) -> Option<String> {
        let begun = self.taken > 0;
        let mut line = String::from_utf8_lossy(&self.line).into_owned();
        if line.len() > LINE_BYTES_MAX {
            // What cannot be read became longer.
            line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
        }
        *self = Self::default();
        begun.then_some(line)
    }

    /// How many bytes of the line that was begun were taken.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, Lines};

    #[test]
    fn colours_and_what_a_terminal_obeys_are_gone() {
        let mut lines = Lines::default();
        let raw =
            b"\x1b[32m[08:22]\x1b[0m [\x1b[1mINFO\x1b[0m]\t\xe5\xae\xa2\r\n\x1b]0;title\x07a\x1b]2;t\x1b\\b\x08\n";
        assert_eq!(lines.push(raw), ["[08:22] [INFO]\t客", "ab"]);
    }

    #[test]
    fn pieces_of_any_size_give_the_same() {
        let raw = "\x1b[1;31mred\x1b[0m 客服\n\nlast";
        let mut lines = Lines::default();
        let mut seen: Vec<String> = raw.as_bytes().iter().flat_map(|byte| lines.push(&[*byte])).collect();
        assert_eq!(lines.pending_bytes(), 4);
        seen.extend(lines.finish());
        assert_eq!(seen, ["red 客服", "", "last"]);
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn a_line_is_cut_and_the_next_one_is_whole() {
        let mut lines = Lines::default();
        let mut raw = vec![0xff; 3 * LINE_BYTES_MAX];
        raw.extend(b"\nnext\n");
        let seen = lines.push(&raw);
        assert!(seen[0].len() <= LINE_BYTES_MAX);
        assert_eq!(seen[1], "next");
    }
}
