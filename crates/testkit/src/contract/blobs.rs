//! What every store of blobs does.

use std::time::Duration;

use astrfleet_core::{
    Error,
    ports::{BlobStream, Blobs},
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use secrecy::ExposeSecret as _;

const MINUTE: Duration = Duration::from_mins(1);

/// Runs all of it, below the prefix `contract/`.
///
/// # Panics
/// Where the store does something else.
pub async fn all(blobs: &dyn Blobs) {
    keeps_and_replaces(blobs).await;
    keeps_nothing_that_is_not_whole(blobs).await;
    deletes(blobs).await;
    knows_keys(blobs).await;
    answers_many_at_once(blobs).await;
    takes_what_is_large(blobs).await;
    signs_addresses(blobs).await;
}

async fn keeps_and_replaces(blobs: &dyn Blobs) {
    assert!(matches!(blobs.get("contract/keep").await, Err(Error::NotFound { .. })));
    assert_eq!(blobs.put("contract/keep", pieces(&["", "one ", "two"]), 7).await.expect("it fits exactly"), 7);
    assert_eq!(read(blobs, "contract/keep").await, "one two");
    assert_eq!(blobs.put("contract/keep", pieces(&[]), 0).await.expect("nothing is something"), 0);
    assert_eq!(read(blobs, "contract/keep").await, "");
    let large = vec![b'x'; 300_000];
    let content = stream::iter(large.chunks(70_001).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>());
    assert_eq!(blobs.put("contract/keep", content.boxed(), 300_000).await.expect("it fits"), 300_000);
    assert_eq!(read(blobs, "contract/keep").await.as_bytes(), large);
}

async fn keeps_nothing_that_is_not_whole(blobs: &dyn Blobs) {
    let too_large = blobs.put("contract/whole", pieces(&["1234", "5"]), 4).await;
    assert!(matches!(too_large, Err(Error::TooLarge { limit_bytes: 4, .. })), "{too_large:?}");
    assert!(matches!(blobs.get("contract/whole").await, Err(Error::NotFound { .. })));

    blobs.put("contract/whole", pieces(&["before"]), 100).await.expect("it fits");
    let broken = stream::iter([Ok(Bytes::from("half")), Err(std::io::Error::other("cut"))]).boxed();
    blobs.put("contract/whole", broken, 100).await.expect_err("the content broke off");
    assert_eq!(read(blobs, "contract/whole").await, "before");
}

async fn deletes(blobs: &dyn Blobs) {
    for key in ["contract/a", "contract/a/b", "contract/a/c/d", "contract/ab"] {
        blobs.put(key, pieces(&[key]), 100).await.expect("no key stands in the way of another");
    }
    blobs.delete("contract/a/b").await.expect("deleted");
    blobs.delete("contract/a/b").await.expect("deleted already");
    blobs.delete("contract/never/was").await.expect("deleted already");
    assert!(matches!(blobs.get("contract/a/b").await, Err(Error::NotFound { .. })));

    blobs.delete_all("contract/a/").await.expect("deleted");
    blobs.delete_all("contract/a/").await.expect("deleted already");
    assert!(matches!(blobs.get("contract/a/c/d").await, Err(Error::NotFound { .. })));
    assert_eq!(read(blobs, "contract/a").await, "contract/a");
    assert_eq!(read(blobs, "contract/ab").await, "contract/ab");

    blobs.delete_all("contract/").await.expect("deleted");
    for key in ["contract/a", "contract/ab", "contract/keep"] {
        assert!(matches!(blobs.get(key).await, Err(Error::NotFound { .. })), "{key}");
    }
}

async fn knows_keys(blobs: &dyn Blobs) {
    let (longest, too_long) = (format!("contract/{}", "k".repeat(503)), format!("contract/{}", "k".repeat(504)));
    blobs.put(&longest, pieces(&["long"]), 100).await.expect("512 are allowed");
    assert_eq!(read(blobs, &longest).await, "long");
    for key in [
        "",
        "/etc/passwd",
        "contract/../x",
        "contract/./x",
        "contract//x",
        "contract/x/",
        "..",
        "a b",
        "a\\b",
        "ä",
        "a\0",
        &too_long,
    ] {
        assert!(matches!(blobs.put(key, pieces(&["x"]), 100).await, Err(Error::Invalid { .. })), "{key:?}");
        assert!(matches!(blobs.get(key).await, Err(Error::Invalid { .. })), "{key:?}");
        assert!(matches!(blobs.delete(key).await, Err(Error::Invalid { .. })), "{key:?}");
        assert!(matches!(blobs.presigned(key, "x", MINUTE).await, Err(Error::Invalid { .. })), "{key:?}");
    }
    for prefix in ["", "/", "contract", "../", "contract//"] {
        assert!(matches!(blobs.delete_all(prefix).await, Err(Error::Invalid { .. })), "{prefix:?}");
    }
}

async fn answers_many_at_once(blobs: &dyn Blobs) {
    let texts: Vec<String> = (0..20).map(|number| number.to_string().repeat(1_000)).collect();
    let puts = texts.iter().map(|text| blobs.put("contract/race", pieces(&[text]), 10_000));
    for put in futures_util::future::join_all(puts).await {
        put.expect("each is stored");
    }
    assert!(texts.contains(&read(blobs, "contract/race").await), "one of them, whole");
    blobs.delete_all("contract/").await.expect("deleted");
}

/// So large that it cannot go in one piece, and different everywhere.
async fn takes_what_is_large(blobs: &dyn Blobs) {
    const SIZE: usize = 20 * 1024 * 1024 + 1;
    let large: Bytes =
        (0..SIZE).map(|at| u8::try_from((at * 31 + at / 4096) % 251).unwrap_or(0)).collect::<Vec<_>>().into();
    let content = |end: usize| {
        let (large, cuts) = (large.clone(), (0..end).step_by(100_003));
        stream::iter(cuts.map(move |at| Ok(large.slice(at..(at + 100_003).min(end))))).boxed()
    };
    assert_eq!(blobs.put("contract/large", content(SIZE), SIZE as u64).await.expect("it fits"), SIZE as u64);
    let read: Vec<Bytes> = blobs.get("contract/large").await.expect("it is there").try_collect().await.expect("read");
    assert!(read.concat() == large, "every byte is where it was");

    let too_large = blobs.put("contract/large", content(SIZE), SIZE as u64 - 1).await;
    assert!(matches!(too_large, Err(Error::TooLarge { .. })), "{too_large:?}");
    let broken = content(SIZE - 1).chain(stream::iter([Err(std::io::Error::other("cut"))])).boxed();
    blobs.put("contract/large", broken, SIZE as u64).await.expect_err("the content broke off");
    // Whoever sent it goes away in the middle.
    let endless = content(SIZE - 1).chain(stream::pending()).boxed();
    let put = blobs.put("contract/unfinished", endless, SIZE as u64);
    tokio::time::timeout(Duration::from_millis(500), put).await.expect_err("it does not end");
    assert!(matches!(blobs.get("contract/unfinished").await, Err(Error::NotFound { .. })));
    let read: Vec<Bytes> = blobs.get("contract/large").await.expect("it is there").try_collect().await.expect("read");
    assert!(read.concat() == large, "what came later and not whole changed nothing");
    blobs.delete_all("contract/").await.expect("deleted");
}

async fn signs_addresses(blobs: &dyn Blobs) {
    blobs.put("contract/signed-_.x", pieces(&["for whoever has the address"]), 100).await.expect("it fits");
    let Some(address) = blobs.presigned("contract/signed-_.x", "客.txt", MINUTE).await.expect("signed") else {
        return;
    };
    let address = address.expose_secret();
    let client = reqwest::Client::new();
    let answer = client.get(address).send().await.expect("an answer");
    assert_eq!(answer.status(), reqwest::StatusCode::OK);
    assert_eq!(
        answer.headers()["content-disposition"],
        "attachment; filename*=UTF-8''%E5%AE%A2.txt",
        "a browser saves it"
    );
    assert_eq!(answer.text().await.expect("text"), "for whoever has the address");

    let other = address.replace("signed-_.x", "signed-_.y");
    assert_eq!(client.get(&other).send().await.expect("an answer").status(), reqwest::StatusCode::FORBIDDEN);
    let written = client.put(address).body("mine").send().await.expect("an answer").status();
    assert_eq!(written, reqwest::StatusCode::FORBIDDEN, "it is for reading alone");

    for ttl in [Duration::ZERO, Duration::from_hours(8 * 24)] {
        assert!(matches!(blobs.presigned("contract/signed", "x", ttl).await, Err(Error::Invalid { .. })));
    }
    let short = blobs.presigned("contract/signed-_.x", "x", Duration::from_secs(1)).await.expect("signed");
    let short = short.expect("it signs");
    let over = async {
        while client.get(short.expose_secret()).send().await.expect("an answer").status()
            != reqwest::StatusCode::FORBIDDEN
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(MINUTE, over).await.expect("it is worth nothing after its time");
    blobs.delete_all("contract/").await.expect("deleted");
}

fn pieces(texts: &[&str]) -> BlobStream {
    stream::iter(texts.iter().map(|text| Ok(Bytes::copy_from_slice(text.as_bytes()))).collect::<Vec<_>>()).boxed()
}

async fn read(blobs: &dyn Blobs, key: &str) -> String {
    let pieces: Vec<Bytes> = blobs.get(key).await.expect("it is there").try_collect().await.expect("it can be read");
    String::from_utf8(pieces.concat()).expect("text")
}
