//! What a store has to do with messages, from accepted to answered. How they are accepted is in [`super::accepts`].

use std::time::Duration;

use astrfleet_core::{
    Error,
    id::TenantId,
    message::{Author, Exchange, Failure, Message, State, TokenUsage},
    page::PageRequest,
    ports::{Accepted, Delivery, NewMessage, Outcome, Store},
    session::{CloseReason, Event, Session, State as SessionState},
    time::Timestamp,
};
use futures_util::future::join_all;

use super::{
    sessions::stored_session,
    store::{Make, NOW},
};

/// What an end user says, which is not stored yet.
#[must_use]
pub fn message(make: &Make, session: &Session) -> Message {
    Message {
        id: make.ids.message(),
        tenant_id: session.tenant_id.clone(),
        session_id: session.id.clone(),
        author: Author::User,
        sender: None,
        text: "Wo ist meine Bestellung? 📦".to_owned(),
        attachments: vec![make.ids.attachment(), make.ids.attachment()],
        state: State::Accepted,
        reply_to: None,
        failure: None,
        usage: None,
        created_at: NOW,
        updated_at: NOW,
    }
}

/// What the bot says to it, which is not stored yet.
#[must_use]
pub fn reply(make: &Make, question: &Message, state: State, at: Timestamp) -> Message {
    Message {
        id: make.ids.message(),
        author: Author::Bot,
        text: format!("Unterwegs ({}).", make.ids.request()),
        attachments: vec![],
        state,
        reply_to: Some(question.id.clone()),
        usage: Some(TokenUsage { prompt_tokens: 11, completion_tokens: 22 }),
        created_at: at,
        updated_at: at,
        ..question.clone()
    }
}

/// Accepts it.
pub async fn accepted(store: &dyn Store, message: &Message) {
    let new = NewMessage { message: message.clone(), idempotency: None };
    assert_eq!(store.messages(&message.tenant_id).accept(new).await.unwrap(), Accepted::New);
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "messages-ours").await;
    let other = make.stored_tenant(store, "messages-theirs").await;
    states(store, make, &tenant).await;
    answers(store, make, &tenant).await;
    an_interrupted_answer_is_replaced(store, make, &tenant).await;
    whoever_finishes_second_is_told_so(store, make, &tenant).await;
    whoever_takes_a_session_over_takes_what_is_open_in_it(store, make, &tenant).await;
    an_end_of_a_session_is_the_end_of_what_is_open_in_it(store, make, &tenant).await;
    a_bot_answers_where_a_session_is_its_own(store, make, &tenant).await;
    records_of_the_bot(store, make, &tenant).await;
    pages(store, make, &tenant).await;
    other_tenants(store, make, &tenant, &other).await;
    counts(store, make).await;
    order(store, make).await;
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

async fn states(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    let asked = message(make, &session);
    accepted(store, &asked).await;
    assert_eq!(messages.get(&asked.id).await.unwrap(), asked);
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), Exchange { message: asked.clone(), reply: None });
    let delivery = Delivery {
        message: asked.clone(),
        end_user: "ada".to_owned(),
        session_state: SessionState::Bot,
        bot_record: None,
        start: None,
        partial: String::new(),
        behind: None,
    };
    assert_eq!(messages.delivery(&asked.id).await.unwrap(), delivery);

    assert!(messages.claim(&asked.id, 3, after(1)).await.unwrap());
    assert!(!messages.claim(&asked.id, 4, after(2)).await.unwrap());
    assert!(!messages.set_state(&asked.id, State::Accepted, State::Delivering, after(2)).await.unwrap());
    messages.set_bot_record(&asked.id, 41).await.unwrap();
    assert!(messages.set_partial(&asked.id, "Unter\u{0}").await.unwrap());
    let claimed = Message { state: State::Delivering, updated_at: after(1), ..asked.clone() };
    let delivery = Delivery {
        message: claimed,
        bot_record: Some(41),
        start: Some(3),
        partial: "Unter\u{fffd}".to_owned(),
        ..delivery
    };
    assert_eq!(messages.delivery(&asked.id).await.unwrap(), delivery);

    let claims = (0..8).map(|_| messages.set_state(&asked.id, State::Delivering, State::Streaming, after(3)));
    let won = join_all(claims).await.into_iter().filter(|claim| *claim.as_ref().unwrap()).count();
    assert_eq!(won, 1, "one of those who come at the same moment");

    let missing = make.ids.message();
    assert!(matches!(messages.get(&missing).await, Err(Error::NotFound { what: "message" })));
    assert!(matches!(messages.exchange(&missing).await, Err(Error::NotFound { what: "message" })));
    assert!(matches!(messages.delivery(&missing).await, Err(Error::NotFound { what: "message" })));
    assert!(matches!(messages.set_bot_record(&missing, 1).await, Err(Error::NotFound { what: "message" })));
    assert!(matches!(messages.set_partial(&missing, "").await, Err(Error::NotFound { what: "message" })));
    assert!(!messages.set_state(&missing, State::Accepted, State::Delivering, NOW).await.unwrap());
    assert!(!messages.claim(&missing, 1, NOW).await.unwrap());
}

