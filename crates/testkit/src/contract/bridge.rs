//! What a store has to do with messages of IM channels: each once, in the one open session of its conversation.

use std::time::Duration;

use astrfleet_core::{
    Error,
    bridge::{Arrival, Verdict},
    id::TenantId,
    message::{Failure, Message, Sender, State, TokenUsage},
    page::PageRequest,
    ports::{Inbound, Spoken, Store, TakenIn, Told},
    session::{CloseReason, Event, Session, State as SessionState},
};
use futures_util::future::join_all;

use super::{
    messages::message,
    sessions::session,
    store::{Make, NOW},
    system::later,
};

const UMO: &str = "tg1:FriendMessage:7";

/// A message that a channel brought.
#[must_use]
pub fn inbound(make: &Make, tenant: &TenantId, umo: &str, number: &str, start: i64) -> Inbound {
    let session = Session { channel: "tg1".to_owned(), umo: Some(umo.to_owned()), ..session(make, tenant, "7") };
    let sender = Some(Box::new(Sender { id: "7".to_owned(), name: "Ann \u{0} 🎈".to_owned() }));
    let message = Message { sender, attachments: vec![], ..message(make, &session) };
    Inbound {
        message,
        session,
        platform_id: format!("in {umo} {number}"),
        delivery: format!("{start}-{}", make.ids.request()),
        start,
        arrival: Arrival::Asked,
    }
}

async fn take_in(store: &dyn Store, inbound: &Inbound) -> TakenIn {
    store.bridge(&inbound.message.tenant_id).take_in(inbound.clone()).await.unwrap()
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "bridge-ours").await;
    let other = make.stored_tenant(store, "bridge-theirs").await;
    once(store, make, &tenant, &other).await;
    by_whom(store, make, &tenant).await;
    a_later_start(store, make, &tenant).await;
    answers(store, make, &tenant).await;
    by_itself(store, make, &tenant, &other).await;
    at_the_same_moment(store, make, &tenant).await;
    overdue(store, make, &tenant).await;
    whatever_the_clocks_say(store, &tenant).await;
    let homeless = inbound(make, &make.ids.tenant(), UMO, "1", 1);
    let refused = store.bridge(&homeless.message.tenant_id).take_in(homeless).await;
    assert!(matches!(refused, Err(Error::NotFound { what: "tenant" })), "{refused:?}");
}

async fn once(store: &dyn Store, make: &Make, tenant: &TenantId, other: &TenantId) {
    let begun = store.system("the suite of the store").now().await.unwrap();
    let first = inbound(make, tenant, UMO, "1", 1);
    let taken = take_in(store, &first).await;
    assert_eq!((taken.is_new, taken.is_theirs, taken.opened), (true, true, true));
    assert_eq!(taken.session, first.session);
    let now = store.system("the suite of the store").now().await.unwrap();
    assert!(begun <= taken.message.updated_at && taken.message.updated_at <= now, "by the store's own clock");
    let updated_at = taken.message.updated_at;
    let stored = Message { state: State::Delivering, updated_at, ..first.message.clone() };
    assert_eq!(taken.message, stored);
    assert_eq!(store.messages(tenant).get(&stored.id).await.unwrap(), stored);

    let again = take_in(store, &first).await;
    assert_eq!((again.is_new, again.is_theirs, &again.message), (false, true, &stored), "the same time of telling");
    assert_eq!((taken.verdict, again.verdict), (Verdict::Answer, Verdict::Answer));
    let redelivered = take_in(store, &inbound(make, tenant, UMO, "1", 1)).await;
    assert_eq!((redelivered.is_new, redelivered.is_theirs, &redelivered.message.id), (false, false, &stored.id));
    assert_eq!(redelivered.verdict, Verdict::Drop);

    let second = take_in(store, &inbound(make, tenant, UMO, "2", 1)).await;
    assert_eq!((second.is_new, second.opened, &second.session.id), (true, false, &first.session.id));
    let elsewhere = take_in(store, &inbound(make, tenant, "tg1:GroupMessage:7", "1", 1)).await;
    assert!(elsewhere.is_new && elsewhere.opened, "numbers count within a conversation");
    let theirs = take_in(store, &inbound(make, other, UMO, "1", 1)).await;
    assert!(theirs.is_new && theirs.opened, "and within a tenant");
    assert!(matches!(store.bridge(other).find("in none 1").await, Err(Error::NotFound { what: "message" })));
    let (found, session) = store.bridge(tenant).find(&first.platform_id).await.unwrap();
    assert_eq!((found, session.id), (stored, first.session.id.clone()));

    // A conversation goes on in another session, and what was told before is not told into it.
    let sessions = store.sessions(tenant);
    let open = sessions.get(&first.session.id).await.unwrap();
    sessions.update(&open.after(Event::Closed(CloseReason::Idle), NOW).unwrap()).await.unwrap();
    let late = take_in(store, &inbound(make, tenant, UMO, "1", 1)).await;
    assert_eq!((late.is_new, &late.session.id), (false, &first.session.id));
    let third = take_in(store, &inbound(make, tenant, UMO, "3", 1)).await;
    assert!(third.opened && third.session.id != first.session.id);
}

