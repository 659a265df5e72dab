//! What a store has to do with what is kept for too long.

use std::time::Duration;

use astrfleet_core::{
    id::{AttachmentId, EventId, MessageId, TenantId, UserId, WebhookId},
    message::{Message, Sender, State},
    page::PageRequest,
    ports::{Begun, Erased, Inbound, NewDelivery, SentBy, Store, StoredAnswer, Told},
    session::{CloseReason, Event, Session},
};

use super::{
    attachments::attachment,
    bridge::inbound,
    messages::{accepted, message},
    search,
    sessions::stored_session,
    store::{Make, NOW},
    usage, webhooks,
};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "retaining-ours").await;
    let other = make.stored_tenant(store, "retaining-theirs").await;
    let (ours, theirs) = (store.retention(&tenant), store.retention(&other));
    let session = stored_session(store, make, &tenant, "ada").await;
    let mut said: Vec<MessageId> = Vec::new();
    for state in [State::Done, State::Failed, State::Accepted, State::Done, State::Done] {
        let one = Message { state, ..message(make, &session) };
        accepted(store, &one).await;
        said.push(one.id);
    }
    let left = async || {
        let said = store.search(&tenant).oldest("msg_", "msg_g", 99).await.unwrap();
        said.into_iter().map(|one| one.id).collect::<Vec<_>>()
    };
    let edge = said[4].as_str();
    assert_eq!(theirs.delete_messages(edge, 9).await.unwrap(), 0, "another tenant's");
    assert_eq!(ours.delete_messages(edge, 2).await.unwrap(), 2, "the oldest first");
    assert_eq!(left().await, said[2..]);
    assert_eq!(ours.delete_messages(edge, 9).await.unwrap(), 1);
    assert_eq!(left().await, [said[2].clone(), said[4].clone()], "somebody waits for the one, the other is too young");

    let later = NOW.plus(Duration::from_secs(1));
    let closed = store.sessions(&tenant).get(&session.id).await.unwrap();
    let closed = closed.after(Event::Closed(CloseReason::Closed), NOW).unwrap();
    store.sessions(&tenant).update(&closed).await.unwrap();
    let empty = stored_session(store, make, &tenant, "eve").await;
    assert_eq!(ours.delete_sessions(later, 9).await.unwrap(), 0, "one has messages, and one is open");
    let over = empty.after(Event::Closed(CloseReason::Idle), NOW).unwrap();
    store.sessions(&tenant).update(&over).await.unwrap();
    assert_eq!(ours.delete_sessions(NOW, 9).await.unwrap(), 0, "the moment is not included");
    assert_eq!(theirs.delete_sessions(later, 9).await.unwrap(), 0);
    assert_eq!(ours.delete_sessions(later, 9).await.unwrap(), 1);

    let files: Vec<AttachmentId> = (0..3).map(|_| make.ids.attachment()).collect();
    for file in &files {
        store.attachments(&tenant).insert(&attachment(file.clone(), &tenant, 1), u64::MAX).await.unwrap();
    }
    assert_eq!(ours.attachments(files[2].as_str(), 9).await.unwrap(), files[..2]);
    assert_eq!(ours.attachments("att_g", 1).await.unwrap(), files[..1]);
    assert_eq!(theirs.attachments("att_g", 9).await.unwrap(), []);
    theirs.delete_attachment(&files[0]).await.unwrap();
    ours.delete_attachment(&files[1]).await.unwrap();
    assert_eq!(ours.attachments("att_g", 9).await.unwrap(), [files[0].clone(), files[2].clone()]);

    assert_eq!(ours.end_user_sessions("ada", 9).await.unwrap(), std::slice::from_ref(&session.id));
    assert_eq!(ours.end_user_sessions("eve", 9).await.unwrap(), []);
    assert_eq!(theirs.end_user_sessions("ada", 9).await.unwrap(), []);
    let (first, attachments) = ours.session_content(&session.id).await.unwrap();
    assert_eq!((first.as_ref(), attachments.len()), (Some(&said[2]), 4), "two of each");
    assert_eq!(theirs.session_content(&session.id).await.unwrap(), (None, Vec::new()));
    let untouched = theirs.delete_session(&session.id).await.unwrap();
    assert!(untouched.values().all(|rows| *rows == 0), "{untouched:?}");
    let answered = answer(store, make, &format!("{{\"id\":\"{}\"}}", session.id)).await;
    let of_another = answer(store, make, "{}").await;
    deliver(store, make, &tenant, 1, &session).await;
    let erased = ours.delete_session(&session.id).await.unwrap();
    assert_eq!((erased["messages"], erased["sessions"], erased["idempotency"]), (2, 1, 1), "{erased:?}");
    assert_eq!(erased["webhook_deliveries"], 1);
    assert_eq!(left().await, []);
    assert!(store.sessions(&tenant).get(&session.id).await.is_err());
    let told = store.events(&tenant).after(0, None, 99).await.unwrap();
    assert!(told.iter().all(|event| event.session_id.as_ref() != Some(&session.id)), "an event names the end user");
    let again = async |owner: &UserId| {
        store.idempotency(owner.as_str()).begin("one", &[1; 32], Duration::from_hours(1)).await.unwrap()
    };
    assert_eq!(again(&answered).await, Begun::New);
    assert!(matches!(again(&of_another).await, Begun::Answered(_)));

    what_was_told_goes_too(store, make).await;
    words_in_a_group(store, make).await;
    the_rest_of_a_tenant(store, make).await;
}