async fn answers(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    let asked = message(make, &session);
    accepted(store, &asked).await;
    let answer = reply(make, &asked, State::Done, after(5));
    let finish = async |from: &[State], outcome| messages.finish(&asked.id, from, outcome, after(5)).await;

    assert!(!finish(&[], Outcome::Reply(answer.clone())).await.unwrap(), "from nowhere");
    assert!(!finish(&[State::Delivering], Outcome::Reply(answer.clone())).await.unwrap(), "from another state");
    assert_eq!(messages.exchange(&asked.id).await.unwrap().reply, None);
    let elsewhere = stored_session(store, make, tenant, "ada").await;
    for wrong in [
        Message { reply_to: Some(make.ids.message()), ..answer.clone() },
        Message { reply_to: None, ..answer.clone() },
        Message { state: State::Accepted, ..answer.clone() },
        Message { tenant_id: make.ids.tenant(), ..answer.clone() },
        Message { session_id: elsewhere.id, ..answer.clone() },
    ] {
        let refused = finish(&[State::Accepted], Outcome::Reply(wrong)).await;
        assert!(matches!(refused, Err(Error::Internal { .. })), "{refused:?}");
    }
    let refused = finish(&[State::Accepted], Outcome::NoReply(State::Streaming, None)).await;
    assert!(matches!(refused, Err(Error::Internal { .. })));
    assert_eq!(messages.get(&asked.id).await.unwrap(), asked, "and nothing was changed");

    messages.set_partial(&asked.id, "Unter").await.unwrap();
    let every = [
        State::Accepted,
        State::Delivering,
        State::Streaming,
        State::Interrupted,
        State::Done,
        State::Failed,
        State::Blocked,
    ];
    assert!(finish(&every, Outcome::Reply(answer.clone())).await.unwrap());
    let done = Message { state: State::Done, updated_at: after(5), ..asked.clone() };
    let exchange = Exchange { message: done, reply: Some(answer.clone()) };
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange);
    assert_eq!(messages.delivery(&asked.id).await.unwrap().partial, "", "it was for the repair alone");
    assert_eq!(store.sessions(tenant).get(&session.id).await.unwrap().last_active_at, after(5));

    assert!(!messages.set_partial(&asked.id, "Unter").await.unwrap(), "it is at its end");
    let other = Outcome::Reply(reply(make, &asked, State::Done, after(6)));
    assert!(!finish(&every, other).await.unwrap(), "a whole answer stays");
    assert!(!finish(&every, Outcome::NoReply(State::Failed, None)).await.unwrap());
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange);

    let hopeless = message(make, &session);
    accepted(store, &hopeless).await;
    let failure =
        Failure { code: "model_failed".to_owned(), detail: "The model did not answer: try again.".to_owned() };
    let outcome = Outcome::NoReply(State::Failed, Some(failure.clone()));
    assert!(messages.finish(&hopeless.id, &[State::Accepted], outcome, after(2)).await.unwrap());
    let failed = Message { state: State::Failed, failure: Some(failure), updated_at: after(2), ..hopeless.clone() };
    assert_eq!(messages.exchange(&hopeless.id).await.unwrap(), Exchange { message: failed, reply: None });
    let touched = store.sessions(tenant).get(&session.id).await.unwrap();
    assert_eq!(touched.last_active_at, after(5), "activity never goes back");
    assert_eq!(touched.version, session.version, "and is not a change that anybody made");
}

