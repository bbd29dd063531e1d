//! Servers and networks that do what they should not. No server is needed for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use marquee_objects::testing::{Door, Fault, SECRET, place};
use marquee_objects::{GET_MAX_BYTES, Kind, Store, Trouble};

fn error(code: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>x</Message><Region>eu-9</Region>\
         <AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign></Error>"
    )
}

async fn open() -> (Door, Store, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(None).await.unwrap();
    let store = Store::open(&place(&door.address, "films", folder.path())).unwrap();
    (door, store, folder)
}

#[track_caller]
fn says(trouble: &Trouble, kind: Kind, says: &str) {
    let text = trouble.to_string();
    assert_eq!(trouble.kind, kind, "{text}");
    assert!(text.contains(says), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("AKID"), "{text}");
    assert!(!format!("{trouble:?}").contains(SECRET));
}

#[tokio::test]
async fn what_a_server_refuses_is_said_with_the_way_out_and_is_not_asked_again() {
    for (status, code, part) in [
        (403, "RequestTimeTooSkewed", "timedatectl"),
        (400, "ExpiredToken", "write new ones there"),
        (403, "InvalidAccessKeyId", "write a valid one there"),
        (403, "SignatureDoesNotMatch", "write the right one there"),
        (403, "AccessDenied", "s3:ListBucket"),
        (404, "NoSuchBucket", "correct s3.bucket"),
        (400, "AuthorizationHeaderMalformed", "in region \"eu-9\""),
    ] {
        let (door, store, _folder) = open().await;
        door.rule("GET", "", 9, Fault::Answer(status, error(code)));
        let trouble = store.get("x").await.unwrap_err();
        says(&trouble, Kind::Refused, part);
        assert_eq!(door.count("GET", ""), 1, "{code}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed_whether_it_says_where_to_or_not() {
    let (door, store, _folder) = open().await;
    let elsewhere = Door::open(None).await.unwrap();
    let to = format!("Location: http://{}/films/x", elsewhere.address);
    for status in [301, 307] {
        let moved = Fault::AnswerWith(status, to.clone(), error("PermanentRedirect"));
        door.rule("GET", "", 1, moved);
        let trouble = store.get("x").await.unwrap_err();
        says(&trouble, Kind::Refused, "the server sends elsewhere");
        door.rule("HEAD", "", 1, Fault::Answer(status, String::new()));
        let trouble = store.head("x").await.unwrap_err();
        says(&trouble, Kind::Refused, "s3.region is \"us-east-1\"");
    }
    assert!(elsewhere.seen().is_empty(), "credentials go to one server");
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it_and_one_that_stays_so_is_away() {
    let (door, store, _folder) = open().await;
    door.rule("PUT", "", 2, Fault::Answer(503, error("SlowDown")));
    let written = Fault::AnswerWith(200, "ETag: \"t\"".into(), String::new());
    door.rule("PUT", "", 1, written);
    door.rule("HEAD", "", 1, Fault::Answer(500, String::new()));
    store
        .put("x", vec![Bytes::from_static(b"x")])
        .await
        .unwrap();
    assert_eq!(door.count("PUT", ""), 3);
    assert_eq!(
        store.head("x").await.unwrap(),
        None,
        "500 once, and then 404"
    );

    door.no_rules();
    door.rule("GET", "", 99, Fault::Answer(503, error("SlowDown")));
    let trouble = store.get("x").await.unwrap_err();
    says(&trouble, Kind::Away, "asks for patience");
    // Whoever asks right after is told the same, and the server is left alone.
    let asked = door.count("GET", "");
    let trouble = store.head("y").await.unwrap_err();
    says(&trouble, Kind::Away, "asks for patience");
    assert_eq!(
        (door.count("GET", ""), door.count("HEAD", "/y")),
        (asked, 0)
    );
}

#[tokio::test]
async fn an_upload_that_is_over_is_no_trouble_and_no_success() {
    let (door, store, _folder) = open().await;
    let over = Fault::Answer(404, error("NoSuchUpload"));
    for method in ["PUT", "POST", "DELETE"] {
        door.rule(method, "uploadId=u", 1, over.clone());
    }
    let part = vec![Bytes::from_static(b"x")];
    assert_eq!(store.put_part("x", "u", 0, part).await.unwrap(), None);
    assert!(!store.complete("x", "u", &["t".into()]).await.unwrap());
    store.abort("x", "u").await.unwrap();
    // A server that keeps no list of them is believed to have it.
    door.rule(
        "GET",
        "uploads=",
        1,
        Fault::Answer(501, error("NotImplemented")),
    );
    assert!(store.is_unfinished("x", "u").await.unwrap());
}

#[tokio::test]
async fn a_full_store_is_told_from_all_others() {
    let (door, store, _folder) = open().await;
    for (status, code) in [(507, "XMinioStorageFull"), (403, "QuotaExceeded")] {
        door.no_rules();
        door.rule("PUT", "", 99, Fault::Answer(status, error(code)));
        let put = store.create("x", Bytes::from_static(b"x")).await;
        says(&put.unwrap_err(), Kind::Full, "marquee rm");
    }
}

#[tokio::test]
async fn a_connection_that_freezes_ends_in_time() {
    let (door, store, _folder) = open().await;
    door.rule("HEAD", "", 99, Fault::Freeze);
    let began = Instant::now();
    let trouble = store.head("x").await.unwrap_err();
    assert_eq!(trouble.kind, Kind::Away, "{trouble}");
    // Bounded by what a worker's lease allows, with much room for a busy machine.
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    // A hundred others that ask at the same time wait no longer than that one.
    let others = (0..100).map(|n| {
        let store = store.clone();
        async move { store.head(&format!("y{n}")).await }
    });
    let others = futures::future::join_all(others).await;
    assert!(others.iter().all(Result::is_err));
    assert_eq!(door.count("HEAD", "/y"), 0);
}

#[tokio::test]
async fn half_an_answer_is_none() {
    let (door, store, _folder) = open().await;
    let whole = Fault::AnswerWith(
        206,
        "Content-Range: bytes 0-9/10\r\nETag: \"t\"\r\nLast-Modified: Tue, 10 Nov 2026 20:48:33 GMT".into(),
        "0123456789".into(),
    );
    // It breaks twice, and then comes.
    door.rule("GET", "", 2, Fault::AnswerWith(206, "Content-Range: bytes 0-9/10\r\nETag: \"t\"\r\nLast-Modified: Tue, 10 Nov 2026 20:48:33 GMT\r\nX: y".into(), "0123".into()));
    door.rule("GET", "", 1, whole);
    let read = store.get_range("x", 0..10, "\"t\"").await;
    assert_eq!(read.unwrap().as_deref(), Some(b"0123456789" as &[u8]));
    assert_eq!(door.count("GET", ""), 3);
}

#[tokio::test]
async fn what_is_read_as_a_whole_and_is_too_large_is_told_by_its_size_and_not_read() {
    let (door, store, _folder) = open().await;
    let header = "ETag: \"t\"\r\nLast-Modified: Tue, 10 Nov 2026 20:48:33 GMT";
    let size = usize::try_from(GET_MAX_BYTES).unwrap() + 1;
    let huge = Fault::AnswerWith(200, header.into(), "x".repeat(size));
    door.rule("GET", "", 1, huge);
    let trouble = store.get("mark").await.unwrap_err();
    says(&trouble, Kind::Refused, "mark has 67108865 bytes");
    assert_eq!(door.count("GET", ""), 1, "another try would be as large");
}

#[tokio::test]
async fn a_missing_credentials_file_and_a_wrong_authority_are_said_before_anything_is_asked() {
    let (door, store, folder) = open().await;
    std::fs::remove_file(folder.path().join("s3-credentials")).unwrap();
    let trouble = store.head("x").await.unwrap_err();
    says(&trouble, Kind::Refused, "s3-credentials\" cannot be read");
    assert!(door.seen().is_empty());
    let mut place = store.place().clone();
    place.ca = Some(folder.path().join("none.pem"));
    let Err(trouble) = Store::open(&place) else {
        panic!("it was taken");
    };
    says(&trouble, Kind::Refused, "s3.ca");
    std::fs::write(folder.path().join("none.pem"), "no PEM").unwrap();
    assert!(Store::open(&place).is_err());
}
