//! Recorded streams of a real bot, and those that it might send, in our words.

use std::collections::VecDeque;

use astrfleet_core::{chat::ChatEvent, message::TokenUsage};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{super::sse::EventParser, Answer, FAILURE_MARKS};

const OURS: &str = "Something failed here: try again.";

/// As a bot of 4.29.3 sent it.
const RECORDED: &str = concat!(
    "data: {\"type\": \"session_id\", \"data\": null, \"session_id\": \"sess-1\"}\n\n",
    "data: {\"type\": \"user_message_saved\", \"data\": {\"id\": 3, \"created_at\": \"2026-11-23T04:00:00+00:00\", \"llm_checkpoint_id\": \"f36b\"}}\n\n",
    "data: {\"type\": \"run_started\", \"data\": {\"run_id\": \"9141\"}, \"streaming\": false, \"message_id\": \"9141\"}\n\n",
    ": heartbeat\n\n",
    "data: {\"type\": \"plain\", \"data\": \"thinking\", \"streaming\": true, \"chain_type\": \"reasoning\", \"message_id\": \"9141\"}\n\n",
    "data: {\"type\": \"plain\", \"data\": \"Hel\", \"streaming\": true, \"chain_type\": null, \"message_id\": \"9141\"}\n\n",
    "data: {\"type\": \"plain\", \"data\": \"lo 世界\", \"streaming\": true, \"chain_type\": null, \"message_id\": \"9141\"}\n\n",
    "data: {\"type\": \"agent_stats\", \"data\": {\"token_usage\": {\"input_other\": 11, \"input_cached\": 2, \"output\": 7}, \"time_to_first_token\": 0.11}}\n\n",
    "data: {\"type\": \"complete\", \"data\": \"Hello 世界\", \"reasoning\": \"thinking\", \"streaming\": true, \"message_id\": \"9141\"}\n\n",
    "data: {\"type\": \"message_saved\", \"data\": {\"id\": 4, \"created_at\": \"2026-11-23T04:00:01+00:00\", \"llm_checkpoint_id\": \"f36b\"}}\n\n",
    "data: {\"type\": \"end\", \"data\": \"\", \"streaming\": false, \"message_id\": \"9141\"}\n\n",
);

fn heard(pieces: &[&[u8]]) -> Vec<ChatEvent> {
    let (mut parser, mut answer, mut ready) = (EventParser::new(1 << 20), Answer::new(OURS, 1 << 20), VecDeque::new());
    for piece in pieces {
        parser.feed(piece, |data| answer.hear(data, &mut ready));
    }
    answer.end(&mut ready);
    ready.into_iter().map(|event| event.unwrap()).collect()
}

fn told(events: &[Value]) -> Vec<ChatEvent> {
    let pieces: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    heard(&[pieces.concat().as_bytes()])
}

fn piece(text: &str) -> Value {
    json!({"type": "plain", "data": text, "streaming": true, "chain_type": null})
}

fn stats(output: u64) -> Value {
    json!({"type": "agent_stats", "data": {"token_usage": {"input_other": output, "input_cached": 0, "output": output}}})
}

fn complete(text: &str) -> Value {
    json!({"type": "complete", "data": text, "streaming": true})
}

fn usage(tokens: u64) -> ChatEvent {
    ChatEvent::Usage(TokenUsage { prompt_tokens: tokens, completion_tokens: tokens })
}

fn delta(text: &str) -> ChatEvent {
    ChatEvent::Delta(text.into())
}