async fn an_interrupted_answer_is_replaced(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    let asked = message(make, &session);
    accepted(store, &asked).await;
    messages.set_partial(&asked.id, "Unter").await.unwrap();
    let part = reply(make, &asked, State::Interrupted, after(1));
    let finish = async |from, outcome, at| messages.finish(&asked.id, &[from], outcome, at).await.unwrap();
    assert!(finish(State::Accepted, Outcome::Reply(part.clone()), after(1)).await);
    let interrupted = Message { state: State::Interrupted, updated_at: after(1), ..asked.clone() };
    let exchange = Exchange { message: interrupted.clone(), reply: Some(part.clone()) };
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange);
    assert_eq!(messages.delivery(&asked.id).await.unwrap().partial, "Unter", "kept for the repair");

    let more = reply(make, &asked, State::Interrupted, after(2));
    assert!(finish(State::Interrupted, Outcome::Reply(more.clone()), after(2)).await);
    let exchange = Exchange { message: interrupted, reply: Some(more.clone()) };
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange, "it was interrupted when it was");
    assert!(finish(State::Interrupted, Outcome::NoReply(State::Interrupted, None), after(3)).await);
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange, "what came stays");

    let whole = Message { id: more.id, ..reply(make, &asked, State::Done, after(4)) };
    assert!(finish(State::Interrupted, Outcome::Reply(whole.clone()), after(4)).await);
    let done = Message { state: State::Done, updated_at: after(4), ..asked.clone() };
    let exchange = Exchange { message: done.clone(), reply: Some(whole.clone()) };
    assert_eq!(messages.exchange(&asked.id).await.unwrap(), exchange);
    let all = messages.list(&session.id, &PageRequest::first()).await.unwrap().items;
    assert_eq!(all, [done, whole], "never more than one answer");
    assert!(matches!(messages.get(&part.id).await, Err(Error::NotFound { .. })));
}

async fn whoever_finishes_second_is_told_so(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    for from in [State::Streaming, State::Interrupted] {
        let messages = store.messages(tenant);
        let asked = message(make, &session);
        accepted(store, &asked).await;
        assert!(messages.set_state(&asked.id, State::Accepted, from, NOW).await.unwrap());
        let answers: Vec<_> = (0..4).map(|_| reply(make, &asked, State::Done, after(1))).collect();
        let finishes = answers.iter().map(|answer| {
            let from = [State::Streaming, State::Interrupted];
            let messages = &messages;
            let asked = &asked.id;
            async move { messages.finish(asked, &from, Outcome::Reply(answer.clone()), after(1)).await.unwrap() }
        });
        let won: Vec<_> = join_all(finishes).await;
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "exactly one");
        let winner = won.iter().position(|won| *won).map(|winner| answers[winner].clone());
        assert_eq!(messages.exchange(&asked.id).await.unwrap().reply, winner, "and its answer is the one");
    }
}

/// Lets something happen to a session.
async fn happens(store: &dyn Store, session: &Session, event: Event, at: Timestamp) -> Result<Session, Error> {
    let sessions = store.sessions(&session.tenant_id);
    sessions.update(&sessions.get(&session.id).await?.after(event, at)?).await
}

async fn in_state(store: &dyn Store, make: &Make, session: &Session, state: State) -> Message {
    let asked = message(make, session);
    accepted(store, &asked).await;
    let messages = store.messages(&session.tenant_id);
    assert!(state == State::Accepted || messages.set_state(&asked.id, State::Accepted, state, after(1)).await.unwrap());
    messages.get(&asked.id).await.unwrap()
}

