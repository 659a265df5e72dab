//! An answer as it comes together from what the bot says, and what is found of one in the bot's own memory. Pure.

use astrfleet_core::{
    chat::{ChatEvent, HistoryRecord},
    message::TokenUsage,
};

/// The longest answer that is taken from a bot, in bytes.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The files that are taken from one answer.
const MAX_FILES: usize = 10;

/// What an event means for whoever delivers.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing to do.
    Nothing,
    /// The bot has the message, under this number.
    Received(i64),
    /// More text for the reader.
    Piece(String),
    /// More than is taken.
    TooLong,
}

/// What the bot has said so far.
#[derive(Debug)]
pub struct Answer {
    failure_text: String,
    text: String,
    told_bytes: usize,
    complete: Option<String>,
    error: bool,
    /// What it took, where the bot has said so.
    pub usage: Option<TokenUsage>,
    /// The bot's number of the message.
    pub received: Option<i64>,
    /// The bot's number of the answer.
    pub saved: Option<i64>,
    /// Files, by the bot's reference.
    pub files: Vec<String>,
}

impl Answer {
    /// Nothing yet. `failure_text` is what this bot says where its model fails.
    #[must_use]
    pub fn new(failure_text: String) -> Self {
        Self {
            failure_text,
            text: String::new(),
            told_bytes: 0,
            complete: None,
            error: false,
            usage: None,
            received: None,
            saved: None,
            files: Vec::new(),
        }
    }

    /// Takes an event in.
    pub fn take(&mut self, event: ChatEvent) -> Step {
        match event {
            ChatEvent::Received { record } => {
                self.received = Some(record);
                return Step::Received(record);
            }
            ChatEvent::Delta(piece) => {
                if self.text.len() + piece.len() > MAX_ANSWER_BYTES {
                    return Step::TooLong;
                }
                self.text.push_str(&piece);
                return self.untold();
            }
            ChatEvent::Complete(text) if text.len() > MAX_ANSWER_BYTES => return Step::TooLong,
            ChatEvent::Complete(text) => self.complete = Some(text),
            ChatEvent::Usage(usage) => self.usage = Some(usage),
            ChatEvent::Saved { record } => self.saved = Some(record),
            ChatEvent::Attachment { reference, .. } if self.files.len() < MAX_FILES => self.files.push(reference),
            ChatEvent::Attachment { .. } => {}
            ChatEvent::Error(_) => self.error = true,
        }
        Step::Nothing
    }

    /// What may be told and was not yet. As long as it may still become the text of a failure, nothing is.
    fn untold(&mut self) -> Step {
        if self.told_bytes == 0 && self.failure_text.starts_with(self.text.trim()) {
            return Step::Nothing;
        }
        let piece = self.text[self.told_bytes..].to_owned();
        self.told_bytes = self.text.len();
        Step::Piece(piece)
    }

    /// The whole text, as well as it is known.
    #[must_use]
    pub fn text(&self) -> &str {
        self.complete.as_deref().filter(|text| !text.is_empty()).unwrap_or(&self.text)
    }

    /// Whether the bot has told that the answer is whole.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.complete.is_some() || self.saved.is_some()
    }

    /// Whether the bot can have got the message.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.received.is_some() || !self.text.is_empty() || self.complete.is_some() || !self.files.is_empty()
    }

    /// Whether there is anything to be stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text().is_empty() && self.files.is_empty()
    }

    /// Whether it is not an answer but tells that the model gave none.
    #[must_use]
    pub fn model_failed(&self) -> bool {
        self.error || says_failure(self.text(), self.usage, &self.failure_text)
    }
}

fn says_failure(text: &str, usage: Option<TokenUsage>, failure_text: &str) -> bool {
    usage.is_some_and(|usage| usage.total() == 0) || text.trim() == failure_text
}

/// What a bot's own memory tells of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Finding {
    /// It never came there.
    NotReceived,
    /// It did, under this number, and is not answered.
    Unanswered {
        /// The bot's number of the message.
        record: i64,
    },
    /// It was answered.
    Answered {
        /// The bot's number of the message.
        record: i64,
        /// The bot's number of the answer.
        answer: i64,
        /// The answer.
        text: String,
        /// What it took.
        usage: Option<TokenUsage>,
        /// It tells that the model gave no answer.
        failed: bool,
    },
}

/// What is looked for in a bot's memory.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a> {
    /// The bot's number of the message, where the bot has said so.
    pub known: Option<i64>,
    /// The largest number that belongs to an earlier message.
    pub earlier: i64,
    /// What was sent.
    pub text: &'a str,
    /// Files went with it: then the bot may keep the text otherwise.
    pub with_files: bool,
}

