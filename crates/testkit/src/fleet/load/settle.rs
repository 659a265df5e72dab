//! What became of all that a load had acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Load,
    clients::Said,
    door::Tries,
    follow::{by_message, judge_events, out_of_order},
    remembered,
};

/// What it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages that were acknowledged.
    pub accepted: usize,
    /// With the answer that belongs to them.
    pub answered: usize,
    /// Ended without one.
    pub failed: Vec<Failed>,
    /// Acknowledged, and not there, never at an end, with another answer, or not told to who follows.
    pub lost: usize,
    /// Stored, answered, said to the bot or told to a reader more than once.
    pub doubled: usize,
    /// Said to the bot, or told to a webhook, after what came later in the same session.
    pub disordered: usize,
    /// Words of another session in this one.
    pub leaked: usize,
    /// Where it was said.
    pub sessions: Vec<String>,
    /// What is wrong, in words.
    pub notes: Vec<String>,
    /// What its tries came to.
    pub tries: Tries,
}

/// A message that ended without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Which, and what it said.
    pub note: String,
    /// Its model broke off an answer that it takes two seconds to give.
    pub midway: bool,
}

impl Outcome {
    /// Nothing is missing, whatever else may be wrong.
    pub(super) fn is_all_there(&self) -> bool {
        self.lost == 0 && self.answered + self.failed.len() == self.accepted
    }

    fn lost(&mut self, what: String) {
        self.lost += 1;
        self.notes.push(what);
    }
}

impl Load {
    pub(super) async fn look(&self) -> Outcome {
        let mut outcome = Outcome::default();
        let (said, sessions) = {
            let accepted = self.accepted.lock().unwrap();
            (accepted.said.clone(), accepted.sessions.clone())
        };
        outcome.sessions = said.keys().cloned().collect();
        let mut answered = BTreeSet::new();
        for (session, accepted) in &said {
            let Some(messages) = self.history(session).await else {
                outcome.accepted += accepted.len();
                outcome.lost(format!("the messages of {session} cannot be read"));
                continue;
            };
            compare(&mut outcome, session, accepted, &messages, &mut answered);
        }
        for (session, was_closed) in sessions.iter().filter(|(session, _)| !said.contains_key(*session)) {
            let path = format!("/api/v1/tenants/{}/sessions/{session}", self.tenant);
            let found = self.key.get(&path).await;
            if found.status != 200 || (*was_closed && found.body["state"] != "closed") {
                outcome.lost(format!("{session}, closed: {was_closed}, is {}", found.text));
            }
        }
        if let Some(bot) = &self.bot {
            match remembered::texts(bot).await {
                Ok(texts) => remembered::judge(&mut outcome, &said, &texts),
                Err(error) => outcome.lost(format!("the bot's memory cannot be read: {error}")),
            }
        }
        self.compare_what_was_told(&mut outcome, &said, &answered);
        outcome
    }

    fn compare_what_was_told(
        &self,
        outcome: &mut Outcome,
        said: &BTreeMap<String, Vec<Said>>,
        answered: &BTreeSet<String>,
    ) {
        let Some((follower, hook)) = &self.told else { return };
        let (read, hooked) = (follower.told(), hook.told());
        let (lost, doubled) = judge_events(&read, &mut outcome.notes);
        outcome.lost += lost;
        outcome.doubled += doubled;
        outcome.disordered += out_of_order(&hooked, &mut outcome.notes);
        let (by_reader, by_hook) = (by_message(&read), by_message(&hooked));
        for message in said.values().flatten() {
            let id = message.id.as_str();
            let stages = [("accepted", true), ("answered", answered.contains(id))];
            for (stage, _) in stages.into_iter().filter(|(_, is_due)| *is_due) {
                match by_reader.get(&(id, stage)) {
                    None => outcome.lost(format!("a reader of events was not told that {id} was {stage}")),
                    Some(1) => {}
                    Some(count) => {
                        outcome.doubled += 1;
                        outcome.notes.push(format!("{count} events say that {id} was {stage}"));
                    }
                }
                if !by_hook.contains_key(&(id, stage)) {
                    outcome.lost(format!("a webhook was not told that {id} was {stage}"));
                }
            }
        }
    }

    /// Everything in a session; none where it cannot be read at the moment.
    async fn history(&self, session: &str) -> Option<Vec<Value>> {
        let path = format!("/api/v1/tenants/{}/sessions/{session}/messages", self.tenant);
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.key.get(&format!("{path}?limit=200{cursor}")).await;
            all.extend(page.body["items"].as_array()?.iter().cloned());
            match page.body["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Some(all),
            }
        }
    }
}

