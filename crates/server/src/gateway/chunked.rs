//! The chunked transfer coding, RFC 9112 §7.1: bytes in, data out, in whatever pieces they come. Strict: what could be read in
//! two ways is an error. Extensions and trailers are read over.

use bytes::{Buf as _, Bytes, BytesMut};

/// Of a line with a size, its extensions included, and of all trailers together.
const LINE_BYTES_MAX: usize = 4096;

/// What one step of decoding gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Bytes of the body.
    Data(Bytes),
    /// More has to be read first.
    More,
    /// The body is over.
    End,
}

/// How far a body has been read.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    /// Bytes of the line, or of the trailers, so far.
    seen: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    #[default]
    Start,
    Size(u64),
    Extension(u64),
    SizeLineFeed(u64),
    Data(u64),
    DataReturn,
    DataLineFeed,
    /// At the beginning of a line of trailers.
    Trailers,
    Trailer,
    TrailerLineFeed,
    EndLineFeed,
    End,
}

impl Chunked {
    /// Takes from the beginning of `buffer` what can be taken.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, &'static str> {
        loop {
            if self.state == State::End {
                return Ok(Decoded::End);
            }
            if buffer.is_empty() {
                return Ok(Decoded::More);
            }
            if let State::Data(left) = self.state {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                let left = left - length as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data(left) };
                return Ok(Decoded::Data(buffer.split_to(length).freeze()));
            }
            let byte = buffer.get_u8();
            self.state = self.next(byte)?;
        }
    }

    fn next(&mut self, byte: u8) -> Result<State, &'static str> {
        self.seen += 1;
        if self.seen > LINE_BYTES_MAX {
            return Err("a chunk's head or the trailers are too long");
        }
        Ok(match (self.state, byte) {
            (State::Start, _) => State::Size(digit(byte).ok_or("a chunk has no size")?),
            (State::Size(size) | State::Extension(size), b'\r') => State::SizeLineFeed(size),
            (State::Size(size), b';' | b' ' | b'\t') => State::Extension(size),
            (State::Size(size), _) => {
                let digit = digit(byte).ok_or("a chunk's size is not a number")?;
                State::Size(size.checked_mul(16).ok_or("a chunk is too large")? + digit)
            }
            (State::Extension(_) | State::Trailer, b'\n') => return Err("a line ends without a carriage return"),
            (State::Extension(size), _) => State::Extension(size),
            (State::SizeLineFeed(0) | State::TrailerLineFeed, b'\n') => State::Trailers,
            (State::SizeLineFeed(size), b'\n') => State::Data(size),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => {
                self.seen = 0;
                State::Start
            }
            (State::Trailers, b'\r') => State::EndLineFeed,
            (State::Trailer, b'\r') => State::TrailerLineFeed,
            (State::Trailers | State::Trailer, _) => State::Trailer,
            (State::EndLineFeed, b'\n') => State::End,
            (State::SizeLineFeed(_) | State::TrailerLineFeed | State::EndLineFeed, _) => {
                return Err("a carriage return stands alone");
            }
            (State::DataReturn | State::DataLineFeed, _) => return Err("a chunk is longer than its size"),
            (State::Data(_) | State::End, _) => return Err("a chunk was read as its head"),
        })
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `pieces` one after the other; the body, and what was left behind its end.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
        let (mut chunked, mut buffer, mut body) = (Chunked::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while let Decoded::Data(data) = chunked.decode(&mut buffer)? {
                body.extend_from_slice(&data);
            }
        }
        if chunked.decode(&mut buffer)? == Decoded::End { Ok((body, buffer.to_vec())) } else { Err("unfinished") }
    }

    #[test]
    fn extensions_and_trailers_are_read_over_and_what_follows_is_left() {
        let text = b"4;name=\"v\"\r\nWiki\r\nA \r\npedia in c\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nHTTP";
        assert_eq!(read(&[text]), Ok((b"Wikipedia in c".to_vec(), b"HTTP".to_vec())));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for wrong in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "1\nA\r\n0\r\n\r\n",
            "1;a\n\r\nA\r\n0\r\n\r\n",
            "1\r\nAB\r\n0\r\n\r\n",
            "1\r\nA\n0\r\n\r\n",
            "1\r\nA\rB0\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\n\rX",
            "10000000000000000\r\n",
            "1\rA",
        ] {
            let error = read(&[wrong.as_bytes()]).unwrap_err();
            assert_ne!(error, "unfinished", "{wrong:?} was taken");
        }
    }

    #[test]
    fn a_head_or_trailers_without_end_are_refused() {
        let endless = [b"1;".as_slice(), &[b'x'; LINE_BYTES_MAX]].concat();
        assert!(read(&[&endless]).is_err_and(|error| error != "unfinished"));
        let endless = [b"0\r\n".as_slice(), &b"X: 1\r\n".repeat(LINE_BYTES_MAX)].concat();
        assert!(read(&[&endless]).is_err_and(|error| error != "unfinished"));
    }

    proptest! {
        #[test]
        fn any_body_in_any_pieces_comes_out_whole(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
            places.push(0);
            places.push(text.len());
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&pieces), Ok((chunks.concat(), Vec::new())));
        }

        #[test]
        fn no_input_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let _any_outcome = read(&[&text]);
        }
    }
}