async fn whoever_takes_a_session_over_takes_what_is_open_in_it(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let messages = store.messages(tenant);
    let before = [State::Accepted, State::Delivering, State::Streaming, State::Interrupted];
    for event in [Event::TakenOver, Event::PersonWanted] {
        let session = stored_session(store, make, tenant, "ada").await;
        let beside = in_state(store, make, &stored_session(store, make, tenant, "ada").await, State::Streaming).await;
        let mut open = Vec::new();
        for state in before {
            open.push(in_state(store, make, &session, state).await);
        }
        let long_ago = in_state(store, make, &session, State::Accepted).await;
        assert!(
            messages.set_state(&long_ago.id, State::Accepted, State::Interrupted, Timestamp::default()).await.unwrap()
        );
        let failed = in_state(store, make, &session, State::Failed).await;
        happens(store, &session, event, after(2)).await.unwrap();
        // Neither now nor when they have handed back: an answer to a question of before comes too late for good.
        for handed_back in [false, true] {
            if handed_back {
                happens(store, &session, Event::HandedBack, after(3)).await.unwrap();
            }
            for asked in &open {
                let left = Message { state: State::Done, updated_at: after(2), ..asked.clone() };
                let late = Outcome::Reply(reply(make, asked, State::Done, after(4)));
                assert!(!messages.finish(&asked.id, &before, late, after(4)).await.unwrap());
                let exchange = messages.exchange(&asked.id).await.unwrap();
                assert_eq!(exchange, Exchange { message: left, reply: None }, "{event:?}, {handed_back}");
                assert!(!messages.set_partial(&asked.id, "Unter").await.unwrap());
            }
        }
        assert_eq!(messages.get(&long_ago.id).await.unwrap().state, State::Interrupted, "nobody would repair it");
        assert_eq!(messages.get(&failed.id).await.unwrap(), failed);
        assert_eq!(messages.get(&beside.id).await.unwrap(), beside, "of another session");
    }
}

async fn an_end_of_a_session_is_the_end_of_what_is_open_in_it(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let messages = store.messages(tenant);
    let session = stored_session(store, make, tenant, "ada").await;
    // More than one statement tells of.
    let mut open = Vec::new();
    for _ in 0..70 {
        open.push(in_state(store, make, &session, State::Accepted).await);
    }
    let idle = happens(store, &session, Event::Closed(CloseReason::Idle), after(2)).await;
    assert!(matches!(idle, Err(Error::Stale { what: "session" })), "somebody has written: {idle:?}");
    assert_eq!(messages.get(&open[0].id).await.unwrap(), open[0], "and nothing was changed");
    let told = async || store.events(tenant).bounds().await.unwrap().1;
    let before = told().await;
    happens(store, &session, Event::Closed(CloseReason::Closed), after(2)).await.unwrap();
    assert_eq!(told().await - before, 71, "each of them, and the session");
    for asked in &open {
        let late = Outcome::Reply(reply(make, asked, State::Done, after(4)));
        assert!(!messages.finish(&asked.id, &[State::Accepted], late, after(4)).await.unwrap());
        let ended = messages.exchange(&asked.id).await.unwrap();
        assert_eq!((ended.message.state, ended.reply), (State::Failed, None));
        assert_eq!(ended.message.failure.unwrap().code, "stopped");
    }
    let empty = stored_session(store, make, tenant, "ada").await;
    let closed = happens(store, &empty, Event::Closed(CloseReason::Idle), after(2)).await.unwrap();
    assert_eq!(closed.state, SessionState::Closed);
}

/// What was stored at the very moment in which a person took over was not open for them to be taken.
async fn a_bot_answers_where_a_session_is_its_own(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let messages = store.messages(tenant);
    for event in [Event::TakenOver, Event::PersonWanted, Event::Closed(CloseReason::Closed)] {
        let session = stored_session(store, make, tenant, "ada").await;
        let now = happens(store, &session, event, after(1)).await.unwrap();
        let asked = message(make, &session);
        accepted(store, &asked).await;
        assert_eq!(messages.delivery(&asked.id).await.unwrap().session_state, now.state);
        assert!(!messages.claim(&asked.id, 1, after(2)).await.unwrap());
        for state in [State::Done, State::Interrupted] {
            let answer = Outcome::Reply(reply(make, &asked, state, after(2)));
            assert!(!messages.finish(&asked.id, &[State::Accepted], answer, after(2)).await.unwrap());
        }
        assert_eq!(messages.exchange(&asked.id).await.unwrap(), Exchange { message: asked.clone(), reply: None });
        assert!(
            messages
                .finish(&asked.id, &[State::Accepted], Outcome::NoReply(State::Done, None), after(2))
                .await
                .unwrap()
        );
    }
}

