//! Files on their way, where the storage of files is away for a while or somebody hangs up.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use astrfleet_adapters::blobs::FolderBlobs;
use astrfleet_core::{
    Error, Result,
    attachment::Attachment,
    id::{MessageId, SessionId},
    message::State,
    ports::{BlobStream, Blobs},
    tenant::Tenant,
};
use astrfleet_server::message::accept::Words;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    bots::Act,
    world::{Platform, World, until},
};

/// How a storage of files does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Well,
    /// It answers nothing.
    Away,
    /// It stores, and the answer to that is lost.
    Mute,
    /// It stores, and its answer to that comes when it is well again.
    Slow,
}

/// A folder that can be away.
#[derive(Default)]
pub struct Moods {
    mood: watch::Sender<Mood>,
    /// Reads that were refused.
    refused: AtomicUsize,
    /// What was stored.
    stored: AtomicUsize,
}

pub struct MoodyBlobs {
    pub folder: FolderBlobs,
    pub moods: Arc<Moods>,
}

impl MoodyBlobs {
    fn is_there(&self) -> Result<()> {
        if *self.moods.mood.borrow() != Mood::Away {
            return Ok(());
        }
        self.moods.refused.fetch_add(1, Ordering::SeqCst);
        Err(Error::unavailable("the storage of files", "connection refused"))
    }
}

#[async_trait]
impl Blobs for MoodyBlobs {
    async fn put(&self, key: &str, content: BlobStream, max_bytes: u64) -> Result<u64> {
        self.is_there()?;
        let size = self.folder.put(key, content, max_bytes).await?;
        self.moods.stored.fetch_add(1, Ordering::SeqCst);
        let mut mood = self.moods.mood.subscribe();
        if *mood.borrow() == Mood::Mute {
            return Err(Error::unavailable("the storage of files", "connection reset"));
        }
        mood.wait_for(|mood| *mood != Mood::Slow).await.map_err(Error::internal)?;
        Ok(size)
    }

    async fn get(&self, key: &str) -> Result<BlobStream> {
        self.is_there()?;
        self.folder.get(key).await
    }

    async fn delete(&self, key: &str) -> Result<()> {
        self.is_there()?;
        self.folder.delete(key).await
    }

    async fn delete_all(&self, prefix: &str) -> Result<()> {
        self.folder.delete_all(prefix).await
    }

    async fn presigned(&self, key: &str, name: &str, ttl: Duration) -> Result<Option<SecretString>> {
        self.folder.presigned(key, name, ttl).await
    }
}

fn content(bytes: usize) -> BlobStream {
    stream::iter([Ok(Bytes::from(vec![b'x'; bytes]))]).boxed()
}

fn keep(platform: &Platform, tenant: &Tenant, bytes: usize) -> Result<Attachment> {
    platform.run(async |app| app.message.keep_file(tenant, "in.txt", None, content(bytes)).await)
}

fn send_with(platform: &Platform, tenant: &Arc<Tenant>, session: &SessionId, file: &Attachment) -> MessageId {
    let words = Words { text: "See".to_owned(), attachments: vec![file.id.clone()] };
    platform.run(async |app| {
        app.message.accept(Arc::clone(tenant), session.clone(), words, None).await.unwrap().id().clone()
    })
}

fn refused(world: &World) -> usize {
    world.moods.refused.load(Ordering::SeqCst)
}

/// Contents below a folder.
fn kept(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { kept(&path) } else { 1 }).sum()
}

fn total(platform: &Platform, tenant: &Tenant) -> u64 {
    platform.run(async |app| app.store.attachments(&tenant.id).total_bytes().await.unwrap())
}

#[test]
fn a_message_waits_for_its_files_longer_than_it_is_tried() {
    let world = World::new().set("/message/max_attempts", json!(1));
    let (platform, tenant, session) = world.ready();
    let file = keep(&platform, &tenant, 900).unwrap();
    world.moods.mood.send_replace(Mood::Away);
    let id = send_with(&platform, &tenant, &session, &file);
    until(|| refused(&world) >= 3);
    let waits = platform.run(async |app| app.store.messages(&tenant.id).get(&id).await.unwrap());
    assert_eq!(waits.state, State::Accepted);
    world.moods.mood.send_replace(Mood::Well);
    assert_eq!(platform.wait(&tenant.id, &id).reply.unwrap().text, "Hello you");
    assert_eq!(world.fleet.uploaded(), [("in.txt".to_owned(), Bytes::from(vec![b'x'; 900]))]);
    platform.end();
}

