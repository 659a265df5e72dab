//! What every S3 has to pass: the contract, and being killed in the middle of an upload.

use astrfleet_adapters::blobs::{S3Blobs, S3Settings};
use astrfleet_core::{Error, ports::Blobs as _};
use astrfleet_testkit::{contract, s3::S3};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;

const PIECE: usize = 1024 * 1024;

/// Runs all of it.
pub async fn all(storage: &S3) {
    let blobs = S3Blobs::new(&storage.settings()).unwrap();
    blobs.check().await.unwrap();
    contract::blobs::all(&blobs).await;
    refuses_strangers(storage).await;
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
