//! What every S3 has to pass: the contract, and being killed in the middle of an upload.

use astrfleet_adapters::blobs::{S3Blobs, S3Settings};
use astrfleet_core::{Error, ports::Blobs as _};
use astrfleet_testkit::{contract, s3::S3};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

const PIECE: usize = 1024 * 1024;
/// As it lies in the bucket.
const UNFINISHED: &str = "faults/unfinished~";

/// Runs all of it.
pub async fn all(storage: &S3) {
    let blobs = S3Blobs::new(&storage.settings()).unwrap();
    blobs.check().await.unwrap();
    contract::blobs::all(&blobs).await;
    refuses_strangers(storage).await;
    leaves_no_parts(storage, &blobs).await;
    survives(storage, &blobs).await;
}

async fn refuses_strangers(storage: &S3) {
    let secret = "another secret";
    let settings = S3Settings { secret_key: secret.into(), ..storage.settings() };
    assert!(!format!("{settings:?}").contains(secret), "secrets do not print");
    let error = S3Blobs::new(&settings).unwrap().check().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains(secret), "not even here");
    let none = S3Settings { secret_key: "".into(), ..storage.settings() };
    assert!(matches!(S3Blobs::new(&none), Err(Error::Invalid { .. })));
}

/// An upload that breaks off, and one that nobody waits for any more.
async fn leaves_no_parts(storage: &S3, blobs: &S3Blobs) {
    for breaks_off in [true, false] {
        let (pieces, content) = mpsc::channel::<std::io::Result<Bytes>>(1);
        let content = stream::unfold(content, async |mut content| Some((content.recv().await?, content))).boxed();
        let mut upload = Box::pin(blobs.put("faults/unfinished", content, 100 * PIECE as u64));
        let is_begun = async {
            for _ in 0..20 {
                pieces.send(Ok(Bytes::from(vec![b'x'; PIECE]))).await.unwrap();
            }
            until(async || storage.unfinished(UNFINISHED).await == 1).await;
        };
        tokio::select! {
            put = &mut upload => panic!("it is not over: {put:?}"),
            () = is_begun => {}
        }
        if breaks_off {
            let (sent, put) = tokio::join!(pieces.send(Err(std::io::Error::other("cut"))), upload);
            assert!(sent.is_ok() && matches!(put, Err(Error::Invalid { .. })), "{put:?}");
            assert_eq!(storage.unfinished(UNFINISHED).await, 0, "given up before it is answered");
        } else {
            drop(upload);
            until(async || storage.unfinished(UNFINISHED).await == 0).await;
        }
    }
}

/// A hang is a failure.
async fn until(is_so: impl AsyncFn() -> bool) {
    let looking = async {
        while !is_so().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), looking).await.expect("this should have happened long ago");
}

async fn survives(storage: &S3, blobs: &S3Blobs) {
    let whole = |text: &'static str| stream::iter([Ok(Bytes::from_static(text.as_bytes()))]).boxed();
    blobs.put("faults/replaced", whole("before"), 100).await.unwrap();

    // Two parts are on their way or there when the storage dies; what comes later cannot be stored.
    for key in ["faults/replaced", "faults/new"] {
        let (pieces, content) = mpsc::channel::<std::io::Result<Bytes>>(1);
        let content = stream::unfold(content, async |mut content| Some((content.recv().await?, content))).boxed();
        let upload = async { blobs.put(key, content, 100 * PIECE as u64).await };
        let feed = async {
            for number in 0..40 {
                if number == 20 {
                    storage.kill();
                }
                if pieces.send(Ok(Bytes::from(vec![b'x'; PIECE]))).await.is_err() {
                    break;
                }
            }
            drop(pieces);
        };
        let (put, ()) = tokio::join!(upload, feed);
        assert!(matches!(put, Err(Error::Unavailable { .. })), "{put:?}");
        assert!(matches!(blobs.get(key).await, Err(Error::Unavailable { .. })), "while it is away");
        storage.restart().await;
    }
    let read: Vec<Bytes> = blobs.get("faults/replaced").await.unwrap().try_collect().await.unwrap();
    assert_eq!(read.concat(), b"before", "nothing half is visible");
    assert!(matches!(blobs.get("faults/new").await, Err(Error::NotFound { .. })));
    blobs.put("faults/new", whole("after"), 100).await.unwrap();
    blobs.delete_all("faults/").await.unwrap();
    assert!(matches!(blobs.get("faults/new").await, Err(Error::NotFound { .. })));
}
