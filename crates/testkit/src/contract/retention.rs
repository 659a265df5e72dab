//! What a store has to do with what is kept for too long.

use std::time::Duration;

use astrfleet_core::{
    id::{AttachmentId, MessageId},
    message::{Message, State},
    ports::Store,
    session::{CloseReason, Event},
};

use super::{
    attachments::attachment,
    messages::{accepted, message},
    sessions::stored_session,
    store::{Make, NOW},
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
    let closed = closed.after(Event::Closed(CloseReason::Idle), NOW).unwrap();
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
        store.attachments(&tenant).insert(&attachment(file.clone(), &tenant, 1)).await.unwrap();
    }
    assert_eq!(ours.attachments(files[2].as_str(), 9).await.unwrap(), files[..2]);
    assert_eq!(ours.attachments("att_g", 1).await.unwrap(), files[..1]);
    assert_eq!(theirs.attachments("att_g", 9).await.unwrap(), []);
    theirs.delete_attachment(&files[0]).await.unwrap();
    ours.delete_attachment(&files[1]).await.unwrap();
    assert_eq!(ours.attachments("att_g", 9).await.unwrap(), [files[0].clone(), files[2].clone()]);

    assert_eq!(ours.end_user_sessions("ada", 9).await.unwrap(), [session.id.clone()]);
    assert_eq!(ours.end_user_sessions("eve", 9).await.unwrap(), []);
    assert_eq!(theirs.end_user_sessions("ada", 9).await.unwrap(), []);
    let (first, attachments) = ours.session_content(&session.id).await.unwrap();
    assert_eq!((first.as_ref(), attachments.len()), (Some(&said[2]), 4), "two of each");
    assert_eq!(theirs.session_content(&session.id).await.unwrap(), (None, Vec::new()));
    assert_eq!(theirs.delete_session(&session.id).await.unwrap(), 0);
    assert_eq!(ours.delete_session(&session.id).await.unwrap(), 2);
    assert_eq!(left().await, []);
    assert!(store.sessions(&tenant).get(&session.id).await.is_err());
}