async fn records_of_the_bot(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let elsewhere = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    let (first, second, third) = (message(make, &session), message(make, &session), message(make, &session));
    let stranger = message(make, &elsewhere);
    for asked in [&first, &second, &third, &stranger] {
        accepted(store, asked).await;
    }
    messages.set_bot_record(&stranger.id, 99).await.unwrap();
    assert_eq!(messages.last_bot_record(&session.id, &third.id).await.unwrap(), 0);
    messages.set_bot_record(&first.id, 1).await.unwrap();
    // Its answer comes after the next question, and belongs to the first one nevertheless.
    let answer = reply(make, &first, State::Interrupted, NOW);
    assert!(messages.finish(&first.id, &[State::Accepted], Outcome::Reply(answer.clone()), NOW).await.unwrap());
    messages.set_reply_record(&answer.id, 2).await.unwrap();
    messages.set_bot_record(&second.id, 3).await.unwrap();
    for (before, record) in [(&first, 0), (&second, 2), (&third, 3)] {
        assert_eq!(messages.last_bot_record(&session.id, &before.id).await.unwrap(), record);
    }
    let whole = reply(make, &first, State::Done, NOW);
    assert!(messages.finish(&first.id, &[State::Interrupted], Outcome::Reply(whole), NOW).await.unwrap());
    assert_eq!(messages.last_bot_record(&session.id, &second.id).await.unwrap(), 2, "it is the same answer");
    let missing = messages.set_reply_record(&make.ids.message(), 1).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "message" })));
}

async fn pages(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let messages = store.messages(tenant);
    assert_eq!(messages.list(&session.id, &PageRequest::first()).await.unwrap().items, []);
    let said: Vec<_> = (0..7).map(|_| message(make, &session)).collect();
    for message in &said {
        accepted(store, message).await;
    }
    let page = messages.list(&session.id, &PageRequest { limit: 3, after: None }).await.unwrap();
    assert_eq!(page.items, said[4..], "the newest page, the newest last");
    let page = messages.list(&session.id, &PageRequest { limit: 3, after: page.next_cursor }).await.unwrap();
    assert_eq!(page.items, said[1..4]);
    let page = messages.list(&session.id, &PageRequest { limit: 3, after: page.next_cursor }).await.unwrap();
    assert_eq!((page.items, page.next_cursor), (vec![said[0].clone()], None));
}

async fn other_tenants(store: &dyn Store, make: &Make, tenant: &TenantId, other: &TenantId) {
    let session = stored_session(store, make, tenant, "ada").await;
    let (ours, theirs) = (store.messages(tenant), store.messages(other));
    let asked = message(make, &session);
    accepted(store, &asked).await;
    let not_found = |found: Result<(), Error>| assert!(matches!(found, Err(Error::NotFound { what: "message" })));
    not_found(theirs.get(&asked.id).await.map(drop));
    not_found(theirs.exchange(&asked.id).await.map(drop));
    not_found(theirs.delivery(&asked.id).await.map(drop));
    not_found(theirs.set_bot_record(&asked.id, 1).await);
    not_found(theirs.set_reply_record(&asked.id, 1).await);
    not_found(theirs.set_partial(&asked.id, "").await.map(drop));
    assert!(!theirs.set_state(&asked.id, State::Accepted, State::Done, NOW).await.unwrap());
    let answer = Message { tenant_id: other.clone(), ..reply(make, &asked, State::Done, NOW) };
    for outcome in [Outcome::Reply(answer), Outcome::NoReply(State::Failed, None)] {
        assert!(!theirs.finish(&asked.id, &[State::Accepted], outcome, NOW).await.unwrap());
    }
    assert_eq!(theirs.list(&session.id, &PageRequest::first()).await.unwrap().items, []);
    ours.set_bot_record(&asked.id, 5).await.unwrap();
    assert_eq!(theirs.last_bot_record(&session.id, &make.ids.message()).await.unwrap(), 0);
    assert_eq!(theirs.count_since(Timestamp::default()).await.unwrap(), 0);
    assert_eq!(ours.get(&asked.id).await.unwrap(), asked, "another tenant sees nothing and changes nothing");
}

