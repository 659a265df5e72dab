//! Search in what was said: what a query means, and an index that only ever narrows where to look.
//!
//! A query is a few terms, all of which a text must have. A term of a script that is written with spaces is found where
//! a word begins with it; one that is written without them (Chinese, Japanese, Thai) is found anywhere. [`Query::hits`]
//! alone decides; the index ([`words`], [`Query::probes`]) leaves out where to look what cannot have a hit, and never more
//! than that, which the tests of this module prove.
//!
//! The index knows blocks of consecutive messages, not single ones: the words of each block, dealt into [`BUCKETS`].
//! Looking a word up reads one bucket of each block, from the newest, and what is found there is read and judged.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    id::{MessageId, SessionId},
    message::Author,
    time::Timestamp,
};

/// Characters of a query, at the most.
pub const QUERY_CHARS_MAX: usize = 200;
/// Terms of a query, at the most.
pub const TERMS_MAX: usize = 8;
/// Into how many parts the words of a block are dealt.
pub const BUCKETS: u8 = 64;
/// How many words of a query are looked up in the index; the others are judged by the text alone.
pub const PROBES: usize = 4;
/// Messages of a block, at the most.
pub const BLOCK_MESSAGES: u32 = 1_024;
/// Different words of a block after which it takes no more messages.
pub const BLOCK_WORDS: usize = 50_000;
/// Characters by which the index knows a word.
const WORD_CHARS_MAX: usize = 64;
/// Characters of an excerpt, before and after its first hit together.
const EXCERPT_CHARS: usize = 160;
/// Of them, before it.
const EXCERPT_CHARS_BEFORE: usize = 40;

/// How a character counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Between words.
    Gap,
    /// Of a word that spaces end.
    Spaced,
    /// Of a script without spaces: a word may begin at each.
    Dense,
}

fn kind(character: char) -> Kind {
    match character {
        // Thai and its neighbours, with the marks that belong to their letters; kana, Han, Hangul.
        '\u{0e01}'..='\u{0eff}'
        | '\u{1000}'..='\u{109f}'
        | '\u{1780}'..='\u{17ff}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3041}'..='\u{30ff}'
        | '\u{3105}'..='\u{318e}'
        | '\u{31a0}'..='\u{31ff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}'
        | '\u{ac00}'..='\u{d7af}'
        | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9f}'
        | '\u{20000}'..='\u{3ffff}'
            if character != '\u{30fb}' =>
        {
            Kind::Dense
        }
        // Marks that belong to the letter before them.
        '\u{0300}'..='\u{036f}' | '\u{0591}'..='\u{05c7}' | '\u{064b}'..='\u{065f}' | '\u{0900}'..='\u{0dff}' => {
            Kind::Spaced
        }
        character if character.is_alphanumeric() => Kind::Spaced,
        _ => Kind::Gap,
    }
}

/// A run of characters of one kind, folded, with the place of each in the text that it was read from.
struct Run {
    dense: bool,
    folded: Vec<char>,
    /// Where each of `folded` begins in the text, and where the last one ends.
    places: Vec<usize>,
}

impl Run {
    /// The same characters, as a text.
    fn text(&self, range: Range<usize>) -> String {
        self.folded[range].iter().collect()
    }
}

/// The same for everything that people take for the same: case, and the wide forms of Latin letters and digits.
fn fold(character: char) -> impl Iterator<Item = char> {
    let narrow = match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
        other => other,
    };
    narrow.to_lowercase()
}

fn runs(text: &str) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut open = false;
    for (place, character) in text.char_indices() {
        for folded in fold(character) {
            let kind = kind(folded);
            if kind == Kind::Gap {
                open = false;
                continue;
            }
            let dense = kind == Kind::Dense;
            if !open || runs.last().is_none_or(|run| run.dense != dense) {
                runs.push(Run { dense, folded: Vec::new(), places: vec![place] });
                open = true;
            }
            if let Some(run) = runs.last_mut() {
                if let Some(last) = run.places.last_mut() {
                    *last = place;
                }
                run.folded.push(folded);
                run.places.push(place + character.len_utf8());
            }
        }
    }
    runs
}

