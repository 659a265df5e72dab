//! Chatting through the public API: streamed, resumed, once for each key, whole, stopped, with pictures, and to the end
//! also when nobody listens any more.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{PROVIDER_KEY, World, is_over, text_of};

/// A picture of one pixel.
const PNG: &[u8] =
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\xdac\xfc\xcf\xc0P\
    \x0f\0\x04\x85\x01\x80\x84\xa9\x8c!\0\0\0\0IEND\xaeB`\x82";

/// Every event in its order, each with an id of its own; the answer is what its pieces make up.
pub async fn an_answer_is_streamed(world: &mut World) {
    let session = world.acme.session("stream").await;
    let events = session.stream("streamed please #chunks=12 #slow=20").await.rest().await;
    let names: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(names[0], "accepted", "{names:?}");
    assert_eq!(events[0].data["session_id"], session.id.as_str());
    let states: Vec<_> =
        events.iter().filter(|event| event.event == "state").map(|event| &event.data["state"]).collect();
    assert_eq!(states, ["queued", "delivering", "streaming"]);
    assert!(names.iter().filter(|name| **name == "delta").count() > 3, "it came in pieces: {names:?}");
    let done = events.last().unwrap();
    assert_eq!(done.event, "done", "{events:?}");
    assert_eq!(done.data["message"]["text"], text_of(&events));
    assert_eq!(done.data["message"]["reply_to"], events[0].data["message_id"]);
    assert_eq!(done.data["usage"]["completion_tokens"], 12, "{done:?}");
    // A state has the place of what was before it: whoever goes on from there is told how it is then.
    let places: Vec<&str> =
        events.iter().filter(|event| event.event != "state").map(|event| event.id.as_str()).collect();
    let ids: std::collections::HashSet<&str> = places.iter().copied().collect();
    assert!(ids.len() == places.len() && events.iter().all(|event| ids.contains(&*event.id)), "{events:?}");
    assert!(!ids.contains(""), "{events:?}");

    let asked = world.asked("streamed please");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].bearer(), Some(PROVIDER_KEY));
    assert_eq!(asked[0].body["model"], "fake-fast", "the model by the provider's own name");

    // The second question comes with the first and its answer.
    let answer = session.answer("and whole").await;
    assert_eq!(answer, "echo: and whole");
    let asked = world.asked("and whole").remove(0).body["messages"].to_string();
    assert!(asked.contains("streamed please"), "the bot remembers: {asked}");
}

/// Cut off in the middle, a reader comes back with the id of the last event and misses nothing: also while the answer
/// is still on its way.
pub async fn a_stream_goes_on_where_the_reader_was(world: &mut World) {
    let session = world.acme.session("resume").await;
    let api = world.acme.key.with_header("idempotency-key", "resume-1");
    let body = json!({"text": "to be resumed #stall=3 #chunks=8"});
    let mut stream = api.sse(&session.path, Some(body.clone())).await;
    let mut first = Vec::new();
    while text_of(&first).is_empty() {
        first.push(stream.next().await.expect("the answer begins"));
    }
    drop(stream);

    let last = &first.last().unwrap().id;
    let mut again = api.with_header("last-event-id", last).sse(&session.path, Some(body.clone())).await;
    world.provider.wait_until(|counts| counts.stalled == 1).await;
    world.provider.release();
    let mut rest = Vec::new();
    while let Some(event) = again.next().await {
        rest.push(event);
    }
    let done = rest.last().unwrap();
    assert_eq!(done.event, "done", "{rest:?}");
    let whole = done.data["message"]["text"].as_str().unwrap();
    assert_eq!(format!("{}{}", text_of(&first), text_of(&rest)), whole, "nothing twice, nothing missing");
    assert!(!rest.iter().any(|event| event.event == "accepted"), "{rest:?}");

    // After its end too, from any place, and from the beginning.
    let all = api.sse(&session.path, Some(body.clone())).await.rest().await;
    assert_eq!((all[0].event.as_str(), text_of(&all).as_str()), ("accepted", whole));
    for (index, event) in all.iter().enumerate() {
        let after = api.with_header("last-event-id", &event.id).sse(&session.path, Some(body.clone())).await;
        let told = text_of(&all[..=index]);
        assert_eq!(format!("{told}{}", text_of(&after.rest().await)), whole);
    }
    assert_eq!(world.asked("to be resumed").len(), 1);
    let wrong = api.with_header("last-event-id", "yesterday").try_sse(&session.path, Some(body)).await;
    assert_eq!(wrong.err().unwrap().status, 400);
}

/// The same key gives the same exchange, and one call of the model; with other words it is refused.
pub async fn a_key_makes_a_message_once(world: &mut World) {
    let session = world.acme.session("once").await;
    let api = world.acme.key.with_header("idempotency-key", "once-1");
    let body = json!({"text": "only once #wait=300"});
    let (first, second) = tokio::join!(api.post(&session.path, body.clone()), api.post(&session.path, body.clone()));
    let (first, second) = (first.ok(), second.ok());
    assert_eq!(first["message"]["id"], second["message"]["id"]);
    assert_eq!((&first["reply"]["text"], &first["reply"]), (&json!("echo: only once #wait=300"), &second["reply"]));
    let third = api.post(&session.path, body).await.ok();
    assert_eq!(third["reply"], first["reply"]);
    assert_eq!(world.asked("only once").len(), 1);
    assert_eq!(session.history().await.len(), 2);

    let other = api.post(&session.path, json!({"text": "something else"})).await;
    assert_eq!((other.status, &other.body["code"]), (422, &json!("idempotency_key_reused")), "{}", other.text);
    assert!(world.asked("something else").is_empty());
}

/// Page by page, the newest last on each, nothing twice and nothing missing.
pub async fn history_has_everything_in_order(world: &mut World) {
    let session = world.acme.session("history").await;
    for text in ["one", "two", "three"] {
        assert_eq!(session.answer(text).await, format!("echo: {text}"));
    }
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.acme.key.get(&format!("{}?limit=2{cursor}", session.path)).await.ok();
        pages.push(page["items"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    pages.reverse();
    let texts: Vec<String> =
        pages.concat().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, ["one", "echo: one", "two", "echo: two", "three", "echo: three"]);
    let wrong = world.acme.key.get(&format!("{}?cursor=../../etc", session.path)).await;
    assert_eq!((wrong.status, &wrong.body["code"]), (400, &json!("invalid")));
}

/// What was said so far is the answer, the model is left alone, and the session goes on.
pub async fn an_answer_is_stopped(world: &mut World) {
    let session = world.acme.session("stop").await;
    let before = world.provider.counts();
    let mut stream = session.stream("to be stopped #stall=3 #chunks=50").await;
    let message = stream.wait_for("accepted").await.data["message_id"].as_str().unwrap().to_owned();
    stream.wait_for("delta").await;
    let stopped = world.acme.key.post(&format!("{}/{message}/stop", session.path), json!({})).await.ok();
    assert_eq!(stopped["message"]["state"], "done", "{stopped}");
    let done = stream.wait_for("done").await;
    assert_eq!(stream.next().await, None);
    assert_eq!(done.data["message"]["text"], stopped["reply"]["text"]);
    let text = stopped["reply"]["text"].as_str().unwrap();
    assert!(!text.is_empty() && "echo: to be stopped #stall=3".starts_with(text.trim_end()), "{text:?}");
    world.provider.wait_until(|counts| counts.cancelled > before.cancelled).await;
    let again = world.acme.key.post(&format!("{}/{message}/stop", session.path), json!({})).await.ok();
    assert_eq!(again["reply"], stopped["reply"], "asking twice is the same as once");
    assert_eq!(session.answer("and on").await, "echo: and on");
}

/// Stored as it came, given to the bot, seen by the model.
pub async fn a_picture_reaches_the_model(world: &mut World) {
    let (api, session) = (&world.acme.key, world.acme.session("picture").await);
    let part = reqwest::multipart::Part::bytes(PNG).file_name("dot.png").mime_str("image/png").unwrap();
    let form = reqwest::multipart::Form::new().part("file", part);
    let sent = api.request(Method::POST, &world.acme.path("/attachments")).multipart(form).send().await.unwrap();
    assert_eq!(sent.status(), 201);
    let attachment: Value = sent.json().await.unwrap();
    assert_eq!((&attachment["name"], &attachment["media_type"]), (&json!("dot.png"), &json!("image/png")));
    let id = attachment["id"].as_str().unwrap();

    let body = json!({"text": "what is in this picture", "attachments": [id]});
    let exchange = api.post(&session.path, body).await.ok();
    assert_eq!(exchange["message"]["state"], "done", "{exchange}");
    assert_eq!(exchange["message"]["attachments"], json!([id]));
    let asked = world.asked("what is in this picture").remove(0);
    let messages = asked.body["messages"].as_array().unwrap();
    let parts = messages.last().unwrap()["content"].as_array().unwrap();
    let picture = parts.iter().find(|part| part["type"] == "image_url").expect("the picture is there");
    assert!(picture["image_url"]["url"].as_str().unwrap().starts_with("data:image/"), "{picture}");

    let path = world.acme.path(&format!("/attachments/{id}"));
    let fetched = api.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(fetched.headers()["content-type"], "image/png");
    assert_eq!(fetched.bytes().await.unwrap(), PNG);
    let unknown =
        api.post(&session.path, json!({"text": "x", "attachments": ["att_00000000000000000000000000"]})).await;
    assert!(matches!(unknown.status, 400 | 404), "{}", unknown.text);
}

/// The answer is there when they come back.
pub async fn a_client_that_goes_away_loses_nothing(world: &mut World) {
    let session = world.acme.session("gone").await;
    let mut stream = session.stream("nobody listens #stall=2 #chunks=6").await;
    let message = stream.wait_for("accepted").await.data["message_id"].as_str().unwrap().to_owned();
    stream.wait_for("delta").await;
    drop(stream);
    world.provider.wait_until(|counts| counts.stalled == 1).await;
    world.provider.release();
    let exchange = session.until(&message, is_over).await;
    assert_eq!(exchange["message"]["state"], "done", "{exchange}");
    assert_eq!(exchange["reply"]["text"], "echo: nobody listens #stall=2 #chunks=6 5", "all of it");
    assert_eq!(world.asked("nobody listens").len(), 1);
}

/// The provider sees its own key and no bot's; no bot's folder and no line of the log has the provider's.
pub async fn keys_stay_where_they_belong(world: &mut World) {
    let requests = world.provider.requests();
    assert!(requests.len() > 5, "there was something to see");
    for request in &requests {
        assert_eq!(request.bearer(), Some(PROVIDER_KEY));
    }
    let folder = world.platform.data_dir().join("bots");
    let (mut seen, mut virtual_keys) = (0, std::collections::HashSet::new());
    walk(&folder, &mut |path, content| {
        seen += 1;
        assert!(!contains(content, PROVIDER_KEY.as_bytes()), "{} has the provider's key", path.display());
        if path.ends_with("data/cmd_config.json") {
            let text = String::from_utf8_lossy(content);
            let config: Value = serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap();
            virtual_keys.insert(config["provider_sources"][0]["key"][0].as_str().unwrap().to_owned());
        }
    });
    assert!(seen > 10, "the bots have files");
    assert_eq!(virtual_keys.len(), 2, "a key of its own for each bot");
    let log = world.platform.log().join("\n");
    assert!(!log.contains(PROVIDER_KEY), "the provider's key is in no log");
    for key in &virtual_keys {
        assert!(!log.contains(key.as_str()), "a bot's key is in no log");
        for request in &requests {
            let headers = format!("{:?}", request.headers);
            assert!(!headers.contains(key.as_str()) && !request.body.to_string().contains(key.as_str()));
        }
    }
    assert!(!log.contains("streamed please"), "what people say is in no log");
}

fn walk(folder: &Path, see: &mut impl FnMut(&Path, &[u8])) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        // A bot is at work there: what goes away meanwhile is no file any more.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(&entry.path(), see);
        } else if kind.is_file()
            && let Ok(content) = std::fs::read(entry.path())
        {
            see(&entry.path(), &content);
        }
    }
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}
