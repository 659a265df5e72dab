//! What a store has to do with the search in what was said.

use astrfleet_core::{
    id::MessageId,
    message::Message,
    ports::{NewSearchBlock, SearchBlock, Store},
    search::{Query, bucketed, words},
};

use super::{
    messages::{accepted, message},
    sessions::stored_session,
    store::Make,
};

/// A block that has these texts.
#[must_use]
pub fn block(first: &MessageId, last: &MessageId, texts: &[&str]) -> NewSearchBlock {
    let words: Vec<String> = texts.iter().flat_map(|text| words(text)).collect();
    NewSearchBlock { first: first.clone(), last: last.clone(), buckets: bucketed(&words) }
}

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "searching-ours").await;
    let other = make.stored_tenant(store, "searching-theirs").await;
    let (ours, theirs) = (store.search(&tenant), store.search(&other));
    let session = stored_session(store, make, &tenant, "ada").await;
    let mut said: Vec<Message> = Vec::new();
    for text in ["我的订单在哪里", "Where is my order?", "订单 4711", "Danke!"] {
        let one = Message { text: text.to_owned(), ..message(make, &session) };
        accepted(store, &one).await;
        said.push(one);
    }
    let id = |index: usize| said[index].id.as_str();

    let newest = ours.newest(id(1), id(3), 9).await.unwrap();
    assert_eq!(newest.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [id(2), id(1)], "from, and before");
    assert_eq!((newest[0].text.as_str(), &newest[0].session_id), ("订单 4711", &session.id));
    assert_eq!((newest[0].author, newest[0].created_at), (said[2].author, said[2].created_at));
    assert_eq!(ours.newest("msg_", "msg_g", 1).await.unwrap()[0].id, said[3].id);
    let oldest = ours.oldest(id(0), id(3), 9).await.unwrap();
    assert_eq!(oldest.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [id(1), id(2)], "between the two");
    assert_eq!(ours.oldest("msg_", "msg_g", 1).await.unwrap()[0].id, said[0].id);
    assert!(ours.has("msg_", "msg_g", 4).await.unwrap() && !ours.has("msg_", "msg_g", 5).await.unwrap());
    assert!(ours.has("msg_", id(3), 3).await.unwrap() && !ours.has(id(0), id(3), 3).await.unwrap());
    assert_eq!(theirs.newest("msg_", "msg_g", 9).await.unwrap(), [], "another tenant's");
    assert_eq!(theirs.oldest("msg_", "msg_g", 9).await.unwrap(), []);
    assert!(!theirs.has("msg_", "msg_g", 1).await.unwrap());

    assert_eq!(ours.indexed_to().await.unwrap(), None);
    let first = block(&said[0].id, &said[1].id, &["我的订单在哪里", "Where is my order?"]);
    let second = block(&said[2].id, &said[2].id, &["订单 4711"]);
    assert!(ours.add(&first).await.unwrap());
    assert!(!ours.add(&block(&said[0].id, &said[2].id, &["other"])).await.unwrap(), "the first one stays");
    assert!(ours.add(&second).await.unwrap());
    assert_eq!(ours.indexed_to().await.unwrap(), Some(said[2].id.clone()));
    assert_eq!(theirs.indexed_to().await.unwrap(), None);

    let found = async |query: &str, before: &str, limit: u32| {
        let probes = Query::parse(query).unwrap().probes();
        ours.blocks(&probes, before, limit).await.unwrap().into_iter().map(|block| block.first).collect::<Vec<_>>()
    };
    assert_eq!(found("订单", "msg_g", 9).await, [said[2].id.clone(), said[0].id.clone()]);
    assert_eq!(found("订单", "msg_g", 1).await, [said[2].id.clone()]);
    assert_eq!(found("订单", id(2), 9).await, [said[0].id.clone()]);
    assert_eq!(found("订", "msg_g", 9).await.len(), 2, "a single character");
    assert_eq!(found("ORD 哪里", "msg_g", 9).await, [said[0].id.clone()], "all of its words");
    assert_eq!(found("471", "msg_g", 9).await, [said[2].id.clone()]);
    assert_eq!(found("订单 other", "msg_g", 9).await, []);
    assert_eq!(found("other", "msg_g", 9).await, []);
    let probes = Query::parse("订单").unwrap().probes();
    assert_eq!(theirs.blocks(&probes, "msg_g", 9).await.unwrap(), []);
    let block = &ours.blocks(&probes, id(2), 9).await.unwrap()[0];
    assert_eq!(*block, SearchBlock { first: said[0].id.clone(), last: said[1].id.clone() });

    theirs.forget(&said[0].id).await.unwrap();
    theirs.forget_before("msg_g").await.unwrap();
    ours.forget(&said[2].id).await.unwrap();
    assert_eq!(ours.indexed_to().await.unwrap(), Some(said[1].id.clone()), "also where it is the last one of a block");
    ours.forget_before(id(1)).await.unwrap();
    assert_eq!(ours.indexed_to().await.unwrap(), Some(said[1].id.clone()), "not all of them are before it");
    ours.forget_before(id(2)).await.unwrap();
    assert_eq!(ours.indexed_to().await.unwrap(), None);
}