/// The words by which the index knows a text: those between spaces; of a script without them, each two neighbours, and
/// the last one alone.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    runs(text).into_iter().flat_map(|run| {
        let count = run.folded.len();
        let (starts, length) = if run.dense { (count, 2) } else { (1, WORD_CHARS_MAX) };
        (0..starts).map(move |start| run.text(start..(start + length).min(count))).collect::<Vec<_>>()
    })
}

/// Which part of a block has a word: its beginning says so, since words are looked up by their beginning.
#[must_use]
pub fn bucket(word: &str) -> u8 {
    let mut characters = word.chars();
    let first = characters.next().unwrap_or_default();
    let key = match kind(first) {
        Kind::Dense => u32::from(first),
        Kind::Spaced | Kind::Gap => {
            u32::from(first).wrapping_mul(31).wrapping_add(characters.next().map_or(0, u32::from))
        }
    };
    // Fibonacci hashing: neighbours in an alphabet are spread. Six bits are a bucket.
    u8::try_from(key.wrapping_mul(0x9e37_79b9) >> 26).unwrap_or_default() % BUCKETS
}

/// The words of a block as they stand in its buckets: a space before and after each.
#[must_use]
pub fn bucketed<'a>(words: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    let mut buckets = vec![String::from(" "); usize::from(BUCKETS)];
    for word in words {
        let text = &mut buckets[usize::from(bucket(word))];
        text.push_str(word);
        text.push(' ');
    }
    buckets
}

/// What is looked for in one bucket of each block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which.
    pub bucket: u8,
    /// A part of its text. Letters, digits and spaces: none means anything else to a pattern.
    pub text: String,
}

/// A term of a query.
#[derive(Clone, Debug)]
struct Term {
    dense: bool,
    folded: Vec<char>,
}

impl Term {
    /// Where it is in a run.
    fn at(&self, run: &Run) -> Vec<Range<usize>> {
        let length = self.folded.len();
        if self.dense != run.dense || length > run.folded.len() {
            return Vec::new();
        }
        let last = if self.dense { run.folded.len() - length } else { 0 };
        // One letter is a word of its own, or everything would be found.
        let whole = !self.dense && length == 1;
        (0..=last)
            .filter(|start| run.folded[*start..].starts_with(&self.folded) && (!whole || run.folded.len() == 1))
            .map(|start| run.places[start]..run.places[start + length])
            .collect()
    }

    fn probes(&self) -> Vec<Probe> {
        let probe = |word: &[char], whole: bool| {
            let word: String = word.iter().collect();
            let end = if whole { " " } else { "" };
            Probe { bucket: bucket(&word), text: format!(" {word}{end}") }
        };
        let length = self.folded.len();
        match (self.dense, length) {
            (true, 1) => vec![probe(&self.folded, false)],
            (true, _) => self.folded.windows(2).map(|pair| probe(pair, true)).collect(),
            (false, 1) => vec![probe(&self.folded, true)],
            (false, _) => vec![probe(&self.folded[..length.min(WORD_CHARS_MAX)], false)],
        }
    }
}

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Query {
    terms: Vec<Term>,
}

impl Query {
    /// Reads what somebody typed.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it has no word in it, or too many.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.chars().count() > QUERY_CHARS_MAX {
            return Err(Error::invalid("q", format!("must have at most {QUERY_CHARS_MAX} characters")));
        }
        let terms: Vec<_> = runs(text).into_iter().map(|run| Term { dense: run.dense, folded: run.folded }).collect();
        if terms.is_empty() || terms.len() > TERMS_MAX {
            return Err(Error::invalid("q", format!("must have 1 to {TERMS_MAX} words of letters or digits")));
        }
        Ok(Self { terms })
    }

    /// Where the terms are in a text, in its order; neighbours are one. None: not all of them are in it.
    #[must_use]
    pub fn hits(&self, text: &str) -> Option<Vec<Range<usize>>> {
        let runs = runs(text);
        let mut found = vec![false; self.terms.len()];
        let mut hits: Vec<Range<usize>> = Vec::new();
        for run in &runs {
            for (term, found) in self.terms.iter().zip(&mut found) {
                let at = term.at(run);
                *found |= !at.is_empty();
                hits.extend(at);
            }
        }
        if found.contains(&false) {
            return None;
        }
        hits.sort_by_key(|range| (range.start, range.end));
        let mut joined: Vec<Range<usize>> = Vec::with_capacity(hits.len());
        for hit in hits {
            match joined.last_mut() {
                Some(last) if hit.start <= last.end => last.end = last.end.max(hit.end),
                _ => joined.push(hit),
            }
        }
        Some(joined)
    }

    /// What every block that holds a hit has in its buckets.
    #[must_use]
    pub fn probes(&self) -> [Probe; PROBES] {
        let all: Vec<Probe> = self.terms.iter().flat_map(Term::probes).collect();
        // Spread over the query, so that its terms are all looked up before any of them is twice.
        std::array::from_fn(|index| all[index * all.len() / PROBES].clone())
    }
}