#[test]
fn a_message_does_not_wait_for_its_files_for_ever() {
    let world = World::new().set("/message/wait_for_bot_s", json!(1));
    let (platform, tenant, session) = world.ready();
    let file = keep(&platform, &tenant, 900).unwrap();
    world.moods.mood.send_replace(Mood::Away);
    let id = send_with(&platform, &tenant, &session, &file);
    let failed = platform.wait(&tenant.id, &id).message;
    assert_eq!((failed.state, failed.failure.unwrap().code.as_str()), (State::Failed, "files_unavailable"));
    assert_eq!(platform.stream(&tenant.id, &id, None).last().unwrap().name, "failed");
    assert!(world.fleet.asked().is_empty());
    platform.end();
}

#[test]
fn a_message_that_waits_for_its_files_can_be_stopped() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    let file = keep(&platform, &tenant, 900).unwrap();
    world.moods.mood.send_replace(Mood::Away);
    let id = send_with(&platform, &tenant, &session, &file);
    until(|| refused(&world) >= 1);
    let stopped = platform.run(async |app| {
        let message = app.store.messages(&tenant.id).get(&id).await.unwrap();
        app.message.stop(&message).await.unwrap()
    });
    assert_eq!(stopped.message.failure.unwrap().code, "stopped");
    platform.end();
}

#[test]
fn a_file_of_an_answer_is_stored_when_that_can_be_done_again() {
    let world = World::new();
    let (platform, tenant, session) = world.ready();
    world.fleet.script(|_, _| {
        vec![Act::Receive, Act::Say("Here"), Act::File("out.txt"), Act::Complete("Here"), Act::Save("Here")]
    });
    world.moods.mood.send_replace(Mood::Away);
    let id = platform.send(&tenant, &session, "Hi");
    until(|| refused(&world) >= 2);
    world.moods.mood.send_replace(Mood::Well);
    assert_eq!(platform.wait(&tenant.id, &id).reply.unwrap().attachments.len(), 1);
    platform.end();
}

/// All of them find the same room when they begin.
fn together(world: &World) {
    let (platform, tenant, _) = world.ready();
    let gate = watch::Sender::new(0);
    let uploads: Vec<_> = (0..6)
        .map(|_| {
            let (service, tenant, gate) = (Arc::clone(&platform.app.message), Arc::clone(&tenant), gate.clone());
            let content = stream::once(async move {
                gate.send_modify(|begun| *begun += 1);
                gate.subscribe().wait_for(|begun| *begun >= 6).await.map_err(std::io::Error::other)?;
                Ok(Bytes::from(vec![b'x'; 700]))
            });
            platform.spawn(async move { service.keep_file(&tenant, "in.txt", None, content.boxed()).await })
        })
        .collect();
    let mut stored = 0;
    for upload in uploads {
        match platform.run(async |_| upload.await.unwrap()) {
            Ok(_) => stored += 1,
            Err(Error::QuotaExceeded { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((stored, total(&platform, &tenant)), (2, 1_400), "of 1500 bytes");
    assert_eq!(kept(&world.blobs_folder()), 2, "and nothing is left of the others");
    platform.end();
}

#[test]
fn files_that_come_at_the_same_moment_never_are_more_than_the_plan_has() {
    together(&World::new());
}

#[test]
fn files_that_come_at_the_same_moment_are_counted_on_postgres_too() {
    together(&World::new().on_postgres());
}

#[test]
fn who_hangs_up_when_a_file_has_come_leaves_no_content_without_a_row() {
    let world = World::new();
    let (platform, tenant, _) = world.ready();
    world.moods.mood.send_replace(Mood::Slow);
    let upload = {
        let (service, tenant) = (Arc::clone(&platform.app.message), Arc::clone(&tenant));
        platform.spawn(async move { service.keep_file(&tenant, "in.txt", None, content(900)).await })
    };
    until(|| world.moods.stored.load(Ordering::SeqCst) == 1);
    upload.abort();
    assert!(platform.run(async |_| upload.await).unwrap_err().is_cancelled());
    world.moods.mood.send_replace(Mood::Well);
    until(|| total(&platform, &tenant) == 900);
    assert_eq!(kept(&world.blobs_folder()), 1);
    platform.end();
}

#[test]
fn content_whose_storage_was_not_confirmed_is_deleted() {
    let world = World::new();
    let (platform, tenant, _) = world.ready();
    world.moods.mood.send_replace(Mood::Mute);
    assert!(matches!(keep(&platform, &tenant, 900), Err(Error::Unavailable { .. })));
    assert_eq!((world.moods.stored.load(Ordering::SeqCst), kept(&world.blobs_folder())), (1, 0));
    platform.end();
}