/// The messages of one session with those that were acknowledged.
fn compare(
    outcome: &mut Outcome,
    session: &str,
    accepted: &[Said],
    messages: &[Value],
    answered: &mut BTreeSet<String>,
) {
    let mut texts: BTreeMap<&str, usize> = BTreeMap::new();
    for message in messages.iter().filter(|message| message["author"] == "user") {
        *texts.entry(message["text"].as_str().unwrap_or_default()).or_default() += 1;
    }
    for (text, count) in texts.iter().filter(|(_, count)| **count > 1) {
        outcome.doubled += 1;
        outcome.notes.push(format!("{text:?} is stored {count} times"));
    }
    for message in messages {
        let text = message["text"].as_str().unwrap_or_default();
        if text.contains(" of ses_") && !text.contains(&format!(" of {session}")) {
            outcome.leaked += 1;
            outcome.notes.push(format!("{session} has {text:?}"));
        }
    }
    for said in accepted {
        outcome.accepted += 1;
        let id = &said.id;
        let Some(message) = messages.iter().find(|message| message["id"] == **id) else {
            outcome.lost(format!("{id} is not there"));
            continue;
        };
        let replies: Vec<&Value> = messages.iter().filter(|reply| reply["reply_to"] == **id).collect();
        if replies.len() > 1 {
            outcome.doubled += 1;
            outcome.notes.push(format!("{id} has {} answers", replies.len()));
        }
        let state = message["state"].as_str().unwrap_or_default();
        let answer = replies.first().and_then(|reply| reply["text"].as_str());
        match (state, answer) {
            ("done", Some(text)) if text == said.answer || (said.or_longer && text.starts_with(&said.answer)) => {
                outcome.answered += 1;
                answered.insert(id.clone());
            }
            ("done", text) => outcome.lost(format!("{id} said {:?} and was answered {text:?}", said.text)),
            ("failed" | "blocked", _) => {
                let midway = said.in_pieces && message["failure"]["code"] == "model_failed";
                outcome.failed.push(Failed { note: format!("{id}: {}", message["failure"]), midway });
            }
            (state, _) => outcome.lost(format!("{id} is {state}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(id: &str, text: &str) -> Said {
        Said { id: id.into(), text: text.into(), answer: format!("echo: {text}"), or_longer: false, in_pieces: false }
    }

    fn judged(messages: &[Value]) -> Outcome {
        let mut outcome = Outcome::default();
        let accepted = [said("msg_1", "number 0 of ses_a"), said("msg_2", "number 1 of ses_a")];
        compare(&mut outcome, "ses_a", &accepted, messages, &mut BTreeSet::new());
        outcome
    }

    fn exchange(number: usize) -> [Value; 2] {
        let (id, text) = (format!("msg_{}", number + 1), format!("number {number} of ses_a"));
        let reply =
            json!({"id": format!("reply_{id}"), "author": "bot", "text": format!("echo: {text}"), "reply_to": id});
        [json!({"id": id, "author": "user", "state": "done", "text": text}), reply]
    }

    #[test]
    fn what_is_whole_is_answered() {
        let outcome = judged(&[exchange(0), exchange(1)].concat());
        let whole = Outcome { accepted: 2, answered: 2, ..Outcome::default() };
        assert_eq!(outcome, whole);
    }

    #[test]
    fn another_answer_than_its_own_is_none() {
        let mut messages = [exchange(0), exchange(1)].concat();
        messages[1]["text"] = json!("echo: number 0 of");
        assert_eq!(judged(&messages).lost, 1, "a part of it");
        messages[1]["text"] = json!("echo: number 1 of ses_a");
        assert_eq!(judged(&messages).lost, 1, "the next one's");
        messages[1]["text"] = json!("echo: number 0 of ses_b");
        assert_eq!((judged(&messages).lost, judged(&messages).leaked), (1, 1), "another session's");
    }

    #[test]
    fn what_is_there_twice_is_counted_and_what_is_not_there_too() {
        let mut messages = [exchange(0), exchange(1)].concat();
        messages.push(json!({"id": "reply", "author": "bot", "text": "again", "reply_to": "msg_1"}));
        messages.push(json!({"id": "msg_3", "author": "user", "text": "number 1 of ses_a", "state": "done"}));
        assert_eq!(judged(&messages).doubled, 2);
        assert_eq!(judged(&exchange(0)).lost, 1);
        let mut cut_off = [exchange(0), exchange(1)].concat();
        cut_off[0]["state"] = json!("interrupted");
        assert_eq!(judged(&cut_off).lost, 1);
        cut_off[0]["state"] = json!("failed");
        assert_eq!((judged(&cut_off).lost, judged(&cut_off).failed.len()), (0, 1));
    }
}