async fn the_rest_of_a_tenant(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "retaining-rest").await;
    let other = make.stored_tenant(store, "retaining-rest-too").await;
    let (ours, theirs) = (store.retention(&tenant), store.retention(&other));
    let session = stored_session(store, make, &tenant, "ada").await;
    accepted(store, &message(make, &session)).await;
    for _ in 0..3 {
        stored_session(store, make, &tenant, "eve").await;
        store.attachments(&tenant).insert(&attachment(make.ids.attachment(), &tenant, 1), u64::MAX).await.unwrap();
        store.usage(&tenant).append(&[usage::line(make, &tenant, NOW, 1, 2)]).await.unwrap();
    }
    let said = make.ids.message();
    assert!(store.search(&tenant).add(&search::block(&said, &said, &["gone"])).await.unwrap());
    let rows = |erased: Erased| (erased["usage_records"], erased["attachments"], erased["sessions"]);
    assert_eq!(rows(theirs.delete_rest(9).await.unwrap()), (0, 0, 0), "another tenant's");
    assert_eq!(rows(ours.delete_rest(2).await.unwrap()), (2, 2, 2));
    assert_eq!(rows(ours.delete_rest(2).await.unwrap()), (1, 1, 1));
    assert_eq!(rows(ours.delete_rest(2).await.unwrap()), (0, 0, 0));
    assert!(store.sessions(&tenant).get(&session.id).await.is_ok(), "one that has a message stays");
    let mut blocks = 1;
    while blocks > 0 {
        blocks = ours.delete_rest(1_000).await.unwrap()["search_blocks"];
    }
    assert_eq!(store.search(&tenant).indexed_to().await.unwrap(), None);
}

/// An answer that is kept for somebody.
async fn answer(store: &dyn Store, make: &Make, body: &str) -> UserId {
    let owner = make.ids.user();
    let answers = store.idempotency(owner.as_str());
    assert_eq!(answers.begin("one", &[1; 32], Duration::from_hours(1)).await.unwrap(), Begun::New);
    answers.finish("one", &StoredAnswer { status: 201, body: body.to_owned() }).await.unwrap();
    owner
}

/// A webhook that is told of the event at a place.
async fn deliver(store: &dyn Store, make: &Make, tenant: &TenantId, seq: i64, session: &Session) -> WebhookId {
    let webhook = webhooks::stored_webhook(store, make, tenant).await;
    let delivery = NewDelivery {
        id: make.ids.delivery(),
        event: EventId::of(tenant, seq),
        kind: "message.accepted".to_owned(),
        session_id: Some(session.id.clone()),
    };
    let seen = store.webhooks(tenant).seen(&webhook.id).await.unwrap();
    assert!(store.webhooks(tenant).fan_out(&webhook.id, seen, seen + 1, &[delivery], NOW).await.unwrap());
    webhook.id
}

async fn deliveries(store: &dyn Store, tenant: &TenantId, webhook: &WebhookId) -> usize {
    store.deliveries(tenant, webhook).list(None, &PageRequest::first()).await.unwrap().items.len()
}