async fn by_whom(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let umo = "tg1:FriendMessage:held";
    let first = take_in(store, &inbound(make, tenant, umo, "1", 1)).await;
    let sessions = store.sessions(tenant);
    let open = sessions.get(&first.session.id).await.unwrap();
    let active = sessions.update(&open.after(Event::TakenOver, NOW).unwrap()).await.unwrap();
    let held = take_in(store, &inbound(make, tenant, umo, "2", 1)).await;
    assert_eq!((held.session.state, held.message.state), (SessionState::Active, State::Done));
    assert_eq!(held.verdict, Verdict::Hold);
    assert_eq!(held.session.generation, active.generation);
    let failure = Failure { code: "quota_exceeded".to_owned(), detail: "used up".to_owned() };
    let refused = Inbound { arrival: Arrival::Refused(failure.clone()), ..inbound(make, tenant, umo, "3", 1) };
    let refused = take_in(store, &refused).await.message;
    assert_eq!((refused.state, refused.failure.as_ref()), (State::Blocked, Some(&failure)));
    assert_eq!(store.messages(tenant).get(&refused.id).await.unwrap(), refused);
}

async fn a_later_start(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let umo = "tg1:FriendMessage:killed";
    let first = inbound(make, tenant, umo, "1", 1);
    take_in(store, &first).await;
    let later = inbound(make, tenant, umo, "1", 2);
    let taken = take_in(store, &later).await;
    assert_eq!((taken.is_new, taken.is_theirs, &taken.message.id), (false, true, &first.message.id));
    assert!(take_in(store, &later).await.is_theirs);
    assert!(!take_in(store, &first).await.is_theirs, "whoever had it has lost it");
    let told = Told::Sent { id: make.ids.message(), text: "a".to_owned(), usage: None };
    store.bridge(tenant).told(&first.platform_id, "told later 1", told, NOW).await.unwrap();
    assert!(!take_in(store, &inbound(make, tenant, umo, "1", 3)).await.is_theirs, "it is answered");
}

async fn answers(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let bridge = store.bridge(tenant);
    let asked = inbound(make, tenant, "tg1:FriendMessage:asked", "1", 1);
    take_in(store, &asked).await;
    let usage = Some(TokenUsage { prompt_tokens: 7, completion_tokens: 5 });
    let say = |text: &str| Told::Sent { id: make.ids.message(), text: text.to_owned(), usage };
    let later = NOW.plus(Duration::from_secs(5));
    let first = bridge.told(&asked.platform_id, "told 1", say("an \u{0} answer"), later).await.unwrap();
    let id = first.said.clone().unwrap();
    assert_eq!((first.is_new, &first.session), (true, &asked.session.id));
    let exchange = store.messages(tenant).exchange(&asked.message.id).await.unwrap();
    let reply = exchange.reply.unwrap();
    assert_eq!((exchange.message.state, &reply.id, reply.usage), (State::Done, &id, usage));
    assert_eq!((reply.text.as_str(), reply.sender), ("an \u{fffd} answer", None));
    assert_eq!(store.sessions(tenant).get(&asked.session.id).await.unwrap().last_active_at, later);

    let again = bridge.told(&asked.platform_id, "told 1", say("an answer"), later).await.unwrap();
    assert_eq!((again.is_new, again.said), (false, Some(id)), "told twice, stored once");
    let more = bridge.told(&asked.platform_id, "told 2", say("and more"), later).await.unwrap();
    let more = store.messages(tenant).get(&more.said.unwrap()).await.unwrap();
    assert_eq!((more.reply_to, more.text.as_str()), (None, "and more"), "a second piece stands for itself");
    let nothing = Told::Ended(State::Failed, None);
    assert!(!bridge.told(&asked.platform_id, "told 3", nothing, later).await.unwrap().is_new, "an end stays an end");

    let silent = inbound(make, tenant, "tg1:FriendMessage:asked", "2", 1);
    take_in(store, &silent).await;
    let failure = Failure { code: "no_answer".to_owned(), detail: "nothing".to_owned() };
    let told = Told::Ended(State::Failed, Some(failure.clone()));
    assert!(bridge.told(&silent.platform_id, "told 4", told, later).await.unwrap().is_new);
    let ended = store.messages(tenant).get(&silent.message.id).await.unwrap();
    assert_eq!((ended.state, ended.failure), (State::Failed, Some(failure)));
    let late = bridge.told(&silent.platform_id, "told 5", say("said all the same"), later).await.unwrap();
    assert!(late.is_new && late.said.is_some());
    let history = store.messages(tenant).list(&asked.session.id, &PageRequest::first()).await.unwrap().items;
    assert_eq!(history.len(), 5);
    let missing = bridge.told("in none 1", "told 6", say("to nobody"), later).await;
    assert!(matches!(missing, Err(Error::NotFound { what: "message" })));
}