async fn counts(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "messages-counted").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    let messages = store.messages(&tenant);
    assert_eq!(messages.count_since(Timestamp::default()).await.unwrap(), 0);
    let early = message(make, &session);
    // When it was written, a bot says; when it came to us, its id does.
    let late = Message { created_at: NOW.minus(Duration::from_hours(99)), ..message(&Make::at(after(60)), &session) };
    let agent = Message { author: Author::Agent, state: State::Done, ..message(make, &session) };
    for message in [&early, &late, &agent] {
        accepted(store, message).await;
    }
    let answer = reply(make, &early, State::Done, after(60));
    assert!(messages.finish(&early.id, &[State::Accepted], Outcome::Reply(answer), after(60)).await.unwrap());
    assert_eq!(messages.count_since(NOW).await.unwrap(), 2, "what end users said, and nothing else");
    assert_eq!(messages.count_since(after(60)).await.unwrap(), 1);
    assert_eq!(messages.count_since(after(61)).await.unwrap(), 0);
    assert_eq!(messages.count_since(NOW.minus(Duration::from_hours(24))).await.unwrap(), 2);
}

/// Each message waits for the one before it in its session.
async fn order(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "messages-in-order").await;
    let (session, beside) =
        (stored_session(store, make, &tenant, "ada").await, stored_session(store, make, &tenant, "bob").await);
    let sessions = store.sessions(&tenant);
    assert_eq!(sessions.get_with_newest(&session.id).await.unwrap(), (session.clone(), None));
    let missing = sessions.get_with_newest(&make.ids.session()).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "session" })));
    let said = [message(make, &session), message(make, &beside), message(make, &session), message(make, &session)];
    for message in &said {
        accepted(store, message).await;
    }
    assert_eq!(sessions.get_with_newest(&session.id).await.unwrap(), (session.clone(), Some(said[3].id.clone())));
    let messages = store.messages(&tenant);
    let behind = async |number: usize| messages.delivery(&said[number].id).await.unwrap().behind;
    assert_eq!((behind(0).await, behind(1).await), (None, None), "nobody is before them in their sessions");
    let first = |state| Some((said[0].id.clone(), state));
    assert_eq!((behind(2).await, behind(3).await), (first(State::Accepted), first(State::Accepted)));
    assert!(messages.set_state(&said[0].id, State::Accepted, State::Delivering, NOW).await.unwrap());
    assert_eq!(behind(3).await, first(State::Delivering));

    let open = messages.open(None, 9).await.unwrap();
    let expected: Vec<_> = said
        .iter()
        .map(|message| {
            let state = if message.id == said[0].id { State::Delivering } else { State::Accepted };
            (message.session_id.clone(), message.id.clone(), state)
        })
        .collect();
    assert_eq!(open, expected, "the oldest first");
    assert_eq!(messages.open(Some(&said[1].id), 1).await.unwrap(), expected[2..3]);
    assert_eq!(messages.count_waiting().await.unwrap(), 3);

    let outcome = || Outcome::NoReply(State::Failed, None);
    assert!(messages.finish(&said[2].id, &[State::Accepted], outcome(), NOW).await.unwrap());
    assert_eq!(behind(3).await, first(State::Delivering), "not only the one directly before it");
    assert!(messages.finish(&said[0].id, &[State::Delivering], outcome(), NOW).await.unwrap());
    assert_eq!(behind(3).await, None);
    assert_eq!(messages.open(None, 9).await.unwrap().len(), 2);
    let nobody = make.stored_tenant(store, "messages-of-nobody").await;
    assert_eq!(store.messages(&nobody).open(None, 9).await.unwrap(), []);
    assert_eq!(store.messages(&nobody).count_waiting().await.unwrap(), 0);
}