async fn what_was_told_goes_too(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "retaining-events").await;
    let other = make.stored_tenant(store, "retaining-events-too").await;
    let session = stored_session(store, make, &tenant, "ada").await;
    for seconds in [1, 2, 3] {
        let created_at = NOW.plus(Duration::from_secs(seconds));
        accepted(store, &Message { created_at, ..message(make, &session) }).await;
    }
    let (early, late) =
        (deliver(store, make, &tenant, 2, &session).await, deliver(store, make, &tenant, 4, &session).await);
    let (ours, theirs) = (store.retention(&tenant), store.retention(&other));
    let before = NOW.plus(Duration::from_secs(3));
    let rows = |erased: Erased| (erased["events"], erased["webhook_deliveries"]);
    assert_eq!(rows(theirs.delete_events(before, 9).await.unwrap()), (0, 0));
    assert_eq!(rows(ours.delete_events(before, 2).await.unwrap()), (2, 1), "the oldest first, with who was told");
    assert_eq!(rows(ours.delete_events(before, 2).await.unwrap()), (1, 0));
    assert_eq!(rows(ours.delete_events(before, 2).await.unwrap()), (0, 0), "the moment is not included");
    assert_eq!(store.events(&tenant).bounds().await.unwrap(), (4, 4));
    assert_eq!((deliveries(store, &tenant, &early).await, deliveries(store, &tenant, &late).await), (0, 1));
}

async fn words_in_a_group(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "retaining-groups").await;
    let other = make.stored_tenant(store, "retaining-groups-too").await;
    let (ours, theirs) = (store.retention(&tenant), store.retention(&other));
    assert!(!ours.has_channels().await.unwrap());
    let bridge = store.bridge(&tenant);
    let mut said = Vec::new();
    for (number, sender) in ["7", "8", "7"].into_iter().enumerate() {
        let inbound = inbound(make, &tenant, "tg1:GroupMessage:42", &number.to_string(), 1);
        let sender = Some(Box::new(Sender { id: sender.to_owned(), name: "7".to_owned() }));
        let message = Message { sender, ..inbound.message.clone() };
        said.push(bridge.take_in(Inbound { message, ..inbound }).await.unwrap().message);
    }
    assert!(ours.has_channels().await.unwrap() && !theirs.has_channels().await.unwrap());
    let group = store.sessions(&tenant).get(&said[0].session_id).await.unwrap();
    let told = Told::Sent { id: make.ids.message(), text: "Hello, 7".to_owned(), usage: None };
    let heard = bridge.told("in tg1:GroupMessage:42 0", "out 1", told, NOW).await.unwrap();

    assert_eq!(theirs.sent_by("7", None, 9).await.unwrap(), SentBy::default());
    let first = ours.sent_by("7", None, 2).await.unwrap();
    assert_eq!(first.messages, [(said[0].id.clone(), group.id.clone())], "by their id, not their name");
    assert_eq!(first.last, Some(said[1].id.clone()));
    let rest = ours.sent_by("7", first.last.as_ref(), 9).await.unwrap();
    assert_eq!(rest.messages, [(said[2].id.clone(), group.id.clone())]);
    assert_eq!(rest.last, heard.said);
    assert_eq!(ours.sent_by("7", rest.last.as_ref(), 9).await.unwrap().last, None);

    // 1: the session; 2 to 4: what was said; 5: the answer.
    let (of_theirs, of_others) =
        (deliver(store, make, &tenant, 5, &group).await, deliver(store, make, &tenant, 3, &group).await);
    assert_eq!(theirs.delete_message(&said[0].id).await.unwrap(), 0);
    assert_eq!(ours.delete_message(&said[0].id).await.unwrap(), 2, "with the answer");
    let rows = |erased: Erased| (erased["events"], erased["webhook_deliveries"]);
    assert_eq!(rows(theirs.delete_untold(&group.id).await.unwrap()), (0, 0));
    assert_eq!(rows(ours.delete_untold(&group.id).await.unwrap()), (2, 1));
    assert_eq!(rows(ours.delete_untold(&group.id).await.unwrap()), (0, 0), "what the others said is there");
    let places: Vec<_> =
        store.events(&tenant).after(0, None, 9).await.unwrap().iter().map(astrfleet_core::event::Event::seq).collect();
    assert_eq!(places, [1, 3, 4]);
    assert_eq!((deliveries(store, &tenant, &of_theirs).await, deliveries(store, &tenant, &of_others).await), (0, 1));
    let again = bridge.take_in(inbound(make, &tenant, "tg1:GroupMessage:42", "0", 1)).await.unwrap();
    assert!(again.is_new, "nothing is left of it, not even its number");
}