/// Looks for a message in a bot's memory of its session.
#[must_use]
pub fn find(history: &[HistoryRecord], sought: Sought<'_>, failure_text: &str) -> Finding {
    let Sought { known, earlier, text, with_files } = sought;
    let by_user = || history.iter().enumerate().filter(|(_, record)| !record.from_bot);
    let asked = if let Some(known) = known {
        by_user().find(|(_, record)| record.record == known)
    } else {
        let mut later = by_user().filter(|(_, record)| record.record > earlier);
        // A record with other words is another message's, whose number was never told.
        let first = if with_files { later.clone().next() } else { None };
        later.find(|(_, record)| record.text.split_whitespace().eq(text.split_whitespace())).or(first)
    };
    let Some((at, asked)) = asked else {
        return known.map_or(Finding::NotReceived, |record| Finding::Unanswered { record });
    };
    let answers: Vec<&HistoryRecord> = history[at + 1..].iter().take_while(|record| record.from_bot).collect();
    let Some(last) = answers.last() else { return Finding::Unanswered { record: asked.record } };
    let texts: Vec<&str> = answers.iter().map(|record| record.text.as_str()).filter(|text| !text.is_empty()).collect();
    let text = texts.join("\n");
    let usage = answers.iter().filter_map(|record| record.usage).reduce(|sum, usage| TokenUsage {
        prompt_tokens: sum.prompt_tokens.saturating_add(usage.prompt_tokens),
        completion_tokens: sum.completion_tokens.saturating_add(usage.completion_tokens),
    });
    let failed = answers.iter().any(|record| record.failed) || says_failure(&text, usage, failure_text);
    Finding::Answered { record: asked.record, answer: last.record, text, usage, failed }
}

#[cfg(test)]
mod tests {
    use astrfleet_core::{
        chat::{ChatEvent, HistoryRecord},
        message::TokenUsage,
    };

    use super::{Answer, Finding, Sought, Step, find};

    const FAILURE: &str = "The model could not answer. (x1)";

    fn line(record: i64, from_bot: bool, text: &str) -> HistoryRecord {
        HistoryRecord { record, from_bot, text: text.to_owned(), usage: None, failed: false }
    }

    #[test]
    fn the_complete_text_wins_over_its_pieces() {
        let mut answer = Answer::new(FAILURE.to_owned());
        assert_eq!(answer.take(ChatEvent::Delta("Hel".to_owned())), Step::Piece("Hel".to_owned()));
        assert_eq!(answer.text(), "Hel");
        answer.take(ChatEvent::Complete("Hello".to_owned()));
        assert_eq!((answer.text(), answer.is_confirmed(), answer.model_failed()), ("Hello", true, false));
    }

    #[test]
    fn the_text_of_a_failure_is_never_told_and_is_recognised() {
        let mut answer = Answer::new(FAILURE.to_owned());
        for piece in ["The model ", "could not answer. ", "(x1)"] {
            assert_eq!(answer.take(ChatEvent::Delta(piece.to_owned())), Step::Nothing);
        }
        assert!(answer.model_failed());
        let mut answer = Answer::new(FAILURE.to_owned());
        answer.take(ChatEvent::Delta("The model ".to_owned()));
        assert_eq!(
            answer.take(ChatEvent::Delta("T".to_owned())),
            Step::Piece("The model T".to_owned()),
            "what only began like one is told at once"
        );
    }

    #[test]
    fn no_tokens_at_all_is_a_failure_and_no_word_of_tokens_is_not() {
        let mut answer = Answer::new(FAILURE.to_owned());
        answer.take(ChatEvent::Delta("LLM error".to_owned()));
        assert!(!answer.model_failed(), "a command is answered without a model");
        answer.take(ChatEvent::Usage(TokenUsage::default()));
        assert!(answer.model_failed());
    }

    #[test]
    fn a_message_is_found_in_the_bots_memory() {
        let history =
            [line(1, false, "a"), line(2, true, "A"), line(3, false, "b"), line(4, false, "c"), line(6, true, "C")];
        let find = |known, earlier, text| find(&history, Sought { known, earlier, text, with_files: false }, FAILURE);
        assert_eq!(find(None, 6, "d"), Finding::NotReceived);
        assert_eq!(find(None, 2, "b"), Finding::Unanswered { record: 3 });
        assert_eq!(find(Some(3), 0, "b"), Finding::Unanswered { record: 3 });
        let answered = Finding::Answered { record: 4, answer: 6, text: "C".to_owned(), usage: None, failed: false };
        assert_eq!(find(Some(4), 0, "c"), answered);
        assert_eq!(find(None, 3, "c"), answered);
        assert_eq!(find(None, 3, "another's"), Finding::NotReceived);
        let with_files = Sought { known: None, earlier: 3, text: "kept otherwise", with_files: true };
        assert_eq!(super::find(&history, with_files, FAILURE), answered);
        assert_eq!(find(Some(9), 6, "d"), Finding::Unanswered { record: 9 }, "what the bot has said is believed");
    }

    #[test]
    fn a_failure_in_the_bots_memory_ends_the_wait_for_an_answer() {
        let failure = HistoryRecord { failed: true, ..line(2, true, "in words that only the bot knows") };
        let history = [line(1, false, "a"), failure];
        let sought = Sought { known: Some(1), earlier: 0, text: "a", with_files: false };
        assert!(matches!(find(&history, sought, FAILURE), Finding::Answered { failed: true, .. }));
    }
}
