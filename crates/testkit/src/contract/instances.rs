//! What a store has to do with bots.

use std::time::Duration;

use astrfleet_core::{
    Error,
    instance::{Event, Instance, Observed},
    page::PageRequest,
    ports::Store,
};

use super::store::{Make, NOW};

/// Everything of it.
pub async fn all(store: &dyn Store, make: &Make) {
    let tenant = make.stored_tenant(store, "bots-ours").await;
    let other = make.stored_tenant(store, "bots-theirs").await;
    let (ours, theirs) = (store.instances(&tenant), store.instances(&other));
    let (our_bot, their_bot) = (ours.get().await.unwrap(), theirs.get().await.unwrap());
    assert_eq!((&our_bot.tenant_id, &their_bot.tenant_id), (&tenant, &other));
    let nobody = make.ids.tenant();
    assert!(matches!(store.instances(&nobody).get().await, Err(Error::NotFound { what: "instance" })));

    let later = NOW.plus(Duration::from_secs(1));
    let started = our_bot.after(Event::ProcessStarted, "its process\u{0} runs", later).unwrap();
    let started = Instance { port: Some(65_535), generation: 1, version: "4.29.3".to_owned(), restarts: 2, ..started };
    let stored = ours.update(&started).await.unwrap();
    let expected = Instance { version_lock: 2, reason: "its process\u{fffd} runs".to_owned(), ..started.clone() };
    assert_eq!(stored, expected, "what one of the engines cannot hold is held by none");
    assert_eq!(stored.observed, Observed::Starting);
    assert_eq!(ours.get().await.unwrap(), stored);
    assert!(matches!(ours.update(&started).await, Err(Error::Stale { what: "instance" })));

    let same_port = Instance { port: Some(65_535), ..their_bot.clone() };
    assert!(matches!(theirs.update(&same_port).await, Err(Error::Conflict { .. })), "never two bots on one port");
    let borrowed = theirs.update(&stored).await;
    assert!(matches!(borrowed, Err(Error::Stale { .. })), "another tenant's bot is not changed: {borrowed:?}");
    assert_eq!((ours.get().await.unwrap(), theirs.get().await.unwrap()), (stored.clone(), their_bot.clone()));
    let free = ours.update(&Instance { port: None, ..stored }).await.unwrap();
    theirs.update(&same_port).await.unwrap();

    let system = store.system("the suite of the store");
    assert_eq!(system.instance(&free.id).await.unwrap(), free);
    assert!(matches!(system.instance(&make.ids.instance()).await, Err(Error::NotFound { what: "instance" })));
    let mut seen = Vec::new();
    let mut request = PageRequest { limit: 1, after: None };
    loop {
        let page = system.instances(&request).await.unwrap();
        seen.extend(page.items.into_iter().map(|bot| bot.id));
        match page.next_cursor {
            Some(cursor) => request.after = Some(cursor),
            None => break,
        }
    }
    assert!(seen.is_sorted() && seen.contains(&free.id) && seen.contains(&their_bot.id), "all, by their id");
}
