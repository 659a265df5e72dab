//! A plain HTTP client in place of a bot.

use super::*;

const TOKEN: &str = "42:abc";

async fn call(telegram: &FakeTelegram, method: &str, parameters: Value) -> Value {
    let url = format!("{}{TOKEN}/{method}", telegram.api_base_url());
    reqwest::Client::new().post(url).json(&parameters).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_wrong_token_is_refused() {
    let telegram = FakeTelegram::start();
    let _bot = telegram.bot(TOKEN);
    let url = format!("{}42:abd/getMe", telegram.api_base_url());
    let refused = reqwest::get(url).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json::<Value>().await.unwrap()["description"], "Unauthorized");
    assert_eq!(call(&telegram, "getMe", json!({})).await["result"]["id"], 42);
    assert_eq!(call(&telegram, "getNothing", json!({})).await["error_code"], 404);
}

#[tokio::test]
async fn an_update_is_handed_out_until_it_is_acknowledged() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let written = bot.send_text(7, "ann", "/help me @fake_42_bot");
    for _ in 0..2 {
        let updates = call(&telegram, "getUpdates", json!({"timeout": 10})).await;
        let update = &updates["result"][0];
        assert_eq!(update["update_id"], written.update_id);
        assert_eq!(
            (&update["message"]["chat"]["type"], &update["message"]["from"]["id"]),
            (&json!("private"), &json!(7))
        );
        assert_eq!(
            update["message"]["entities"],
            json!([
            {"type": "bot_command", "offset": 0, "length": 5}, {"type": "mention", "offset": 9, "length": 12}])
        );
    }
    assert!(!bot.is_drained());
    let updates = call(&telegram, "getUpdates", json!({"offset": written.update_id + 1, "timeout": 0})).await;
    assert_eq!(updates["result"], json!([]));
    bot.wait_until_drained().await;

    bot.redeliver(1);
    let again = call(&telegram, "getUpdates", json!({"offset": written.update_id + 1, "timeout": 0})).await;
    assert_eq!(again["result"][0]["message"]["message_id"], written.message_id);
}

#[tokio::test]
async fn a_long_poll_ends_when_somebody_writes() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let writing = async {
        bot.wait_until_polling(PATIENCE).await;
        bot.send_text(7, "ann", "hi")
    };
    let (updates, written) = tokio::join!(call(&telegram, "getUpdates", json!({"timeout": 50})), writing);
    assert_eq!(updates["result"][0]["update_id"], written.update_id);
    assert_eq!(bot.conflicts(), 0);
}

#[tokio::test]
async fn two_callers_of_one_bot_are_found_out() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let second = async {
        bot.wait_until_polling(PATIENCE).await;
        call(&telegram, "getUpdates", json!({"timeout": 0})).await
    };
    let (first, second) = tokio::join!(call(&telegram, "getUpdates", json!({"timeout": 50})), second);
    assert_eq!((&first["error_code"], &second["ok"]), (&json!(409), &json!(true)));
    assert_eq!(bot.conflicts(), 1);
}

#[tokio::test]
async fn held_messages_come_in_another_order() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    bot.hold();
    bot.send_text(7, "ann", "first");
    bot.send_text(7, "ann", "second");
    assert_eq!(call(&telegram, "getUpdates", json!({"timeout": 0})).await["result"], json!([]));
    bot.reorder();
    bot.flow();
    let updates = call(&telegram, "getUpdates", json!({"timeout": 0})).await["result"].clone();
    let seen: Vec<_> = updates.as_array().unwrap().iter().map(|update| update["message"]["text"].clone()).collect();
    assert_eq!(seen, ["second", "first"]);
    assert!(updates[0]["update_id"].as_i64() < updates[1]["update_id"].as_i64());
}