/// A piece of an excerpt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Piece {
    /// As it stands in the message.
    pub text: String,
    /// Whether it is what was looked for.
    pub hit: bool,
}

/// What is shown of a text: the surroundings of its first hit, with all hits in them.
#[must_use]
pub fn excerpt(text: &str, hits: &[Range<usize>]) -> Vec<Piece> {
    let first = hits.first().map_or(0, |hit| hit.start);
    let start = text[..first].char_indices().rev().take(EXCERPT_CHARS_BEFORE).last().map_or(first, |(place, _)| place);
    let end = text[start..].char_indices().nth(EXCERPT_CHARS).map_or(text.len(), |(place, _)| start + place);
    let mut pieces = Vec::new();
    let mut push = |range: Range<usize>, hit: bool| {
        if !range.is_empty() {
            pieces.push(Piece { text: text[range].to_owned(), hit });
        }
    };
    let mut place = start;
    for hit in hits.iter().take_while(|hit| hit.start < end) {
        push(place..hit.start, false);
        push(hit.start..hit.end.min(end), true);
        place = hit.end.min(end);
    }
    push(place..end, false);
    pieces
}

/// A message that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Found {
    /// `msg_…`
    pub message_id: MessageId,
    /// The conversation it belongs to.
    pub session_id: SessionId,
    /// Who wrote it.
    pub author: Author,
    /// When.
    pub created_at: Timestamp,
    /// The surroundings of the first hit, in pieces, so that whoever shows them decides how a hit looks.
    pub excerpt: Vec<Piece>,
}

/// A message as the search reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which.
    pub id: MessageId,
    /// Its conversation.
    pub session_id: SessionId,
    /// Who wrote it.
    pub author: Author,
    /// What they wrote.
    pub text: String,
    /// When.
    pub created_at: Timestamp,
}

