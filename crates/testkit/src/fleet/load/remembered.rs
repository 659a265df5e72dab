//! What a bot itself remembers of what was said to it: the one who knows whether something was said to it twice. What it
//! asks its model twice is another matter: it does so by itself, where the way to the model broke.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{clients::Said, settle::Outcome};

/// What users said to the bot in this folder, oldest first, by its own database.
pub(super) async fn texts(bot: &Path) -> Result<Vec<String>, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(bot.join("data").join("data_v4.db")).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let wanted = "SELECT content FROM platform_message_history WHERE sender_id <> 'bot' ORDER BY id";
    let rows: Vec<String> = sqlx::query_scalar(wanted).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows.iter().map(|content| text_of(content)).collect())
}

fn text_of(content: &str) -> String {
    let content: Value = serde_json::from_str(content).unwrap_or_default();
    let parts = content["message"].as_array().map(Vec::as_slice).unwrap_or_default();
    parts.iter().filter(|part| part["type"] == "plain").filter_map(|part| part["text"].as_str()).collect()
}

/// Each text was said once, and those of a session in their order.
pub(super) fn judge(outcome: &mut Outcome, said: &BTreeMap<String, Vec<Said>>, texts: &[String]) {
    for (session, said) in said {
        let place_of = |text: &str| said.iter().position(|said| said.text == text);
        let places: Vec<usize> = texts.iter().filter_map(|text| place_of(text)).collect();
        for (place, said) in said.iter().enumerate() {
            let count = places.iter().filter(|found| **found == place).count();
            if count > 1 {
                outcome.doubled += 1;
                outcome.notes.push(format!("{} was said to the bot {count} times", said.id));
            }
        }
        let mut firsts = Vec::new();
        for place in places {
            if !firsts.contains(&place) {
                firsts.push(place);
            }
        }
        let late = firsts.windows(2).filter(|pair| pair[0] > pair[1]).count();
        if late > 0 {
            outcome.disordered += late;
            outcome.notes.push(format!("the bot was asked in another order in {session}: {firsts:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(texts: &[&str]) -> (usize, usize) {
        let said = |text: &str| {
            let (id, text) = (text.into(), text.into());
            Said { id, text, answer: String::new(), or_longer: false, in_pieces: false }
        };
        let said = BTreeMap::from([("a".to_owned(), vec![said("a1"), said("a2")]), ("b".to_owned(), vec![said("b1")])]);
        let mut outcome = Outcome::default();
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        judge(&mut outcome, &said, &texts);
        (outcome.doubled, outcome.disordered)
    }

    #[test]
    fn what_the_bot_was_told_twice_or_too_early_is_counted() {
        assert_eq!(judged(&["a1", "b1", "a2"]), (0, 0));
        assert_eq!(judged(&["a1", "a1", "b1", "a2"]), (1, 0));
        assert_eq!(judged(&["a2", "b1", "a1"]), (0, 1));
    }

    #[test]
    fn a_text_is_read_from_what_the_bot_keeps() {
        let content = r#"{"type":"user","message":[{"type":"plain","text":"Hi"},{"type":"file","filename":"x"}]}"#;
        assert_eq!(text_of(content), "Hi");
    }
}