#[tokio::test]
async fn what_a_bot_sends_is_listed_as_people_read_it() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let url = format!("{}{TOKEN}/sendMessage", telegram.api_base_url());
    // As python-telegram-bot sends it: a form, with JSON inside.
    let form = "chat_id=7&text=echo%3A%20hi%5C.&parse_mode=MarkdownV2&reply_parameters=%7B%22message_id%22%3A3%7D";
    let request =
        reqwest::Client::new().post(url).header("content-type", "application/x-www-form-urlencoded").body(form);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    let message_id = answer["result"]["message_id"].as_i64().unwrap();
    let sent = bot.wait_for_text(7, "echo").await;
    assert_eq!((sent.text.as_str(), sent.reply_to, sent.message_id), ("echo: hi.", Some(3), message_id));

    let edit = json!({"chat_id": 7, "message_id": message_id, "text": "echo: ho"});
    assert_eq!(call(&telegram, "editMessageText", edit.clone()).await["ok"], true);
    assert_eq!(call(&telegram, "editMessageText", edit).await["description"], "Bad Request: message is not modified");
    let draft = json!({"chat_id": 7, "draft_id": 1, "text": "ec"});
    assert_eq!(call(&telegram, "sendMessageDraft", draft).await["result"], true);

    let sent = bot.sent();
    assert_eq!((sent.len(), sent[0].text.as_str(), sent[0].edits), (1, "echo: ho", 1));
    assert_eq!(bot.drafts(), [Draft { chat_id: 7, draft_id: 1, text: "ec".into() }]);
    assert_eq!(call(&telegram, "sendMessage", json!({"chat_id": 7, "text": " "})).await["error_code"], 400);
    assert_eq!(call(&telegram, "sendMessage", json!({"text": "x"})).await["error_code"], 400);
}

#[tokio::test]
async fn a_file_is_listed_with_its_name() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    let file = reqwest::multipart::Part::bytes(vec![1, 2, 3]).file_name("a.png");
    let form = reqwest::multipart::Form::new().text("chat_id", "7").text("caption", "look").part("photo", file);
    let url = format!("{}{TOKEN}/sendPhoto", telegram.api_base_url());
    let answer = reqwest::Client::new().post(url).multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let sent = bot.wait_for_text(7, "look").await;
    assert_eq!((sent.method.as_str(), sent.file.as_deref()), ("sendPhoto", Some("a.png")));
}

#[tokio::test]
async fn a_file_of_a_person_can_be_fetched() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    bot.send_file(7, "ann", "notes.txt", "hello", "read this");
    bot.send_file(7, "ann", "a.png", vec![1, 2, 3], "");
    let updates = call(&telegram, "getUpdates", json!({"timeout": 0})).await;
    assert_eq!(updates["result"][1]["message"]["photo"][0]["file_size"], 3);
    let message = &updates["result"][0]["message"];
    assert_eq!((&message["document"]["file_name"], &message["caption"]), (&json!("notes.txt"), &json!("read this")));

    let file = call(&telegram, "getFile", json!({"file_id": message["document"]["file_id"]})).await;
    let path = file["result"]["file_path"].as_str().unwrap();
    let fetch = async |token: &str| reqwest::get(format!("{}{token}/{path}", telegram.file_base_url())).await.unwrap();
    assert_eq!(fetch(TOKEN).await.text().await.unwrap(), "hello");
    assert_eq!(fetch("42:abd").await.status(), 401);
    assert_eq!(call(&telegram, "getFile", json!({"file_id": "other"})).await["error_code"], 400);
}

#[tokio::test]
async fn calls_go_wrong_as_told_and_then_right_again() {
    let telegram = FakeTelegram::start();
    let bot = telegram.bot(TOKEN);
    for failure in [Failure::CutBefore, Failure::CutAfter, Failure::Refuse(429)] {
        bot.fail_next("sendMessage", failure);
    }
    let url = format!("{}{TOKEN}/sendMessage", telegram.api_base_url());
    let send = async || reqwest::Client::new().post(&url).json(&json!({"chat_id": 7, "text": "hi"})).send().await;
    for effects in [0, 1] {
        let cut = match send().await {
            Ok(answer) => answer.bytes().await.is_err(),
            Err(_) => true,
        };
        assert!(cut);
        assert_eq!(bot.sent().len(), effects);
    }
    let refused = send().await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.json::<Value>().await.unwrap()["parameters"]["retry_after"], 1);
    assert_eq!(send().await.unwrap().status(), 200);
    assert_eq!((bot.sent().len(), bot.calls().len()), (2, 4));
}