#[test]
fn a_recorded_answer() {
    let expected = [
        ChatEvent::Received { record: 3 },
        delta("Hel"),
        delta("lo 世界"),
        ChatEvent::Usage(TokenUsage { prompt_tokens: 13, completion_tokens: 7 }),
        ChatEvent::Complete("Hello 世界".into()),
        ChatEvent::Saved { record: 4 },
    ];
    assert_eq!(heard(&[RECORDED.as_bytes()]), expected);
    for cut in 0..RECORDED.len() {
        let (before, after) = RECORDED.as_bytes().split_at(cut);
        assert_eq!(heard(&[before, after]), expected, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = RECORDED.as_bytes().chunks(1).collect();
    assert_eq!(heard(&bytes), expected);
}

#[test]
fn a_failed_model_is_an_error_and_not_a_text() {
    let bots_own = "LLM 响应错误: All chat models failed: Error code: 401";
    for text in [bots_own, OURS, "LLM 请求失败：未找到任何可用的对话模型"] {
        for streaming in [true, false] {
            let said = json!({"type": "plain", "data": text, "streaming": streaming, "chain_type": null});
            let expected = [usage(0), ChatEvent::Error(text.into())];
            assert_eq!(told(&[said.clone(), stats(0), complete(text), json!({"type": "end"})]), expected);
            assert_eq!(told(&[said.clone(), stats(0)]), expected, "a stream that breaks off");
            assert_eq!(told(&[said]), expected[1..], "before any usage was told");
        }
    }
    assert_eq!(told(&[piece(OURS), stats(9), complete(OURS)]), [usage(9), ChatEvent::Error(OURS.into())]);
    assert_eq!(
        told(&[stats(0), complete(bots_own)]),
        [usage(0), ChatEvent::Error(bots_own.into())],
        "pieces were lost"
    );
    assert_eq!(
        told(&[json!({"type": "error", "data": "WebChat run failed"})]),
        [ChatEvent::Error("WebChat run failed".into())]
    );
}

#[test]
fn a_failure_after_some_text_keeps_the_text() {
    let events = told(&[piece("Half of it"), piece("LLM 响应错误: Connection error.")]);
    assert_eq!(events, [delta("Half of it"), ChatEvent::Error("LLM 响应错误: Connection error.".into())]);
}

#[test]
fn text_that_only_looks_like_a_failure_is_text() {
    let events = told(&[piece("LLM"), piece(" 响应时间 matters"), stats(5), complete("LLM 响应时间 matters")]);
    assert_eq!(events, [delta("LLM 响应时间 matters"), usage(5), ChatEvent::Complete("LLM 响应时间 matters".into())]);
    let quoted = "LLM 响应错误 is what it says";
    assert_eq!(
        told(&[piece(quoted), stats(5), complete(quoted)]),
        [usage(5), delta(quoted), ChatEvent::Complete(quoted.into())]
    );
    assert_eq!(told(&[piece("LLM")]), [delta("LLM")]);
}

#[test]
fn several_messages_are_one_answer() {
    let whole = |text: &str| json!({"type": "plain", "data": text, "streaming": false, "chain_type": null});
    let events = told(&[whole("One."), piece("Tw"), piece("o."), complete("Two."), whole("Three.")]);
    let expected = [
        delta("One."),
        delta("\n\n"),
        delta("Tw"),
        delta("o."),
        ChatEvent::Complete("One.\n\nTwo.".into()),
        delta("\n\n"),
        delta("Three."),
    ];
    assert_eq!(events, expected);
}

#[test]
fn calls_of_tools_are_no_text_even_where_the_bot_says_so() {
    let call = json!({"type": "plain", "data": "{\"id\": 1}", "streaming": true, "chain_type": "tool_call"});
    let events = told(&[piece("Let me see. "), call, piece("It rains."), complete("Let me see. {\"id\": 1}It rains.")]);
    assert_eq!(
        events,
        [delta("Let me see. "), delta("It rains."), ChatEvent::Complete("Let me see. It rains.".into())]
    );
}

#[test]
fn lost_pieces_are_in_the_whole() {
    assert_eq!(told(&[piece("Hel"), complete("Hello")]), [delta("Hel"), ChatEvent::Complete("Hello".into())]);
}

#[test]
fn files_come_by_their_name() {
    let events = told(&[
        json!({"type": "image", "data": "[IMAGE]20261123.png"}),
        json!({"type": "file", "data": "[FILE]20261123.pdf|报告.pdf"}),
        json!({"type": "attachment_saved", "data": {"id": "x", "type": "file"}}),
    ]);
    let attachment =
        |reference: &str, kind: &str| ChatEvent::Attachment { reference: reference.into(), kind: kind.into() };
    assert_eq!(events, [attachment("20261123.png", "image"), attachment("20261123.pdf|报告.pdf", "file")]);
}

#[test]
fn an_answer_without_end_is_cut() {
    let (mut answer, mut ready) = (Answer::new(OURS, 100), VecDeque::new());
    for _ in 0..11 {
        answer.hear(piece("0123456789").to_string().as_bytes(), &mut ready);
    }
    assert!(matches!(ready.pop_back(), Some(Err(astrfleet_core::Error::TooLarge { limit_bytes: 100, .. }))));
}

proptest! {
    /// However a text is cut into pieces: their sum is the text, or it is a failure and nothing of it is shown.
    #[test]
    fn nothing_is_lost(texts in proptest::collection::vec("LLM|LLM 响应|LLM 响应错误|错误: x|Some|thing failed here|[a-z ]{1,5}", 1..6), tokens in 0_u64..3) {
        let whole = texts.concat();
        let events: Vec<Value> = texts.iter().map(|text| piece(text)).chain([stats(tokens), complete(&whole)]).collect();
        let events = told(&events);
        let shown: String = events.iter().filter_map(|event| match event { ChatEvent::Delta(text) => Some(text.as_str()), _ => None }).collect();
        let failure: String = events.iter().filter_map(|event| match event { ChatEvent::Error(text) => Some(text.as_str()), _ => None }).collect();
        prop_assert_eq!(format!("{}{}", shown, failure), whole.clone());
        let fails = tokens == 0 && FAILURE_MARKS.iter().any(|mark| whole.starts_with(mark));
        prop_assert!(!fails || shown.is_empty());
        prop_assert!(tokens == 0 || failure.is_empty());
    }

    #[test]
    fn no_bytes_are_too_strange(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..10), json in "data: \\{\"type\":\"(plain|complete|agent_stats|image|message_saved)\",\"data\":(null|1|\"x\"|\\{\\}|\\[\\])\\}\n\n") {
        let mut pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        pieces.push(json.as_bytes());
        heard(&pieces);
    }
}