impl Said {
    /// As it is shown, where the query finds it.
    #[must_use]
    pub fn found(self, query: &Query) -> Option<Found> {
        let hits = query.hits(&self.text)?;
        let excerpt = excerpt(&self.text, &hits);
        let Self { id, session_id, author, created_at, .. } = self;
        Some(Found { message_id: id, session_id, author, created_at, excerpt })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{BUCKETS, Query, bucketed, excerpt, kind, runs, words};

    fn finds(query: &str, text: &str) -> bool {
        Query::parse(query).unwrap().hits(text).is_some()
    }

    /// Whether the index of a block with these texts would lead to it.
    fn leads(query: &str, texts: &[&str]) -> bool {
        let words: BTreeSet<String> = texts.iter().flat_map(|text| words(text)).collect();
        let buckets = bucketed(&words);
        let probes = Query::parse(query).unwrap().probes();
        probes.iter().all(|probe| buckets[usize::from(probe.bucket)].contains(&probe.text))
    }

    #[test]
    fn words_are_found_by_their_beginning_in_any_case() {
        let text = "Where is my Order #4711? ＡＢＣ１２";
        for query in ["order", "ORD", "4711", "my where", "abc12", "471"] {
            assert!(finds(query, text) && leads(query, &["other", text]), "{query}");
        }
        for query in ["rder", "orders", "m", "711", "order 4712"] {
            assert!(!finds(query, text), "{query}");
        }
        assert!(finds("a", "plan a") && leads("a", &["plan a"]), "one letter is a word of its own");
    }

    #[test]
    fn chinese_is_found_anywhere_also_a_single_character() {
        let text = "我的订单在哪里？iPhone手机套";
        for query in ["订单", "单", "我的订单在哪里", "在哪里", "手机", "iphone手机", "套", "手机 订单"]
        {
            assert!(finds(query, text) && leads(query, &[text]), "{query}");
        }
        for query in ["单订", "的单", "手套", "里手"] {
            assert!(!finds(query, text), "{query}");
        }
        assert!(!leads("退款", &[text]));
        assert!(leads("手套", &["手机", "机手", "手套"]));
        assert!(finds("ภาษา", "นี่คือภาษาไทย") && leads("ภาษา", &["นี่คือภาษาไทย"]), "Thai has no spaces either");
        assert!(finds("カタカナ", "これはカタカナです"));
    }

    #[test]
    fn a_query_without_a_word_or_with_too_many_is_refused() {
        for bad in ["", " ", "?!", "%", "📦", &"a ".repeat(9), &"x".repeat(201)] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
        assert!(Query::parse(&"字".repeat(200)).is_ok());
    }

    #[test]
    fn an_excerpt_shows_the_first_hit_and_what_is_around_it() {
        let text = format!("{}订单{}订单", "前".repeat(100), "后".repeat(200));
        let hits = Query::parse("订单").unwrap().hits(&text).unwrap();
        let pieces = excerpt(&text, &hits);
        assert_eq!(pieces.iter().map(|piece| piece.hit).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(pieces[0].text.chars().count(), 40);
        assert_eq!(pieces.iter().map(|piece| piece.text.chars().count()).sum::<usize>(), 160);
        let pieces = excerpt("a Bug, a bug.", &Query::parse("bug").unwrap().hits("a Bug, a bug.").unwrap());
        let shown: Vec<_> = pieces.iter().map(|piece| (piece.text.as_str(), piece.hit)).collect();
        assert_eq!(shown, [("a ", false), ("Bug", true), (", a ", false), ("bug", true), (".", false)]);
    }

    /// Texts with what is hard about them: several scripts, no spaces, characters that change their length in lower case.
    fn text() -> impl Strategy<Value = String> {
        prop::string::string_regex("[a-cA-C0-9 ,.Ａ１İßé我的订单手机ภาカナ📦_%]{0,40}").unwrap()
    }

    proptest! {
        #[test]
        fn the_index_leads_to_everything_that_is_there(before in text(), text in text(), after in text(), query in text()) {
            if let Ok(parsed) = Query::parse(&query) && parsed.hits(&text).is_some() {
                prop_assert!(leads(&query, &[&before, &text, &after]));
            }
        }

        #[test]
        fn every_part_of_a_text_is_found(text in text(), start in 0_usize..40, length in 1_usize..12) {
            // Any part of a run without spaces; any beginning of a word of at least two letters.
            for run in runs(&text) {
                let start = if run.dense { start % run.folded.len() } else { 0 };
                let end = (start + length).min(run.folded.len());
                let part: String = run.folded[start..end].iter().collect();
                if !run.dense && end - start == 1 && run.folded.len() > 1 {
                    continue;
                }
                prop_assert!(finds(&part, &text), "{part:?} in {text:?}");
                prop_assert!(leads(&part, &[&text]), "{part:?} in {text:?}");
            }
        }

        #[test]
        fn an_excerpt_is_a_part_of_its_text(text in text(), query in text()) {
            let Ok(query) = Query::parse(&query) else { return Ok(()) };
            let Some(hits) = query.hits(&text) else { return Ok(()) };
            let pieces = excerpt(&text, &hits);
            let whole: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            prop_assert!(text.contains(&whole));
            prop_assert!(pieces.iter().any(|piece| piece.hit));
        }

        #[test]
        fn words_have_nothing_in_them_that_a_pattern_would_take_for_more(text in any::<String>()) {
            for word in words(&text) {
                prop_assert!(!word.is_empty() && word.chars().all(|c| kind(c) != super::Kind::Gap));
                prop_assert!(!word.contains([' ', '%', '_', '\\']) && super::bucket(&word) < BUCKETS);
            }
        }
    }
}
