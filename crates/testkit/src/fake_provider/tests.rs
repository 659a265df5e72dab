//! A plain HTTP client against the fake: it has to keep to the protocol, and to break it exactly where it is told to.

use std::time::Instant;

use futures_util::StreamExt;

use super::*;

fn asking(text: &str, stream: bool) -> Value {
    json!({"model": "fake-fast", "stream": stream, "stream_options": {"include_usage": true},
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]})
}

async fn ask(provider: &FakeProvider, body: &Value) -> reqwest::Response {
    let request = reqwest::Client::new().post(format!("{}/chat/completions", provider.url()));
    request.bearer_auth("sk-provider").json(body).send().await.unwrap()
}

/// The JSON of every chunk before `[DONE]`.
async fn chunks(answer: reqwest::Response) -> Vec<Value> {
    let text = answer.text().await.unwrap();
    let mut data: Vec<&str> =
        text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap()).collect();
    assert_eq!(data.pop(), Some("[DONE]"));
    data.into_iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

fn content(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_stream_keeps_to_the_protocol() {
    let provider = FakeProvider::start();
    let answer = ask(&provider, &asking("hello there", true)).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
    let chunks = chunks(answer).await;

    assert_eq!(content(&chunks), "echo: hello there");
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    for chunk in &chunks {
        assert_eq!((&chunk["id"], &chunk["object"]), (&chunks[0]["id"], &json!("chat.completion.chunk")));
        assert_eq!(chunk["model"], "fake-fast");
    }
    let [.., finish, usage] = &chunks[..] else { panic!("{chunks:?}") };
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(finish["usage"], Value::Null, "null until the last chunk");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(4 + 3)));
}

#[tokio::test]
async fn usage_comes_only_when_asked_for() {
    let provider = FakeProvider::start();
    let mut body = asking("hello", true);
    body["stream_options"] = json!(null);
    let chunks = chunks(ask(&provider, &body).await).await;
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "{chunks:?}");
}

#[tokio::test]
async fn without_streaming_the_answer_is_one_object() {
    let provider = FakeProvider::start();
    let answer: Value = ask(&provider, &asking("hello", false)).await.json().await.unwrap();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": "echo: hello", "refusal": null})
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
}

#[tokio::test]
async fn every_request_is_kept_with_its_key() {
    let provider = FakeProvider::start();
    ask(&provider, &asking("one", false)).await;
    let title = json!({"model": "fake-fast", "messages": [
        {"role": "system", "content": "You are a conversation title generator."}, {"role": "user", "content": "#error=500"}]});
    assert_eq!(ask(&provider, &title).await.status(), 200, "a title is not directed");

    assert_eq!(provider.requests().len(), 2);
    let [chat] = &provider.chats()[..] else { panic!("the title is no chat") };
    assert_eq!((chat.bearer(), chat.user_text().as_str()), (Some("sk-provider"), "one"));
}

#[tokio::test]
async fn a_wrong_key_is_refused_where_one_is_required() {
    let provider = FakeProvider::start();
    provider.require_key("sk-other");
    let refused = ask(&provider, &asking("hello", true)).await;
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], "invalid_api_key");
    let models = reqwest::Client::new().get(format!("{}/models", provider.url()));
    assert_eq!(models.try_clone().unwrap().send().await.unwrap().status(), 401);
    let listed: Value = models.bearer_auth("sk-other").send().await.unwrap().json().await.unwrap();
    assert_eq!(listed["data"][0]["id"], "fake-fast");
}

#[tokio::test]
async fn errors_come_in_their_own_shape() {
    let provider = FakeProvider::start();
    for status in [401, 402, 429, 500] {
        let refused = ask(&provider, &asking(&format!("#error={status}"), true)).await;
        assert_eq!(refused.status(), status);
        assert_eq!(refused.headers().contains_key("retry-after"), status == 429);
        assert!(refused.json::<Value>().await.unwrap()["error"]["message"].is_string());
    }
    assert_eq!(ask(&provider, &json!({"messages": []})).await.status(), 400);
    assert_eq!(provider.counts().finished, 5);
}

#[tokio::test]
async fn the_queue_comes_before_the_default() {
    let provider = FakeProvider::start();
    provider.always(Behaviour::say("always"));
    provider.next(Behaviour::error(500));
    assert_eq!(ask(&provider, &asking("hello", true)).await.status(), 500);
    assert_eq!(content(&chunks(ask(&provider, &asking("hello", true)).await).await), "always");
}