async fn by_itself(store: &dyn Store, make: &Make, tenant: &TenantId, other: &TenantId) {
    let (umo, bridge) = ("tg1:FriendMessage:7", store.bridge(tenant));
    let newest = bridge.newest_session("7", umo).await.unwrap();
    assert_ne!(newest.state, SessionState::Closed, "one was closed, and another opened: {newest:?}");
    let elsewhere = bridge.newest_session("eight", umo).await;
    assert!(matches!(elsewhere, Err(Error::NotFound { .. })), "{elsewhere:?}");
    let later = NOW.plus(Duration::from_secs(9));
    let spoken = Spoken { id: make.ids.message(), session: newest.id.clone(), text: "it is noon".to_owned() };
    let first = bridge.spoken(&spoken, "told noon", later).await.unwrap();
    assert_eq!((first.is_new, first.said.as_ref(), &first.session), (true, Some(&spoken.id), &newest.id));
    let stored = store.messages(tenant).get(&spoken.id).await.unwrap();
    assert_eq!((stored.reply_to, stored.state, stored.text.as_str()), (None, State::Done, "it is noon"));
    assert_eq!(store.sessions(tenant).get(&newest.id).await.unwrap().last_active_at, later);
    let again = Spoken { id: make.ids.message(), ..spoken.clone() };
    let again = bridge.spoken(&again, "told noon", later).await.unwrap();
    assert_eq!((again.is_new, again.said), (false, Some(spoken.id.clone())), "told twice, stored once");
    let theirs = store.bridge(other).spoken(&Spoken { id: make.ids.message(), ..spoken }, "told noon", later).await;
    assert!(matches!(theirs, Err(Error::NotFound { .. })), "another tenant's session: {theirs:?}");
}

async fn at_the_same_moment(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let umo = "tg1:FriendMessage:crowd";
    let all: Vec<_> = (0..8).map(|number| inbound(make, tenant, umo, &(number % 2).to_string(), 1)).collect();
    let taken = join_all(all.iter().map(|inbound| take_in(store, inbound))).await;
    assert_eq!(taken.iter().filter(|taken| taken.is_new).count(), 2, "each once");
    assert_eq!(taken.iter().filter(|taken| taken.is_theirs).count(), 2);
    let first = &taken[0].session.id;
    assert!(taken.iter().all(|taken| taken.session.id == *first), "in one session");
}

async fn overdue(store: &dyn Store, make: &Make, tenant: &TenantId) {
    let asked = inbound(make, tenant, "tg1:FriendMessage:overdue", "1", 1);
    let begun = store.system("the suite of the store").now().await.unwrap();
    let id = take_in(store, &asked).await.message.id;
    let system = store.system("the suite of the store");
    let ours = async |before| {
        let overdue = system.overdue_at_channels(before, 1_000).await.unwrap();
        overdue.into_iter().any(|(of, message)| of == *tenant && message == id)
    };
    assert!(!ours(begun).await);
    let after = later(store).await;
    assert!(ours(after).await);
    assert_eq!(system.overdue_at_channels(after, 1).await.unwrap().len(), 1);
    let unfinished = system.unfinished_messages(NOW, None, 1_000).await.unwrap();
    assert!(unfinished.iter().all(|(_, message)| *message != id), "nothing for our own repair");
    let told = Told::Ended(State::Done, None);
    store.bridge(tenant).told(&asked.platform_id, "told overdue", told, NOW).await.unwrap();
    assert!(!ours(after).await);
}

/// Processes whose clocks are an hour ahead and an hour behind take turns.
async fn whatever_the_clocks_say(store: &dyn Store, tenant: &TenantId) {
    let umo = "tg1:FriendMessage:clocks";
    let (ahead, behind) = (Make::at(NOW.plus(Duration::from_hours(1))), Make::at(NOW.minus(Duration::from_hours(1))));
    let mut said = Vec::new();
    for (number, make) in [&ahead, &behind, &ahead, &behind].into_iter().enumerate() {
        let asked = inbound(make, tenant, umo, &number.to_string(), 1);
        said.push(take_in(store, &asked).await.message.id);
        let told = Told::Sent { id: behind.ids.message(), text: "so it is".to_owned(), usage: None };
        let heard = store.bridge(tenant).told(&asked.platform_id, &format!("told clocks {number}"), told, NOW).await;
        said.push(heard.unwrap().said.unwrap());
    }
    assert!(said.is_sorted_by(|earlier, later| earlier < later), "{said:?}");
    let session = store.bridge(tenant).find(&format!("in {umo} 0")).await.unwrap().1;
    let history = store.messages(tenant).list(&session.id, &PageRequest::first()).await.unwrap().items;
    assert_eq!(history.into_iter().map(|message| message.id).collect::<Vec<_>>(), said);
}