#[tokio::test]
async fn the_number_of_chunks_is_exact() {
    let provider = FakeProvider::start();
    for wanted in [1, 2, 200] {
        let chunks = chunks(ask(&provider, &asking(&format!("a b c #chunks={wanted}"), true)).await).await;
        let filled = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(filled.count(), wanted);
        assert!(content(&chunks).starts_with("echo: a b c"));
        assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], wanted);
    }
}

#[tokio::test]
async fn a_stall_lasts_until_it_is_released() {
    let provider = FakeProvider::start();
    let first = ask(&provider, &asking("hello #stall", true)).await;
    let second = ask(&provider, &asking("hello #stall=2", true)).await;
    let counts = provider.wait_until(|counts| counts.stalled == 2).await;
    assert_eq!((counts.in_flight, counts.in_flight_max, counts.finished), (2, 2, 0));
    provider.release();
    assert_eq!(content(&chunks(first).await), "echo: hello #stall");
    assert_eq!(content(&chunks(second).await), "echo: hello #stall=2");
    provider.wait_until(|counts| counts.in_flight == 0 && counts.finished == 2 && counts.stalled == 0).await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_counted() {
    let provider = FakeProvider::start();
    let answer = ask(&provider, &asking("hello #stall", true)).await;
    provider.wait_until(|counts| counts.stalled == 1).await;
    drop(answer);
    let counts = provider.wait_until(|counts| counts.cancelled == 1).await;
    assert_eq!((counts.in_flight, counts.stalled, counts.finished), (0, 0, 0));
}

#[tokio::test]
async fn a_death_cuts_the_connection_after_what_was_sent() {
    let provider = FakeProvider::start();
    let mut body = ask(&provider, &asking("hello #die=1", true)).await.bytes_stream();
    let mut received = Vec::new();
    let error = loop {
        match body.next().await {
            Some(Ok(bytes)) => received.extend(bytes),
            Some(Err(error)) => break error,
            None => panic!("the stream ended cleanly"),
        }
    };
    assert!(error.is_body() || error.is_decode() || error.is_request(), "{error:?}");
    assert!(String::from_utf8(received).unwrap().contains("echo: "));
    assert!(ask(&provider, &asking("hello #die", false)).await.text().await.is_err());
    assert_eq!(provider.counts().died, 2);
}

#[tokio::test]
async fn wrong_streams_are_wrong_as_told() {
    let provider = FakeProvider::start();
    let broken = ask(&provider, &asking("hello #malformed", true)).await.text().await.unwrap();
    let unreadable = broken.split_terminator("\n\n").filter(|event| {
        let data = event.strip_prefix("data: ").unwrap();
        data != "[DONE]" && serde_json::from_str::<Value>(data).is_err()
    });
    assert_eq!(unreadable.count(), 1);
    let cut = ask(&provider, &asking("hello #cut", true)).await.text().await.unwrap();
    assert!(!cut.contains("[DONE]") && !cut.contains("\"stop\""), "{cut}");
    let huge = chunks(ask(&provider, &asking("hello #huge=1000000", true)).await).await;
    assert!(content(&huge).starts_with(&"x".repeat(1_000_000)));
}

#[tokio::test]
async fn a_tool_is_called_once_and_its_answer_is_used() {
    let provider = FakeProvider::start();
    let mut body = asking("look #tool=weather #args={\"city\":\"Oslo\"}", true);
    let called = chunks(ask(&provider, &body).await).await;
    let call = &called[0]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "weather");
    assert_eq!(called[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], "{\"city\":\"Oslo\"}");
    assert_eq!(called[2]["choices"][0]["finish_reason"], "tool_calls");

    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "rain"}));
    assert!(content(&chunks(ask(&provider, &body).await).await).ends_with("(the tool said: rain)"));
}

#[tokio::test]
async fn waiting_between_chunks_adds_up() {
    let provider = FakeProvider::start();
    let begun = Instant::now();
    chunks(ask(&provider, &asking("#slow=20 #chunks=5 #wait=20", true)).await).await;
    assert!(begun.elapsed() >= Duration::from_millis(120), "a sleep is never shorter than asked");
}

#[tokio::test]
async fn an_outage_refuses_connections_and_ends() {
    let mut provider = FakeProvider::start();
    let stalled = ask(&provider, &asking("#stall", true)).await;
    let url = format!("{}/models", provider.url());
    provider.go_down();
    assert!(stalled.text().await.is_err());
    assert!(reqwest::get(&url).await.unwrap_err().is_connect());
    provider.come_back();
    assert_eq!(reqwest::get(&url).await.unwrap().status(), 200);
}
